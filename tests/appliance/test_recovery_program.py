"""The whole program, as a process, under faults; each test prints how long the recovery took."""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from models import make_bright
from needs import require
from test_faults import CameraDaemon, seconds

SETTINGS = {
    "camera.source": "csi://0",
    "camera.width_px": 160,
    "camera.height_px": 96,
    "camera.rate_hz": 60.0,
    "camera.timeout_s": seconds(0.5, 2.0),
    "detector.backend": "onnxruntime",
    "detector.threads": 1,
    "recovery.mode": "always",
    "web.port": 0,
}


STARTS_A_DAY = 432  # 18 an hour: the daemon's budget, and then one every five minutes


LIMIT_S = 90.0


class Program:
    """``python -m edge_app run``, or ``script`` in its place; what it says, line by line."""

    def __init__(self, folder, settings, *options, script=None, before=()):
        self.stats_path = os.path.join(str(folder), "stats.json")
        command = list(before) + [sys.executable]
        command += ["-c", script] if script else ["-m", "edge_app"]
        command += ["run", "--stats", self.stats_path] + list(options)
        for path, value in dict(SETTINGS, **settings).items():
            command += ["--set", "{}={}".format(path, value)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True
        )
        self._lines = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self._lines.append(line.rstrip())

    @property
    def said(self):
        return "\n".join(self._lines)

    def wait_for(self, pattern, limit_s=LIMIT_S, since=0):
        """The match of what it says; ``since`` so many lines."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            match = re.search(pattern, "\n".join(self._lines[since:]))
            if match:
                return match
            assert self.process.poll() is None, self.said
            time.sleep(0.02)
        raise AssertionError("{} not said in {} s: {}".format(pattern, limit_s, self.said))

    def mark(self):
        """How many lines it has said."""
        return len(self._lines)

    def end(self, limit_s=LIMIT_S):
        """Wait for its end; its exit status."""
        status = self.process.wait(limit_s)
        self._reader.join()
        return status

    def stats(self):
        with open(self.stats_path) as file:
            return json.load(file)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_bright(tmp_path_factory.mktemp("model"))


@pytest.fixture
def start(tmp_path, model):
    """Function: start the program with settings and options; it is ended after the test."""
    programs = []

    def begin(settings, *options, **how):
        programs.append(
            Program(tmp_path, dict({"detector.model": model}, **settings), *options, **how)
        )
        return programs[-1]

    yield begin
    for program in programs:
        program.close()


@pytest.fixture
def daemon(nvstub, monkeypatch, tmp_path):
    """A camera whose frames come from a process that can be killed."""
    camera_daemon = CameraDaemon(tmp_path)
    monkeypatch.setenv("NVSTUB_SCENE", camera_daemon.scene)
    yield camera_daemon
    camera_daemon.kill()


def test_it_waits_for_a_camera_and_survives_its_loss(daemon, start):
    """Started without a camera, which comes, is killed, comes back, hangs and goes on."""
    program = start({}, "--display", "none")
    program.wait_for("camera: waiting: csi://0")
    daemon.start()
    program.wait_for("camera: goes on")
    daemon.kill()
    program.wait_for("(?s)waiting.*goes on.*waiting: csi://0")
    daemon.start()
    time_s = program.wait_for(r"frames again after (\S+) s").group(1)
    print("camera daemon killed and started again: frames after {} s".format(time_s))
    since = program.mark()
    daemon.signal(signal.SIGSTOP)
    program.wait_for("no frame for", since=since)
    daemon.signal(signal.SIGCONT)
    time_s = program.wait_for(r"frames again after (\S+) s", since=since).group(1)
    print("camera daemon stopped and continued: frames after {} s".format(time_s))
    daemon.kill()
    program.wait_for("waiting", since=program.mark())
    program.process.terminate()
    stopped_at = time.monotonic()
    assert program.end() == 0, program.said
    assert time.monotonic() - stopped_at < 30
    assert program.stats()["frames"]["shown"] > 0


def test_a_camera_that_stays_away_is_left_to_systemd(daemon, start):
    daemon.start()
    program = start({"recovery.give_up_s": seconds(2.0, 25.0)}, "--display", "none")
    program.wait_for("frames are 160x96")
    daemon.kill()
    killed_at = time.monotonic()
    assert program.end() == 69, program.said
    assert "edge-app: camera stage: csi://0: no frame for 2" in program.said
    print("the process had left {:.1f} s after the loss".format(time.monotonic() - killed_at))


def test_a_driver_that_does_not_let_go_is_left_with_the_process(nvstub, monkeypatch, start):
    monkeypatch.setenv("NVSTUB_HANG", "20:hard")
    program = start({}, "--display", "none")
    program.wait_for("frames are")
    started_at = time.monotonic()
    assert program.end() == 69, program.said
    assert "the camera would not stop (stuck in its driver); leaving without it" in program.said
    assert len(program.said) * STARTS_A_DAY < 1e6, program.said
    print(
        "the process had left {:.1f} s after its first frame".format(time.monotonic() - started_at)
    )


STUCK = """
import sys, threading
from edge_app import cli
from edge_app.detector import OnnxDetector

class StuckDetector(OnnxDetector):
    pictures = 0
    def detect(self, pixels, threshold):
        self.pictures += 1
        if self.pictures == 10:
            threading.Event().wait()
        return super().detect(pixels, threshold)

cli.open_detector = lambda settings, *others: StuckDetector(settings.detector)
sys.exit(cli.main())
"""


def test_a_detector_that_hangs_is_left_with_the_process(nvstub, start):
    program = start({"recovery.detector_s": seconds(1.0, 10.0)}, "--display", "none", script=STUCK)
    program.wait_for("frames are")
    started_at = time.monotonic()
    assert program.end() == 70, program.said
    assert "edge-app: detector stage: has answered nothing for 1" in program.said
    assert "the detector would not stop" in program.said
    print(
        "the process had left {:.1f} s after its first frame".format(time.monotonic() - started_at)
    )


@pytest.mark.parametrize("damage", ["cut off", "another byte", "empty"])
def test_a_model_gone_bad_is_said_at_the_start(nvstub, start, tmp_path, damage):
    """Nothing is tried again by itself: the file has to be replaced. Engines are built anew: tests/nvidia."""
    path = make_bright(tmp_path)
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if damage == "another byte":
        data[len(data) // 2] ^= 1
    with open(path, "wb") as file:
        file.write({"cut off": data[:500], "another byte": data, "empty": b""}[damage])
    program = start({"detector.model": path}, "--display", "none")
    assert program.end() in (65, 70), program.said
    assert path in program.said and "Traceback" not in program.said


def test_a_disk_that_fills_up_costs_the_clip_only(nvstub, start, tmp_path):
    program = start({}, "--display", "none,file:{}/disk/a.mp4".format(tmp_path), "--frames", "240",
                    before=on_a_disk(tmp_path, "size=16m"))  # fmt: skip
    inside = "/proc/{}/root{}/disk/".format(program.process.pid, tmp_path)
    deadline = time.monotonic() + 90
    clip = inside + "a.unfinished.mp4"
    while not (os.path.exists(clip) and os.path.getsize(clip)):
        assert time.monotonic() < deadline and program.process.poll() is None, program.said
        time.sleep(0.02)
    with open(inside + "others", "wb") as file:
        file.write(bytes(12 << 20))
    program.wait_for("the disk of .* is full")
    assert program.end() == 0, program.said


@pytest.mark.parametrize("mode, status", [("always", 0), ("never", 74)])
def test_a_disk_that_cannot_be_written_is_said_at_the_start(nvstub, start, tmp_path, mode, status):
    """A service goes on without the clip; a person at the command line wants to know."""
    program = start({"recovery.mode": mode}, "--frames", "20",
                    "--display", "file:{}/disk/a.mp4".format(tmp_path),
                    before=on_a_disk(tmp_path, "ro"))  # fmt: skip
    assert program.end() == status, program.said
    assert "cannot write the clip" in program.said and "Read-only file system" in program.said


def on_a_disk(folder, options):
    """What to put before a command so that it finds a disk of its own in ``folder/disk``."""
    disk = folder / "disk"
    disk.mkdir()
    require(shutil.which("unshare"), "unshare (util-linux)")
    words = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mount = "mount -t tmpfs -o {} disk {}".format(options, disk)
    require(subprocess.call(words + [mount]) == 0, "the right to mount a tmpfs in a namespace")
    return words + [mount + ' && exec "$@"', "sh"]


def snapshot(url, patience_s=60.0):
    """The page's picture; on a busy machine there may be none within the time that the page waits."""
    end = time.monotonic() + patience_s
    while True:
        try:
            with urllib.request.urlopen(url + "/snapshot.jpg", timeout=patience_s) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > end:
                raise


def test_a_screen_that_dies_leaves_the_page(nvstub, screen, start):
    program = start({}, "--display", "auto")
    url = program.wait_for("live view: (http://.*)").group(1)
    program.wait_for("window: open")
    screen.kill()
    killed_at = time.monotonic()
    program.wait_for("does not show a window")
    assert snapshot(url).startswith(b"\xff\xd8")
    print("X server killed: told, and a page {:.1f} s later".format(time.monotonic() - killed_at))
    program.process.terminate()
    assert program.end() == 0, program.said


def test_a_wall_clock_that_jumps_is_not_noticed(nvstub, monkeypatch, start, tmp_path):
    """An hour back, then a day ahead, as where a board without a battery finds the time in the network."""
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    require(found, "libfaketime (apt install faketime)")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    for name, value in {
        "LD_PRELOAD": found[0],
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }.items():
        monkeypatch.setenv(name, value)
    # Half a minute of silence is more than a busy machine causes, and less than the clock jumps.
    program = start({"camera.timeout_s": 30}, "--display", "none", "--frames", "90")
    program.wait_for("frames are")
    for offset_s in (-3600, 86400):
        time.sleep(0.5)
        clock.write_text("{:+d}".format(offset_s))
    shown = subprocess.check_output([sys.executable, "-c", "import time; print(time.time())"])
    monkeypatch.delenv("LD_PRELOAD")
    assert float(shown) - time.time() > 86000
    assert program.end() == 0, program.said
    assert "waiting" not in program.said
    latency = program.stats()["steps_ms"]["latency"]
    print("latency with a clock that jumps: {}".format(latency))
    assert latency["p99"] < 30000.0
