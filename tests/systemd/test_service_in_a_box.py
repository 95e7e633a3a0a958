"""The real program under real systemd: every death but that of a wrong setting ends in READY, unattended.

The camera is the stand-in for a Jetson's (tests/nvstub), fed by a daemon of its own that stands in for nvargus-daemon:
it can be missing, hang, and be restarted. Times are printed (pytest -s), not judged.
"""

import time

import pytest
from box.boxes import Box, BoxError, base_tree, require_boxes
from box.release import needs_layer, program_layer

SETTINGS = """
camera: {source: "csi://0", width_px: 320, height_px: 240, rate_hz: 15}
detector: {model: /opt/edge-app/current/engines/ssd_mobilenet_v2.onnx, threads: 1}
display: {kind: auto}
"""
# As on a Jetson: the frames come from a daemon; without it there is no camera, and when it hangs there is silence.
DAEMON = """
[Service]
ExecStart=/usr/bin/gst-launch-1.0 -q videotestsrc is-live=true pattern=ball ! \
 video/x-raw,format=NV12,width=320,height=240,framerate=15/1 ! tcpserversink host=127.0.0.1 port=5600
"""
ENVIRONMENT = """
GST_PLUGIN_PATH=/opt/nvstub
NVSTUB_SCENE=tcpclientsrc host=127.0.0.1 port=5600 ! rawvideoparse format=nv12 width=320 height=240 framerate=15/1
"""
# The shipped watchdog waits for half a minute; that it is this directive that acts is the same in ten seconds.
FASTER = """
[Service]
WatchdogSec=10
TimeoutStopSec=5
RestartSec=1
"""
HOG = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # systemd clears the group, and there is something to say yet
group = "/sys/fs/cgroup/memory/system.slice/edge-app.service/"
def kills():
    with open(group + "memory.oom_control") as file:
        return int(file.read().split("oom_kill ")[1])
with open(group + "cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
before, eaten = kills(), []
while kills() == before:
    eaten.append(bytearray(1 << 20))
print("the kernel has killed", kills() - before, flush=True)
"""
# A start that takes fifteen seconds, in a unit that allows twelve.
SLOW_START = """
import os, sys, time
from edge_app.appliance.service import Notifier
from edge_app.appliance.status import Status
from edge_app.frames import Figures, Picture
status = Status()
status.waiting(sys.argv[1], sys.argv[2])
with Notifier(status, os.environ["NOTIFY_SOCKET"]) as systemd:
    for _ in range(150):
        systemd.idle()
        time.sleep(0.1)
    systemd.show(Picture(None, None, None, Figures(30.0, 30.0, 30.0, 20.0, {}, {})))
    time.sleep(600)
"""
PROPERTIES = (
    "ActiveState SubState Result MainPID NRestarts StatusText ExecMainStatus UnitFileState".split()
)
PATIENCE_S = 150.0  # for a machine that does a lot besides


@pytest.fixture(scope="module")
def box(nvstub, tmp_path_factory):
    """A box with the program installed and enabled, not yet started, and no camera."""
    require_boxes()
    tree = base_tree()
    program = program_layer(tmp_path_factory.mktemp("program"), tree)
    with Box("service", 30, tree, layers=[program, needs_layer(tree)], limits=True) as machine:
        machine.write("/etc/edge-app/edge-app.yaml", SETTINGS, mode="640")
        machine.write("/etc/edge-app/environment", ENVIRONMENT)
        machine.write("/etc/systemd/system/edge-app.service.d/test.conf", FASTER)
        machine.copy(nvstub + "/", "/opt/nvstub/")
        machine.run(
            "useradd --system --home-dir /var/lib/edge-app --shell /usr/sbin/nologin -G video edge-app"
            " && chown root:edge-app /etc/edge-app/edge-app.yaml"
            " && systemctl daemon-reload && systemctl enable --now edge-app-camera.path"
            " && systemctl enable edge-app"
        )
        yield machine


def state(box, unit="edge-app"):
    """Its properties."""
    text = box.run("systemctl show {} -p {}".format(unit, ",".join(PROPERTIES))).stdout
    return dict(line.split("=", 1) for line in text.splitlines())


def wait_until(box, holds, what="", unit="edge-app"):
    """The state for which ``holds``; ``what`` is printed with the seconds that took."""
    started = time.monotonic()
    while True:
        now = state(box, unit)
        took_s = time.monotonic() - started
        if holds(now):
            if what:
                print("{:<60}{:6.1f} s".format(what, took_s))
            return now
        if took_s > PATIENCE_S:
            units = "-u edge-app -u edge-app-camera -u nvargus-daemon -u hog"
            log = box.run("journalctl --no-pager -n 60 " + units, check=False)
            raise AssertionError("{}: {}\n{}".format(what, now, log.stdout))
        time.sleep(0.3)


def is_ready(now):
    """With Type=notify a service is active once it has said READY."""
    return (now["ActiveState"], now["SubState"]) == ("active", "running")


def wait_for_recovery(box, before, what):
    """READY again, in another process."""
    return wait_until(
        box, lambda now: is_ready(now) and now["MainPID"] not in ("0", before["MainPID"]), what
    )


def ready(box):
    """The state of a service that runs; each test begins with one."""
    return wait_until(box, is_ready)


def test_the_start_waits_for_a_camera_and_is_ready_with_its_first_frame(box):
    box.run("systemctl start --no-block edge-app")
    waits = wait_until(box, lambda now: "camera" in now["StatusText"], "start, until it waits")
    assert waits["ActiveState"] == "activating", waits
    print(waits["StatusText"])
    time.sleep(3)
    assert state(box)["ActiveState"] == "activating"
    box.write("/etc/systemd/system/nvargus-daemon.service", DAEMON)
    box.run("systemctl daemon-reload && systemctl start nvargus-daemon")
    wait_until(box, is_ready, "camera there, until READY")
    running = wait_until(box, lambda now: "fps" in now["StatusText"], "until its figures are told")
    assert running["NRestarts"] == "0", running
    print(running["StatusText"])


def test_more_time_is_given_to_a_start_that_says_what_it_waits_for(box):
    """The same start with and without a reason, at the same time."""
    box.write("/opt/slow.py", SLOW_START)
    line = "systemd-run --quiet --no-block --unit {0} -p Type=notify -p TimeoutStartSec=12 /usr/bin/env"
    line += " PYTHONPATH=$(echo /opt/edge-app/current/venv/lib/python3*/site-packages)"
    line += " /usr/bin/python3 /opt/slow.py camera {1};"
    box.run(line.format("slow-told", "away") + line.format("slow-silent", "''"))
    ended = ("active", "failed")
    wait_until(box, lambda now: now["ActiveState"] in ended, unit="slow-silent")
    wait_until(box, lambda now: now["ActiveState"] in ended, unit="slow-told")
    assert state(box, "slow-told")["ActiveState"] == "active"
    assert state(box, "slow-silent")["Result"] == "timeout"
    box.run("systemctl stop slow-told; systemctl reset-failed slow-silent")


def test_it_has_no_rights_and_little_exposure(box):
    running = ready(box)
    who = box.run("ps -o user=,group= -p {MainPID}".format(**running)).stdout.split()
    assert who == ["edge-app", "edge-app"]
    process = box.run("cat /proc/{MainPID}/status".format(**running)).stdout
    assert "CapEff:\t0000000000000000" in process and "CapBnd:\t0000000000000000" in process
    assert "NoNewPrivs:\t1" in process and "Seccomp:\t2" in process
    exposure = box.run("systemd-analyze security --no-pager edge-app | tail -1").stdout
    print(exposure.strip())
    assert float(exposure.partition("edge-app.service: ")[2].split()[0]) <= 3.0
    box.run("systemd-analyze security --no-pager --threshold=30 edge-app >/dev/null")
    units = "edge-app.service edge-app-again.timer edge-app-camera.path edge-app-camera.service"
    assert box.run("cd /etc/systemd/system && systemd-analyze verify " + units).stdout == ""


def test_it_writes_into_its_own_folders_only(box):
    """Seen from inside its own mounts, with its own user."""
    pid = ready(box)["MainPID"]
    enter = "nsenter -t {} -m setpriv --reuid edge-app --regid edge-app --clear-groups ".format(pid)
    places = "/ /etc /etc/edge-app /opt/edge-app/current/venv /var/lib /var/tmp /tmp /run /home /sys /dev/shm"
    refused = box.run(
        "for place in {}; do {} touch $place/x 2>/dev/null && echo $place; done; true".format(
            places, enter
        )
    ).stdout.split()
    assert refused == ["/dev/shm"]  # memory shared with a screen
    box.run(enter + "touch /var/lib/edge-app/x /run/edge-app/x")


def test_a_kill_ends_in_ready(box):
    before = ready(box)
    box.run("kill -9 {MainPID}".format(**before))
    after = wait_for_recovery(box, before, "kill -9, until READY")
    assert int(after["NRestarts"]) == int(before["NRestarts"]) + 1


def test_a_hang_ends_in_ready(box):
    """SIGSTOP: nothing of the program runs any more, so nothing feeds the watchdog."""
    before = ready(box)
    box.run(
        "journalctl --rotate --vacuum-time=1s >/dev/null 2>&1; kill -STOP {MainPID}".format(
            **before
        )
    )
    wait_for_recovery(box, before, "SIGSTOP, until READY (watchdog of 10 s, shipped: 30 s)")
    log = box.run("journalctl --no-pager -o cat -u edge-app").stdout
    assert "Watchdog timeout" in log and "Failed with result 'watchdog'" in log


def test_want_of_memory_ends_in_ready(box):
    """MemoryMax= for real: a hog in its group eats until the kernel kills, and what it kills first is the program."""
    before = ready(box)
    used = int(box.run("systemctl show --value -p MemoryCurrent edge-app").stdout)
    limit = "systemctl set-property --runtime edge-app MemoryMax={}"
    box.run(limit.format(used + (100 << 20)))
    box.write("/opt/hog.py", HOG)
    box.run("echo 1000 > /proc/{MainPID}/oom_score_adj".format(**before))
    box.run("systemd-run --quiet --unit hog /usr/bin/python3 /opt/hog.py")
    wait_for_recovery(box, before, "killed for want of memory, until READY")
    log = box.run("journalctl --sync; journalctl --no-pager -o cat -u hog -u edge-app").stdout
    assert "the kernel has killed 1" in log and "status=9/KILL" in log, log
    box.run(limit.format("70%"))


def test_a_reboot_ends_in_ready_unattended(box):
    """With the shipped times from here on."""
    ready(box)
    box.run("rm /etc/systemd/system/edge-app.service.d/test.conf")
    box.reboot()
    print("boot, until sshd: {:.1f} s".format(box.boot_s))
    after = wait_until(box, is_ready, "sshd after a reboot, until READY")
    assert after["NRestarts"] == "0"


def test_a_power_cut_ends_in_ready_unattended(box):
    ready(box)
    box.reboot(hard=True)
    wait_until(box, is_ready, "sshd after a power cut, until READY")


def test_a_camera_daemon_that_hangs_is_restarted_for_the_program(box):
    """The program asks, a unit of root's restarts the daemon, and the program goes on as it is."""
    before = ready(box)
    daemon = box.run("systemctl show --value -p MainPID nvargus-daemon").stdout.strip()
    box.run("kill -STOP " + daemon)
    restarted = "systemctl show --value -p MainPID nvargus-daemon"
    wait_until(box, lambda now: "waiting" in now["StatusText"], "daemon hangs, until it is told")
    wait_until(
        box,
        lambda now: box.run(restarted).stdout.strip() not in ("0", daemon),
        "and until it is a new one",
    )
    after = wait_until(box, lambda now: "fps" in now["StatusText"], "and until there are frames")
    assert after["MainPID"] == before["MainPID"], (before, after)


def test_a_stop_does_not_restart_the_camera_daemon(box):
    """In a boot in which that was asked for once: what was written then must not be taken for asked again."""
    ready(box)
    box.run("test -e /run/edge-app/restart-camera")
    wait_until(box, lambda now: now["ActiveState"] == "inactive", unit="edge-app-camera")
    pid = "systemctl show --value -p MainPID nvargus-daemon"
    daemon = box.run(pid).stdout
    box.run("systemctl stop edge-app && systemctl start edge-app")
    ready(box)
    assert state(box, "edge-app-camera")["ActiveState"] == "inactive"
    assert box.run(pid).stdout == daemon


def test_a_stop_is_quick_and_clean(box):
    ready(box)
    started = time.monotonic()
    box.run("systemctl stop edge-app")
    print("stop: {:.1f} s".format(time.monotonic() - started))
    stopped = state(box)
    assert (stopped["ActiveState"], stopped["Result"]) == ("inactive", "success"), stopped
    box.run("systemctl start edge-app")
    assert is_ready(state(box))


def test_a_wrong_setting_is_told_and_not_tried_again(box):
    ready(box)
    box.write("/etc/edge-app/edge-app.yaml", SETTINGS.replace("width_px", "widht_px"), mode="640")
    with pytest.raises(BoxError):
        box.run("systemctl restart edge-app")
    failed = state(box)
    assert (failed["ActiveState"], failed["ExecMainStatus"]) == ("failed", "78"), failed
    time.sleep(6)  # RestartSec is five
    later = state(box)
    assert (later["ActiveState"], later["NRestarts"]) == ("failed", failed["NRestarts"])
    log = box.run("journalctl --no-pager -o cat -n 20 -u edge-app").stdout
    assert "camera.widht_px" in log and "did you mean" in log
    assert box.run("systemctl is-active edge-app-again.timer").stdout.strip() == "active"
    box.write("/etc/edge-app/edge-app.yaml", SETTINGS, mode="640")
    box.run("systemctl start edge-app")
    assert is_ready(state(box))


def test_a_crash_loop_ends_and_is_tried_again_later(box):
    """A program that dies at once: ten starts, then silence, and a timer that tries again."""
    ready(box)
    folder = "/etc/systemd/system/"
    crash = "[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=100ms\n"
    soon = "[Timer]\nOnActiveSec=\nOnActiveSec=8\nAccuracySec=1\n"  # instead of half an hour
    box.write(folder + "edge-app.service.d/crash.conf", crash)
    box.write(folder + "edge-app-again.timer.d/soon.conf", soon)
    box.run("systemctl stop edge-app edge-app-again.timer; systemctl daemon-reload")
    box.run("systemctl start --no-block edge-app")
    wait_until(box, lambda now: now["ActiveState"] == "failed", "a crash loop, until it is ended")
    assert box.run("systemctl is-active edge-app-again.timer").stdout.strip() == "active"
    log = box.run("journalctl --no-pager -o cat -u edge-app").stdout
    assert "Start request repeated too quickly" in log
    # The five minutes in which no more starts are allowed are over before the half hour is.
    box.run("rm {}edge-app.service.d/crash.conf; systemctl daemon-reload".format(folder))
    box.run("systemctl reset-failed edge-app")
    wait_until(box, is_ready, "and until the timer has it READY (8 s, shipped: 30 min)")
