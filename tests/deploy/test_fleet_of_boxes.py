"""Three machines with real systemd and sshd: what make deploy does to them, and what it does when something goes wrong."""

import contextlib
import json
import os
import re
import subprocess
import threading
import time

import pytest
from boxes import Box, base_tree, require_boxes
from conftest import ROOT, build_or_skip
from needs import require
from variants import variant

TOOLS = ROOT / ".venv-deploy" / "bin" / "python"
TARGET = "cp311-x86_64"
PORT_PAGE = 8080
# One thread and ten small pictures a second: three services and this test share two cores.
SETTINGS = {
    "camera.source": "test://?faces=2",
    "camera.width_px": 640,
    "camera.height_px": 360,
    "camera.rate_hz": 10,
    "detector.threads": 1,
    "display.kind": "web",
}
CLI = "edge_app/cli.py"
RUN = "def run(options: argparse.Namespace) -> int:\n"
DETECT = "edge_app/detector.py"


class Fleet:
    """Boxes, and the laptop that deploys to them."""

    def __init__(self, boxes, folder):
        self.boxes = boxes
        self.folder = folder
        self.inventory = folder / "fleet.yaml"
        self.known_hosts = folder / "known_hosts"
        hosts = {box.name: {"address": box.address} for box in boxes}
        hosts["gone"] = {
            "address": "10.77.60.99"
        }  # nobody has it, and the cable it would be at is ours
        defaults = {
            "user": "root",
            "key": str(boxes[0].key),
            "known_hosts": str(self.known_hosts),
            "health_s": 7,
            "start_s": 40,
            "rate_hz": 0.5,
            "settings": SETTINGS,
        }
        self.inventory.write_text(
            json.dumps({"defaults": defaults, "hosts": hosts})
        )  # JSON is YAML
        self.accept_host_keys()

    def accept_host_keys(self):
        """What ``ssh`` does when it is answered yes."""
        scan = ["ssh-keyscan", "-t", "ed25519"] + [box.address for box in self.boxes]
        keys = subprocess.run(scan, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        self.known_hosts.write_bytes(keys.stdout)

    def start(self, command, *arguments):
        """Begin a command of the laptop; a process whose output is a pipe."""
        line = [str(TOOLS), "-m", "deploy.fleet", command, "--inventory", str(self.inventory)]
        return subprocess.Popen(
            line + [str(argument) for argument in arguments],
            cwd=str(ROOT),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            start_new_session=True,
        )

    def do(self, command, *arguments, timeout_s=240):
        """Run a command of the laptop to its end; (exit status, what it said)."""
        process = self.start(command, *arguments)
        output = process.communicate(timeout=timeout_s)[0]
        return process.returncode, output

    def deploy(self, release, *boxes, **options):
        """Deploy an archive to some boxes, all at once; (exit status, what was said)."""
        names = [getattr(box, "name", box) for box in boxes]
        return self.do("deploy", "--canary", 0, "--release", release, *names, **options)


def current(box):
    return box.run("readlink /opt/edge-app/current").stdout.strip().replace("releases/", "")


def show(box, name):
    return box.run("systemctl show --value -p {} edge-app".format(name)).stdout.strip()


def result(output, box):
    """The word of the table's line of a box: deployed, unchanged, ..."""
    lines = [
        line for line in output.splitlines() if re.match(re.escape(box.name) + r"\s{2,}", line)
    ]
    return re.split(r"\s{2,}", lines[-1])[1]


def sees_faces(box):
    """Whether the service in a box finds faces within ten seconds, as its own page tells."""
    script = "import json,urllib.request as u;print(u.urlopen('http://127.0.0.1:{}/api/status').read().decode())"
    for _ in range(20):
        said = box.run('python3 -c "{}"'.format(script.format(PORT_PAGE)), check=False)
        if said.returncode == 0 and json.loads(said.stdout)["faces"]:
            return True
        time.sleep(0.5)
    return False


def wait_until(condition, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen within {} s".format(timeout_s)
        time.sleep(0.2)


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """Archives by name: 1.0.0 to 1.2.0 work, the others fail in ways of their own."""
    require(TOOLS.exists(), ".venv-deploy (sh deploy/tools.sh python3 .venv-deploy)")
    require_boxes()
    folder = tmp_path_factory.mktemp("releases")
    good = build_or_skip(TARGET, folder, "1.0.0")
    edits = {
        "1.1.0": [],
        "1.2.0": [],
        "1.3.0": [],
        "1.4.0-crashes": [(CLI, RUN, RUN + '    raise SystemExit("a release that crashes")\n')],
        "1.4.0-hangs": [(CLI, RUN, RUN + "    time.sleep(1e6)\n")],
        "1.4.0-blind": [(DETECT, "return Detections(boxes", "return Detections.empty()  # (boxes")],
        "1.4.0-stops": [
            (
                CLI,
                "    display.show(picture",
                "    picture.result.frame.number > 5 and time.sleep(1e6)\n    display.show(picture",
            )
        ],
        "1.4.0-strict": [
            ("edge_app/config.py", "rate_hz: float = 30.0\n", "speed_hz: float = 30.0\n")
        ],
    }
    found = {name: variant(good, name, folder, edit) for name, edit in edits.items()}
    found["1.0.0"] = good
    return found


@pytest.fixture(scope="module")
def fleet(releases, tmp_path_factory):
    """Three boxes on which 1.0.0 was deployed for the first time; its outcome is in ``first``."""
    tree = base_tree()
    with contextlib.ExitStack() as stack:
        boxes = [stack.enter_context(Box("dep{}".format(i), 60 + i, tree)) for i in range(3)]
        fleet = Fleet(boxes, tmp_path_factory.mktemp("laptop"))
        fleet.first = fleet.deploy(releases["1.0.0"], *boxes)
        yield fleet


def test_a_fresh_machine_becomes_a_device(fleet):
    status, output = fleet.first
    assert status == 0, output
    for box in fleet.boxes:
        assert result(output, box) == "deployed"
        assert current(box) == "1.0.0"
        assert show(box, "ActiveState") == "active" and show(box, "User") == "edge-app"
        assert sees_faces(box)
        assert (
            box.run("stat -c '%U:%G %a' /etc/edge-app/edge-app.yaml").stdout.strip()
            == "root:edge-app 640"
        )
        assert box.run("systemctl is-enabled edge-app").stdout.strip() == "enabled"


def test_a_second_run_changes_nothing(fleet, releases):
    listing = (
        "find /opt/edge-app /etc/edge-app /etc/systemd/system -printf '%p %T@ %i %l\\n' | sort"
    )
    before = [(box.run(listing).stdout, show(box, "MainPID")) for box in fleet.boxes]
    status, output = fleet.deploy(releases["1.0.0"], *fleet.boxes)
    assert status == 0, output
    assert [result(output, box) for box in fleet.boxes] == ["unchanged"] * 3
    after = [(box.run(listing).stdout, show(box, "MainPID")) for box in fleet.boxes]
    assert after == before


def test_an_upgrade_sends_what_is_new_and_keeps_the_configuration(fleet, releases):
    box = fleet.boxes[0]
    box.run("echo '# mine' >>/etc/edge-app/edge-app.yaml")
    config = box.run("cat /etc/edge-app/edge-app.yaml").stdout
    status, output = fleet.deploy(releases["1.1.0"], box)
    assert status == 0, output
    assert current(box) == "1.1.0"
    assert box.run("readlink /opt/edge-app/previous").stdout.strip() == "releases/1.0.0"
    assert box.run("cat /etc/edge-app/edge-app.yaml").stdout == config
    sent_mb = float(re.search(r"dep0 +deployed +1\.1\.0 +[\d.]+ +\d+ +([\d.]+)", output).group(1))
    assert sent_mb < 2.0
    assert sees_faces(box)


@pytest.mark.parametrize(
    "index, name, words",
    [
        (0, "1.4.0-crashes", "a release that crashes"),
        (1, "1.4.0-hangs", "no frame within"),
        (2, "1.4.0-stops", "it has not looked at a frame"),
    ],
)
def test_a_bad_release_is_rolled_back(bad_deploys, fleet, index, name, words):
    box = fleet.boxes[index]
    before, status, output = bad_deploys[name]
    assert status == 1
    assert result(output, box) == "rolled back", output
    assert words in output, output
    assert current(box) == before
    assert show(box, "ActiveState") == "active"
    assert box.name in output.splitlines()[-1] or "not on 1 of 1: " + box.name in output


@pytest.fixture(scope="module")
def bad_deploys(fleet, releases):
    """The outcomes of three bad releases, deployed at the same time: they mostly wait."""
    found = {}

    def deploy(box, name):
        before = current(box)
        found[name] = (before,) + fleet.do(
            "deploy", "--release", releases[name], "--start-s", 12, box.name
        )

    names = ["1.4.0-crashes", "1.4.0-hangs", "1.4.0-stops"]
    threads = [threading.Thread(target=deploy, args=pair) for pair in zip(fleet.boxes, names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize(
    "name, words",
    [
        ("1.4.0-blind", "finds no face in its own portrait"),
        ("1.4.0-strict", "camera.rate_hz"),
    ],
)
def test_a_release_that_detects_nothing_or_refuses_the_configuration_is_never_switched_to(
    fleet, releases, name, words
):
    box = fleet.boxes[0]
    before, pid = current(box), show(box, "MainPID")
    status, output = fleet.deploy(releases[name], box)
    assert status == 1 and words in output, output
    assert current(box) == before
    assert show(box, "MainPID") == pid, "the old release was disturbed"
    assert name not in box.run("ls /opt/edge-app/releases").stdout


def test_a_device_that_is_down_is_told_and_the_others_go_live(fleet, releases):
    status, output = fleet.deploy(releases["1.1.0"], fleet.boxes[1], "gone")
    assert status == 1
    assert result(output, fleet.boxes[1]) == "deployed", output
    assert re.search(r"^gone +unreachable", output, re.M)
    assert "not on 1 of 2: gone" in output


def test_a_host_key_that_is_not_known_is_refused(fleet):
    fleet.known_hosts.write_text("")
    try:
        status, output = fleet.do("status", "dep2")
    finally:
        fleet.accept_host_keys()
    assert status == 1 and "ssh root@10.77.62.2" in output and "not known" in output


def test_a_full_disk_is_noticed_before_anything_travels(fleet, releases):
    box = fleet.boxes[2]
    before = current(box)
    box.run("mount -t tmpfs -o size=40m tmpfs /opt/edge-app")
    try:
        status, output = fleet.deploy(releases["1.1.0"], box)
    finally:
        box.run("umount /opt/edge-app")
    assert status == 1 and "the disk is too full" in output, output
    assert result(output, box) == "refused"
    assert current(box) == before and show(box, "ActiveState") == "active"


def test_a_deploy_whose_laptop_dies_is_finished_by_the_device(fleet, releases):
    box = fleet.boxes[0]
    process = fleet.start("deploy", "--release", releases["1.2.0"], box.name)
    wait_until(lambda: box.run("pgrep -f 1.2.0/rehearse.py", check=False).returncode == 0, 60)
    os.killpg(process.pid, 9)
    process.communicate()
    wait_until(lambda: current(box) == "1.2.0", 60)
    wait_until(
        lambda: "busy=\n" in box.run("sh /opt/edge-app/current/activate.sh status").stdout, 60
    )
    assert show(box, "ActiveState") == "active"
    status, output = fleet.deploy(releases["1.2.0"], box)
    assert status == 0 and result(output, box) == "unchanged", output


def test_of_two_deploys_at_once_one_is_told_to_wait(fleet, releases):
    box = fleet.boxes[1]
    first = fleet.start("deploy", "--release", releases["1.2.0"], box.name)
    wait_until(lambda: box.run("pgrep -f 1.2.0/rehearse.py", check=False).returncode == 0, 60)
    status, output = fleet.deploy(releases["1.3.0"], box)
    assert status == 1 and result(output, box) == "busy", output
    assert "another deploy is at work" in output
    said = first.communicate(timeout=120)[0]
    assert first.returncode == 0, said
    assert current(box) == "1.2.0"


def test_rollback_by_hand_and_back_again(fleet):
    box = fleet.boxes[1]
    now, before = current(box), box.run("readlink /opt/edge-app/previous").stdout.strip()
    status, output = fleet.do("rollback", box.name)
    assert status == 0, output
    assert "releases/" + current(box) == before
    status, output = fleet.do("rollback", "--to", now, box.name)
    assert status == 0, output
    assert current(box) == now and sees_faces(box)


def test_a_rollback_to_what_is_not_there_says_what_is(fleet):
    status, output = fleet.do("rollback", "--to", "9.9.9", "dep1")
    assert status == 1 and "no release 9.9.9" in output and "1.2.0" in output


def test_three_releases_stay_and_packages_are_shared(fleet, releases):
    box = fleet.boxes[0]
    status, output = fleet.deploy(releases["1.3.0"], box)
    assert status == 0, output
    assert box.run("ls /opt/edge-app/releases").stdout.split() == ["1.1.0", "1.2.0", "1.3.0"]
    assert len(box.run("ls /opt/edge-app/packages").stdout.split()) == 1


def test_the_release_survives_a_reboot(fleet):
    box = fleet.boxes[1]
    now = current(box)
    box.reboot()
    wait_until(
        lambda: box.run("systemctl is-active edge-app", check=False).stdout.strip() == "active", 60
    )
    assert current(box) == now and sees_faces(box)


def test_status_and_logs_of_all(fleet):
    status, output = fleet.do("status")
    assert status == 1 and "not on 1 of 4: gone" in output
    assert [result(output, box) for box in fleet.boxes] == ["answered"] * 3
    status, output = fleet.do("logs", "--lines", 5, "dep0")
    assert status == 0 and "== dep0" in output and "edge-app" in output


def test_a_canary_that_fails_keeps_the_others_out_of_it(fleet, releases):
    before = [current(box) for box in fleet.boxes]
    status, output = fleet.do(
        "deploy", "--release", releases["1.4.0-crashes"], "dep0", "dep1", "dep2"
    )
    assert status == 1
    assert [result(output, box) for box in fleet.boxes] == [
        "rolled back",
        "not tried",
        "not tried",
    ], output
    assert [current(box) for box in fleet.boxes] == before
