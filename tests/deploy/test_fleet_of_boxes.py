"""Three machines with real systemd and sshd: what make deploy does to them, and what it does when something goes wrong."""

import contextlib
import os
import re
from multiprocessing.pool import ThreadPool

import pytest
from boxes import Box, base_tree, require_boxes
from conftest import build_or_skip
from laptop import TOOLS, Laptop, current, result, sees_faces, show, wait_until
from needs import require
from variants import variant

TARGET = "cp311-x86_64"
CLI = "edge_app/cli.py"
RUN = "def run(options: argparse.Namespace) -> int:\n"
DETECT = "edge_app/detector.py"
REHEARSED = "    release, path, engines = sys.argv[1:] if arguments is None else arguments\n"
BUILT = "    open(os.path.join(engines, 'network.engine'), 'w').write('{}')\n"
ENGINES = "/var/lib/edge-app/engines"


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
        # Stands in for a TensorRT that builds an engine: the rehearsal leaves a file where engines go.
        "1.5.0-builds": [("rehearse.py", REHEARSED, REHEARSED + BUILT.format("fifth"))],
        "1.6.0-builds": [
            ("rehearse.py", REHEARSED, REHEARSED + BUILT.format("sixth")),
            (CLI, RUN, RUN + '    raise SystemExit("a release that crashes")\n'),
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
        fleet = Laptop(boxes, tmp_path_factory.mktemp("laptop"))
        fleet.first = fleet.deploy(releases["1.0.0"], *boxes)
        yield fleet
        with ThreadPool(len(boxes)) as pool:  # each takes its time to power off
            pool.map(Box.close, boxes)


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


def test_the_running_release_stays_when_it_is_deployed_again_without_a_camera(fleet, releases):
    box, config = fleet.boxes[2], "/etc/edge-app/edge-app.yaml"
    box.run("cp -p {0} /var/tmp/ && sed -i 's|source: .*|source: v4l2:///dev/video9|' {0}".format(config))
    box.run("systemctl restart --no-block edge-app")
    wait_until(lambda: "waiting for camera" in show(box, "StatusText"))
    pid = show(box, "MainPID")
    status, output = fleet.deploy(releases["1.0.0"], box)
    box.run("cp -p /var/tmp/edge-app.yaml {}".format(config))
    assert status == 0 and result(output, box) == "unchanged", output
    assert "waits for its camera" in output
    assert current(box) == "1.0.0" and show(box, "MainPID") == pid
    box.run("systemctl restart edge-app")
    assert sees_faces(box)


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
    assert "deploy: not on 1 of 1: " + box.name in output


@pytest.fixture(scope="module")
def bad_deploys(fleet, releases):
    """The outcomes of three bad releases, deployed at the same time: they mostly wait."""
    found = {}

    def deploy(pair):
        box, name = pair
        before = current(box)
        said = fleet.do("deploy", "--release", releases[name], "--start-s", 15, box.name)
        found[name] = (before,) + said

    names = ["1.4.0-crashes", "1.4.0-hangs", "1.4.0-stops"]
    with ThreadPool(len(names)) as pool:
        pool.map(deploy, list(zip(fleet.boxes, names)))
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
    assert result(output, box) == "refused", output
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
    assert status == 1 and "ssh root@" + fleet.boxes[2].address in output and "not known" in output


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


_CUT = """p=$(pgrep -x tail)
while [ "$(ps -o comm= -p $p)" != sshd ]; do p=$(ps -o ppid= -p $p | tr -d ' '); done
kill $p"""  # the server's end of the connection over which the deploy is watched


def test_a_deploy_whose_connection_is_cut_is_finished_by_the_device(fleet, releases):
    box = fleet.boxes[0]
    process = fleet.start("deploy", "--release", releases["1.3.0"], box.name)
    wait_until(lambda: box.run("pgrep -f 1.3.0/rehearse.py", check=False).returncode == 0)
    box.run(_CUT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and result(output, box) == "lost", output
    wait_until(lambda: current(box) == "1.3.0")
    wait_until(lambda: "busy=\n" in box.run("sh /opt/edge-app/current/activate.sh status").stdout)
    assert show(box, "ActiveState") == "active"


def test_three_releases_stay_and_packages_are_shared(fleet):
    box = fleet.boxes[0]
    assert box.run("ls /opt/edge-app/releases").stdout.split() == ["1.1.0", "1.2.0", "1.3.0"]
    assert len(box.run("ls /opt/edge-app/packages").stdout.split()) == 1


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


def test_an_engine_is_built_before_the_switch_and_goes_back_with_its_release(fleet, releases):
    box = fleet.boxes[2]

    def engine():
        return box.run("cat {}/network.engine".format(ENGINES), check=False).stdout

    status, output = fleet.deploy(releases["1.5.0-builds"], box)
    assert status == 0, output
    assert engine() == "fifth"
    status, output = fleet.deploy(releases["1.6.0-builds"], box)
    assert status == 1 and result(output, box) == "rolled back", output
    assert engine() == "fifth" and current(box) == "1.5.0-builds"
    assert box.run("ls {0} {0}/previous".format(ENGINES)).stdout.split()[1:] == [
        "network.engine",
        "previous",
        ENGINES + "/previous:",
    ], "1.0.0, the one before, has none"
    status, output = fleet.do("rollback", box.name)
    assert status == 0 and current(box) == "1.0.0", output


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
