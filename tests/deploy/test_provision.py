"""deploy/provision.sh where something is in its way; apt, systemd and a Jetson's tools are stood in for.

Real ones: test_python36_box.py, and with the network tests/device/test_provision.py.
"""

import pytest
from conftest import ROOT
from standins import Machine

SCRIPT = ROOT / "deploy" / "provision.sh"
L4T = "# R32 (release), REVISION: 7.1, GCID: 1, BOARD: t210ref\n"
# Packages that are installed stand in state/installed; what else is in state/repository can be.
DPKG = """#!/bin/sh
for one; do grep -qxF "$one" "$STAND_INS/state/installed" && echo "install ok installed" && exit 0; done
exit 1
"""
APT = """#!/bin/sh
state=$STAND_INS/state
echo "$*" >>"$state/asked"
if [ -e "$state/locked" ]; then
  echo "E: Could not get lock /var/lib/dpkg/lock-frontend - open (11: Resource temporarily unavailable)" >&2
  sed -i 1d "$state/locked" && [ -s "$state/locked" ] || rm -f "$state/locked"
  exit 100
fi
if [ -e "$state/interrupted" ]; then
  echo "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem. " >&2
  exit 100
fi
case " $* " in *" update "*)
  [ ! -e "$state/offline" ] || echo "W: Failed to fetch http://ports.ubuntu.com/  Temporary failure resolving" >&2
  exit 0 ;;
esac
status=0
for one; do
  case $one in -* | install | *=*) continue ;; esac
  if ! grep -qxF "$one" "$state/repository"; then
    echo "E: Unable to locate package $one" >&2
    status=100
  fi
done
[ ! -e "$state/offline" ] || { echo "E: Failed to fetch http://ports.ubuntu.com/x.deb  Temporary failure resolving" >&2; status=100; }
[ $status -eq 0 ] || exit $status
for one; do case $one in -* | install | *=*) ;; *) echo "$one" >>"$state/installed" ;; esac; done
"""
SYSTEMCTL = """#!/bin/sh
state=$STAND_INS/state
echo "$*" >>"$state/systemctl"
case "$*" in
is-enabled*) [ -e "$state/enabled" ] ;;
enable*) touch "$state/enabled" ;;
start*) [ ! -e "$state/broken" ] ;;
esac
"""
ALL = (
    "python3 python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gir1.2-gst-rtsp-server-1.0 "
    "gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav "
    "gstreamer1.0-plugins-ugly libgomp1 python3-venv sudo util-linux python3-numpy python3-dev "
    "python3-distutils g++ libopencv-python v4l-utils python3-opencv"
).split()


class Target(Machine):
    """A machine that is to become a device; everything is there and nothing is set up."""

    def __init__(self, folder):
        super().__init__(folder)
        self.stand_in("dpkg-query", DPKG)
        self.stand_in("apt-get", APT)
        self.stand_in("dpkg", '#!/bin/sh\n[ "$*" = "--configure -a" ] && rm "$STAND_INS/state/interrupted"\n')
        self.stand_in("systemctl", SYSTEMCTL)
        self.stand_in("sleep", "#!/bin/sh\nexec /bin/sleep 0.01\n")
        self.stand_in("sync", "#!/bin/sh\n")
        self.stand_in("swapon", '#!/bin/sh\necho "$1" >>"$STAND_INS/state/swapon"\n')
        self.have(installed=ALL, repository=ALL)
        (self.folder / "meminfo").write_text("SwapTotal: 10 kB\n")
        self.fstab = self.root / "etc/fstab"
        self.fstab.write_text("/dev/root / ext4 defaults 0 1\n")
        self.swap = self.root / "var/swap.edge-app"
        self.swap.parent.mkdir()

    def have(self, **names):
        """Which packages are ``installed`` or in the ``repository``."""
        for name, packages in names.items():
            (self.state / name).write_text("".join(one + "\n" for one in packages))

    def without(self, *packages):
        self.have(installed=[one for one in ALL if one not in packages])

    def be_a_nano(self):
        """NVIDIA's tools, all well; pycuda was built before."""
        self.stand_in("nvpmodel", "#!/bin/sh\necho 0\n")
        self.stand_in("jetson_clocks", "#!/bin/sh\n")
        (self.root / "etc/nv_tegra_release").write_text(L4T)
        nvcc = self.folder / "cuda/bin/nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text("#!/bin/sh\necho release 10.2\n")
        nvcc.chmod(0o755)
        place = self.root / "opt/edge-app/pycuda"
        place.mkdir(parents=True)
        (self.folder / "version.sh").write_text("PATH=/usr/local/bin:/usr/bin python3 --version\n")
        (place / "complete").write_text("release 10.2 " + self.run(self.folder / "version.sh")[1])

    def provision(self, *arguments, **environment):
        """Run the script; (exit status, what it said, its last line)."""
        more = dict({"SWAP_MB": "0", "CUDA_ROOT": str(self.folder / "cuda")}, **environment)
        status, said = self.run(SCRIPT, *arguments, **more)
        return status, said, said.splitlines()[-1]


@pytest.fixture
def target(own_folder):
    return Target(own_folder)


@pytest.fixture
def nano(target):
    target.be_a_nano()
    return target


# --- packages -------------------------------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(target):
    target.without("libgomp1", "gstreamer1.0-libav")
    status, said, last = target.provision()
    assert status == 0 and "changed: installed libgomp1" in said and last.startswith("DONE"), said
    status, said, last = target.provision()
    assert status == 0 and last.startswith("UNCHANGED"), said


def test_a_lock_that_somebody_holds_is_waited_for(target):
    target.without("libgomp1")
    (target.state / "locked").write_text("for\nthree\ntimes\n")
    status, said, _ = target.provision()
    assert status == 0 and "changed: installed libgomp1" in said, said
    assert "waiting" in said


def test_a_lock_that_is_never_let_go_is_a_failure_with_apts_own_words(target):
    target.without("libgomp1", "gstreamer1.0-libav")
    (target.state / "locked").write_text("again\n" * 1000)
    status, said, last = target.provision(LOCK_S="1")
    assert status == 1 and "E: Could not get lock /var/lib/dpkg/lock-frontend" in said, said
    assert last.startswith("FAILED: ") and "libgomp1" in last and "gstreamer1.0-libav" in last
    assert "not to be had here" not in said
    assert "changed: wrote /etc/systemd/journald.conf.d/edge-app.conf" in said, "the rest is done"


def test_what_this_system_does_not_know_costs_nothing(target):
    target.have(repository=[one for one in ALL if one != "gstreamer1.0-plugins-ugly"])
    target.without("gstreamer1.0-plugins-ugly", "libgomp1")
    status, said, _ = target.provision()
    assert status == 0 and "not to be had here: gstreamer1.0-plugins-ugly" in said, said
    assert "changed: installed libgomp1" in said


def test_a_package_that_everything_needs_and_nobody_has_is_a_failure(target):
    target.have(repository=[one for one in ALL if one != "python3-gi"])
    target.without("python3-gi")
    status, said, last = target.provision()
    assert status == 1 and "python3-gi" in last and "E: Unable to locate package python3-gi" in said


def test_without_a_network_nothing_is_said_not_to_be_had(target):
    """The lists are old or empty then: a name that apt does not know may well be in the new ones."""
    target.have(repository=[])
    target.without("gstreamer1.0-plugins-ugly")
    (target.state / "offline").touch()
    status, said, last = target.provision()
    assert status == 1 and "gstreamer1.0-plugins-ugly" in last, said
    assert "Temporary failure resolving" in said and "not to be had here" not in said


def test_an_installation_that_a_power_cut_has_interrupted_goes_on(target):
    target.without("libgomp1")
    (target.state / "interrupted").touch()
    status, said, _ = target.provision()
    assert status == 0 and "changed: installed libgomp1" in said, said


# --- steps that were cut short -----------------------------------------------------------------------------------------------


def swap_of(target, **more):
    status, said, last = target.provision("swap", SWAP_MB="64", **more)
    assert status == 0, said
    lines = target.fstab.read_text().splitlines()
    assert lines[0] == "/dev/root / ext4 defaults 0 1"
    assert len([line for line in lines if line.startswith("/var/swap.edge-app ")]) == 1, lines
    assert target.said("swapon")
    with open(str(target.swap), "rb") as file:
        file.seek(4086)
        assert file.read(10) == b"SWAPSPACE2"
    return last


def test_a_swap_file_is_made_once(nano):
    swap_of(nano)
    assert nano.swap.stat().st_size == 64 << 20 and nano.swap.stat().st_mode & 0o777 == 0o600
    assert swap_of(nano).startswith("UNCHANGED")


def test_a_swap_file_that_was_cut_short_is_finished(nano):
    nano.swap.with_suffix(".edge-app.new").write_bytes(b"half of it")
    swap_of(nano)
    assert not nano.swap.with_suffix(".edge-app.new").exists()


def test_a_swap_file_without_its_line_in_fstab_gets_it(nano):
    swap_of(nano)
    nano.fstab.write_text("/dev/root / ext4 defaults 0 1\n")
    (nano.folder / "meminfo").write_text("SwapTotal: 9000000 kB\n")  # it is in use
    swap_of(nano)


def test_a_swap_file_that_an_older_version_left_without_its_header_gets_that(nano):
    nano.swap.write_bytes(bytes(64 << 20))
    nano.stand_in("swapon", '#!/bin/sh\ngrep -q SWAPSPACE2 "$1" && echo "$1" >>"$STAND_INS/state/swapon"\n')
    swap_of(nano)


def test_a_machine_with_swap_of_its_own_gets_no_more(nano):
    (nano.folder / "meminfo").write_text("SwapTotal: 9000000 kB\n")
    status, said, last = nano.provision("swap", SWAP_MB="64")
    assert status == 0 and last.startswith("UNCHANGED") and not nano.swap.exists(), said


def test_a_unit_that_was_written_and_not_enabled_is_enabled_by_the_next_run(nano):
    assert nano.provision()[0] == 0
    (nano.state / "enabled").unlink()
    status, said, last = nano.provision()
    assert status == 0 and (nano.state / "enabled").exists() and last.startswith("DONE"), said
    assert nano.provision()[2].startswith("UNCHANGED")


def test_clocks_that_cannot_be_held_are_named_and_the_rest_is_done(nano):
    (nano.state / "broken").touch()
    status, said, last = nano.provision(SWAP_MB="64")
    assert status == 1 and last.startswith("FAILED: ") and "jetson_clocks" in last, said
    assert nano.swap.exists() and (nano.state / "enabled").exists()


def test_a_power_mode_that_cannot_be_set_is_named_and_the_rest_is_done(nano):
    nano.stand_in("nvpmodel", "#!/bin/sh\n[ $1 = -q ] && echo 1\n")
    status, said, last = nano.provision(SWAP_MB="64")
    assert status == 1 and "nvpmodel" in last, said
    assert nano.swap.exists()
