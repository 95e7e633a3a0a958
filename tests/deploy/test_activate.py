"""deploy/activate.sh with everything real but systemd and the program: what becomes of releases, configuration, engines.

The releases are folders with next to nothing in them. With real ones, under real systemd: test_fleet_of_boxes.py.
"""

import os
import shutil
import subprocess
import tarfile

import pytest
from conftest import ROOT
from standins import Machine

SCRIPT = ROOT / "deploy" / "activate.sh"
# In place of systemd: a release whose name stands in "waiting" starts and has no camera, one in "dying" ends at once.
SYSTEMCTL = """#!/bin/sh
here=$STAND_INS/state
current() { basename "$(readlink "$EDGE_APP_ROOT/opt/edge-app/current")"; }
is() { current | grep -qxf "$here/$1" 2>/dev/null; }
active=active sub=running result=success restarts=0 job=''
text="camera 30 fps, detect $(tr -dc 1-9 </proc/sys/kernel/random/uuid | head -c 2).5 fps"
if is waiting; then
  active=activating sub=start job=7
  text=$(cat "$here/text" 2>/dev/null || echo waiting for camera: no camera)
fi
if is dying; then active=activating sub=auto-restart result=exit-code restarts=3 text=; fi
[ ! -e "$here/stopped" ] || active=inactive sub=dead
case "$*" in
--version) echo systemd 237 ;;
"show --value -p ActiveState "*) echo $active ;;
"show --value -p SubState "*) echo $sub ;;
"show --value -p Result "*) echo $result ;;
"show --value -p NRestarts "*) echo $restarts ;;
"show --value -p Job "*) echo $job ;;
"show --value -p StatusText "*) echo "$text" ;;
"show --value -p WatchdogTimestampMonotonic "*) cat /proc/sys/kernel/random/uuid ;;
"stop edge-app.service") : >"$here/stopped" ;;
"restart --no-block edge-app.service") rm -f "$here/stopped"; current >>"$here/started" ;;
esac
exit 0
"""
# The rehearsal runs as root here: the service's user cannot read a folder of tests.
RUNUSER = '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n'
# What a rehearsal leaves and says: an engine of its own network, unless one is there, and what it thinks of the settings.
REHEARSAL = """#!/bin/sh
release=$2 config=$3 engines=$4
grep -q typo "$config" && { echo "typo: unknown setting"; exit 78; }
grep -q '^blind' "$release/network" && { echo "finds no face"; exit 70; }
echo "$(basename "$release")" >>"$STAND_INS/state/rehearsed"
if ! cmp -s "$release/network" "$engines/network.engine"; then
  cp "$release/network" "$engines/network.engine"
  echo "$(basename "$release")" >>"$STAND_INS/state/built"
fi
echo "found 1 faces"
"""
# Notes what of the configuration a power cut would leave from here on; nobody waits for a disk.
SYNC = """#!/bin/sh
cd "$EDGE_APP_ROOT/etc/edge-app" && grep -H . * >>"$STAND_INS/state/synced"
exit 0
"""


class Device(Machine):
    """A folder that activate.sh takes for the root of a device."""

    def __init__(self, folder):
        super().__init__(folder)
        self.base = self.root / "opt/edge-app"
        self.config = self.root / "etc/edge-app/edge-app.yaml"
        self.engines = self.root / "var/lib/edge-app/engines"
        self.stand_in("systemctl", SYSTEMCTL)
        self.stand_in("journalctl", "#!/bin/sh\necho what it said last\n")
        self.stand_in("runuser", RUNUSER)
        self.stand_in("sleep", "#!/bin/sh\nexec /bin/sleep 0.05\n")
        self.stand_in("sync", SYNC)
        (self.base / "packages/p1").mkdir(parents=True)
        (self.base / "packages/p1/complete").touch()

    def say(self, **states):
        """Which releases are ``waiting`` or ``dying``, as names with blanks between them."""
        for name, releases in states.items():
            (self.state / name).write_text("".join(one + "\n" for one in releases.split()))

    def release(self, name, network):
        """Put a release there as a deploy leaves it; the path of its archive."""
        place = self.base / "releases" / name
        for folder in ("systemd", "config", "venv/bin"):
            (place / folder).mkdir(parents=True, exist_ok=True)
        (place / "network").write_text(network + "\n")
        (place / "systemd/edge-app.service").write_text("[Unit]\n")
        (place / "config/edge-app.yaml").write_text("of: release\n")
        version = subprocess.check_output(
            ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        )
        lines = ["name=" + name, "python=" + version.decode().strip()]
        lines += ["machine=" + os.uname().machine, "packages=p1", "kib=10", "packages_kib=10"]
        (place / "release").write_text("\n".join(lines) + "\n")
        files = "release network config/edge-app.yaml systemd/edge-app.service".split()
        sums = subprocess.check_output(["sha256sum"] + files, cwd=str(place))
        (place / "manifest").write_bytes(sums)
        (place / "venv/bin/python").write_text(REHEARSAL)
        (place / "venv/bin/python").chmod(0o755)
        (place / "complete").touch()
        path = self.folder / (name + ".tar")
        with tarfile.open(str(path), "w") as tar:
            for file in files + ["manifest"]:
                tar.add(str(place / file), file)
        return path

    def run(self, *arguments, **environment):
        """Run activate.sh; (exit status, what it said)."""
        limits = dict({"START_S": "1", "HEALTH_S": "1"}, **environment)
        return super().run(SCRIPT, *arguments, **limits)

    def deploy(self, *arguments, **environment):
        """Install an archive that must become the current one."""
        status, said = self.run("_install", *arguments, **environment)
        assert status == 0, said
        return said

    def link(self, name):
        """What current or previous is; empty when there is none."""
        path = self.base / name
        return os.path.basename(os.readlink(str(path))) if path.is_symlink() else ""

    def engine(self, folder="."):
        """The network that the engine of the current release, or of the one before, was built of."""
        path = self.engines / folder / "network.engine"
        return path.read_text().strip() if path.exists() else ""


@pytest.fixture
def device(own_folder):
    return Device(own_folder)


# --- the release that runs already ------------------------------------------------------------------------------------


def test_the_only_release_stays_when_it_is_deployed_again_without_a_camera(device):
    archive = device.release("1-A", "old")
    device.deploy(archive)
    device.say(waiting="1-A")
    status, said = device.run("_install", archive)
    assert (status, said.splitlines()[-1]) == (0, "UNCHANGED: 1-A runs and waits for its camera")
    assert said.splitlines()[-3:-1] == ["release=1-A", "rate=0"]
    assert device.link("current") == "1-A" and not (device.state / "stopped").exists()
    assert device.said("started") == ["1-A"], "it was disturbed"


def test_the_newer_of_two_stays_when_it_is_deployed_again_without_a_camera(device):
    device.deploy(device.release("1-A", "old"))
    archive = device.release("2-B", "new")
    device.deploy(archive)
    device.say(waiting="1-A 2-B")
    assert device.run("_install", archive)[0] == 0
    assert (device.link("current"), device.link("previous")) == ("2-B", "1-A")
    assert (device.base / "releases/2-B/complete").exists()
    assert (device.engine(), device.engine("previous")) == ("new", "old")


def test_a_start_that_waits_for_more_than_its_camera_is_not_taken_for_unchanged(device):
    archive = device.release("1-A", "old")
    device.deploy(archive)
    device.say(waiting="1-A")
    (device.state / "text").write_text("waiting for camera: none, waiting for detector: engine")
    status, said = device.run("_install", archive)
    assert status == 1 and "FAILED: 1-A still runs" in said, said
    assert device.link("current") == "1-A" and not (device.state / "stopped").exists()


def test_a_running_release_that_fails_again_is_told_and_stays(device):
    device.deploy(device.release("1-A", "old"))
    archive = device.release("2-B", "new")
    device.deploy(archive)
    device.say(dying="2-B")
    status, said = device.run("_install", archive)
    assert status == 1 and "FAILED: 2-B still runs" in said and "what it said last" in said
    assert (device.link("current"), device.link("previous")) == ("2-B", "1-A")


# --- configuration --------------------------------------------------------------------------------------------------------


def offered(device, text):
    """A configuration that comes with a deploy."""
    path = device.folder / "offered.yaml"
    path.write_text(text)
    return path


def test_a_configuration_that_does_not_pass_the_rehearsal_is_not_kept(device):
    archive = device.release("1-A", "old")
    status, said = device.run("_install", archive, offered(device, "typo: 1\n"))
    assert status == 2 and "typo: unknown setting" in said, said
    assert os.listdir(str(device.config.parent)) == []
    device.release("1-A", "old")
    device.deploy(archive, offered(device, "right: 1\n"))
    assert device.config.read_text() == "right: 1\n"


def test_one_that_was_put_there_for_a_release_that_then_failed_is_replaced_by_the_next(device):
    device.say(dying="1-A")
    archive = device.release("1-A", "old")
    status, said = device.run("_install", archive, offered(device, "camera: of the neighbour\n"))
    assert status == 3, said
    device.say(dying="")
    device.release("1-A", "old")
    device.deploy(archive, offered(device, "camera: mine\n"))
    assert device.config.read_text() == "camera: mine\n"


def test_a_configuration_that_somebody_has_edited_stays_whatever_fails(device):
    device.say(dying="1-A")
    archive = device.release("1-A", "old")
    device.run("_install", archive, offered(device, "camera: 1\n"))
    device.config.write_text("camera: 2\n")
    device.say(dying="")
    device.release("1-A", "old")
    said = device.deploy(archive, offered(device, "camera: 3\n"))
    assert device.config.read_text() == "camera: 2\n"
    assert device.config.with_suffix(".yaml.new").read_text() == "camera: 3\n"
    assert "beside it" in said


def test_of_a_running_release_the_configuration_stays_and_the_new_one_lies_beside_it(device):
    device.deploy(device.release("1-A", "old"), offered(device, "camera: 1\n"))
    device.deploy(device.release("2-B", "old"), offered(device, "camera: 2\n"))
    assert device.config.read_text() == "camera: 1\n"
    assert device.config.with_suffix(".yaml.new").read_text() == "camera: 2\n"

def test_what_a_running_release_lacks_is_put_back(device):
    archive = device.release("1-A", "old")
    device.deploy(archive)
    device.config.unlink()
    unit = device.root / "etc/systemd/system/edge-app.service"
    unit.unlink()
    said = device.deploy(archive)
    assert unit.exists() and device.config.read_text() == "of: release\n", said
    assert said.count("wrote ") == 1


def test_a_power_cut_leaves_no_empty_configuration(device):
    device.deploy(device.release("1-A", "old"), offered(device, "camera: 1\n"))
    synced = device.said("synced")
    first = [line for line in synced if line.endswith(":camera: 1")][0]
    assert not first.startswith("edge-app.yaml:"), "it had its name before it was on the disk"


def test_an_empty_configuration_that_a_power_cut_has_left_counts_as_none(device):
    device.deploy(device.release("1-A", "old"), offered(device, "camera: 1\n"))
    device.config.write_text("")
    device.deploy(device.release("2-B", "old"), offered(device, "camera: 1\n"))
    assert device.config.read_text() == "camera: 1\n"


# --- engines ------------------------------------------------------------------------------------------------------------


def test_a_new_release_that_fails_is_gone_back_from_with_its_engine(device):
    for name, network in (("1-A", "old"), ("2-B", "mid")):
        device.deploy(device.release(name, network))
    archive = device.release("3-C", "new")
    device.say(dying="3-C")
    status, said = device.run("_install", archive)
    assert status == 1 and "ROLLED BACK to 2-B" in said
    assert (device.link("current"), device.link("previous")) == ("2-B", "1-A")
    assert (device.engine(), device.engine("previous")) == ("mid", "old")


def test_a_running_release_that_is_deployed_again_leaves_the_engine_of_the_one_before(device):
    device.deploy(device.release("1-A", "old"))
    archive = device.release("2-B", "new")
    device.deploy(archive)
    device.say(dying="2-B")
    assert device.run("_install", archive)[0] == 1
    assert (device.engine(), device.engine("previous")) == ("new", "old")


@pytest.fixture
def three(device):
    """A device to which three releases with three networks came, one after the other."""
    for name, network in (("1-A", "old"), ("2-B", "mid"), ("3-C", "new")):
        device.deploy(device.release(name, network))
    (device.state / "built").unlink()
    return device


def test_a_rollback_to_the_release_before_takes_its_engine_and_back(three):
    assert three.run("_rollback")[0] == 0
    assert (three.link("current"), three.engine()) == ("2-B", "mid")
    assert three.run("_rollback")[0] == 0
    assert (three.link("current"), three.engine()) == ("3-C", "new")
    assert three.said("built") == []


def test_a_rollback_to_the_release_before_that_fails_costs_no_engine(three):
    three.say(dying="2-B")
    status, said = three.run("_rollback")
    assert status == 1 and "ROLLED BACK to 3-C" in said
    assert (three.link("current"), three.link("previous")) == ("3-C", "2-B")
    assert (three.engine(), three.engine("previous")) == ("new", "mid")
    assert sorted(os.listdir(str(three.engines))) == ["network.engine", "previous"]


def test_a_rollback_to_a_named_release_builds_its_engine_before_the_switch(three):
    three.say(dying="1-A")
    status, said = three.run("_rollback", "1-A")
    assert status == 1 and "ROLLED BACK to 3-C" in said
    assert three.said("built") == ["1-A"]
    assert (three.link("current"), three.link("previous")) == ("3-C", "2-B")
    assert (three.engine(), three.engine("previous")) == ("new", "mid")
    assert (three.base / "releases/1-A/complete").exists(), "it was here before"
    three.say(dying="")
    assert three.run("_rollback", "1-A")[0] == 0
    assert (three.engine(), three.engine("previous")) == ("old", "new")


def test_a_rollback_to_a_release_that_does_not_work_here_is_refused(three):
    (three.base / "releases/1-A/network").write_text("blind\n")
    status, said = three.run("_rollback", "1-A")
    assert status == 2 and "REFUSED: 1-A does not pass its rehearsal; 3-C runs as before" in said
    assert three.link("current") == "3-C" and three.said("started")[-1] == "3-C"
    assert sorted(os.listdir(str(three.engines))) == ["network.engine", "previous"]


def test_the_release_before_is_deployed_with_the_engine_it_has(three):
    shutil.copy(str(three.folder / "2-B.tar"), str(three.folder / "again.tar"))
    three.deploy(three.folder / "again.tar")
    assert (three.link("current"), three.engine()) == ("2-B", "mid")
    assert three.engine("previous") == "new"
    assert three.said("built") == []


# --- what a deploy that was cut leaves behind ---------------------------------------------------------------------------------


@pytest.fixture
def littered(device):
    """A device with a running release, and what cuts at several moments have left; 12 MB are free."""
    archive = device.release("1-A", "old")
    device.deploy(archive)
    device.release("0-half", "old")
    (device.base / "releases/0-half/complete").unlink()
    for place in ("releases/.partial/wheels", "packages/p2/.wheels"):
        (device.base / place).mkdir(parents=True)
    (device.engines / "next").mkdir()
    litter = ["releases/.partial/wheels/x", "packages/p2/.wheels/y", "releases/0-half/z"]
    for path in [device.base / one for one in litter] + [device.engines / "next/e"]:
        path.write_bytes(bytes(8 << 20))
    device.stand_in("df", "#!/bin/sh\necho Head\necho disk 1 1 $((12 * 1024)) 1% /\n")
    return device


def needs_megabytes(device, name, number):
    """Let the card of a release ask for so much room, besides the 64 MB that stay free; its path."""
    card = device.base / "releases" / name / "release"
    card.write_text(card.read_text().replace("kib=10\n", "kib={}\n".format(number * 1024), 1))
    copy = device.folder / "card"
    shutil.copy(str(card), str(copy))
    return copy


@pytest.mark.parametrize("megabytes, status", [(-29, 0), (-15, 2)])
def test_what_was_left_behind_counts_as_free(littered, megabytes, status):
    """Of 12 MB and four times 8 MB, 35 and 49 are asked for."""
    littered.release("2-B", "old")
    card = needs_megabytes(littered, "2-B", megabytes)
    shutil.rmtree(str(littered.base / "releases/2-B"))
    done = littered.run("missing", littered.base / "releases/1-A/manifest", card)
    assert done[0] == status, done
    assert (littered.base / "releases/0-half").exists(), "only who holds the lock removes anything"


def test_what_was_left_behind_is_removed_by_the_next_deploy(littered):
    littered.deploy(littered.folder / "1-A.tar")
    assert sorted(os.listdir(str(littered.base / "releases"))) == ["1-A"]
    assert os.listdir(str(littered.base / "packages")) == ["p1"]
    assert sorted(os.listdir(str(littered.engines))) == ["network.engine", "previous"]


def test_nothing_is_taken_from_what_was_left_behind(littered):
    """It will be gone when what must not be missing is unpacked."""
    manifest = littered.folder / "manifest"
    litter = littered.base / "releases/0-half/network"
    shutil.copy(str(littered.base / "releases/0-half/manifest"), str(manifest))
    littered.stand_in("df", "#!/bin/sh\nexec /bin/df \"$@\"\n")
    shutil.rmtree(str(littered.base / "releases/1-A"))
    status, said = littered.run("missing", manifest, littered.base / "releases/0-half/release")
    assert status == 0 and "network" in said.split() and litter.exists(), said


# --- clocks ---------------------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_meanwhile_does_not_end_the_start_of_a_release(device):
    """As by the time server, minutes after a Nano without a battery has booted."""
    asked = 'when=now; if [ "$1" = +%s ]; then [ ! -e "$STAND_INS/asked" ] || when=tomorrow; : >"$STAND_INS/asked"; fi'
    device.stand_in("date", '#!/bin/sh\n' + asked + '\nexec /bin/date -d $when "$@"\n')
    archive = device.release("1-A", "old")
    device.say(waiting="1-A")
    device.stand_in("sleep", '#!/bin/sh\n: >"$STAND_INS/state/waiting"\nexec /bin/sleep 0.05\n')
    device.deploy(archive, START_S="20")


# --- ends that nobody foresaw -------------------------------------------------------------------------------------------------


def test_an_end_before_the_switch_is_a_refusal_and_leaves_nothing(device):
    archive = device.release("1-A", "old")
    device.stand_in("usermod", "#!/bin/sh\necho usermod: cannot lock /etc/group\nexit 10\n")
    status, said = device.run("_install", archive)
    assert status == 2 and "usermod: cannot lock /etc/group" in said
    assert said.splitlines()[-1].startswith("REFUSED: it ended before the switch")
    assert not device.link("current") and not list(device.folder.glob("tmp.*"))


def test_what_is_no_release_leaves_nothing_either(device):
    path = device.folder / "1-A.tar"
    path.write_bytes(b"no archive")
    status, said = device.run("_install", path)
    assert (status, said.strip()) == (2, "{} is not a release: it has no manifest".format(path))
    assert not list(device.folder.glob("tmp.*"))
