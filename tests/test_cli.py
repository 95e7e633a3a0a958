"""The command line as a person meets it: a process, its output, its exit status, its signals."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request

import cv2
import numpy as np
import pytest
import yaml
from models import make_bright
from ports import free_port

from edge_app.cli import main
from edge_app.errors import DisplayError
from edge_app.meter import Meter
from edge_app.summary import Summary


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    return "detector.model=" + make_bright(folder)


@pytest.fixture
def pictures(tmp_path):
    """A folder of twenty pictures of 64x48 with one white cell that moves."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        pixels = np.zeros((48, 64, 3), np.uint8)
        left = 16 * (number % 4)
        pixels[16:32, left : left + 16] = 255
        cv2.imwrite(str(folder / "{:02d}.png".format(number)), pixels)
    return str(folder)


def test_run_to_the_end_of_a_folder(model, pictures, tmp_path, capsys):
    stats = tmp_path / "stats.json"
    arguments = ["--source", pictures, "--display", "none", "--stats", str(stats)]
    assert main(["run", "--set", model] + arguments) == 0
    table = capsys.readouterr().out
    for words in ("captured         20", "shown            20", "faces shown", "latency", "dropped"):
        assert words in table
    summary = json.loads(stats.read_text())
    assert summary["frames"] == {"captured": 20, "detected": 20, "shown": 20, "with_faces": 20}
    assert summary["faces"] >= 20
    assert summary["dropped"] == {"camera": 0, "detector": 0, "display": 0}
    assert set(summary["steps_ms"]["latency"]) == {"p50", "p95", "p99"}


def test_a_file_is_looked_at_in_its_own_time(model, tmp_path):
    """A face that is missed is remembered for 0.3 s of the film, however long the machine takes for it."""
    stats = tmp_path / "stats.json"
    for rate_hz, shown in ((8, 3), (2, 1)):
        clip = str(tmp_path / "{}.avi".format(rate_hz))
        writer = cv2.VideoWriter(clip, cv2.VideoWriter_fourcc(*"MJPG"), rate_hz, (64, 48))
        for number in range(20):
            writer.write(with_face(number == 0))
        writer.release()
        arguments = ["--source", clip, "--display", "none", "--stats", str(stats), "--set", model]
        assert main(["run"] + arguments) == 0
        assert json.loads(stats.read_text())["frames"]["with_faces"] == shown


def with_face(is_there=True):
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[16:32, 16:32] = 255 * is_there
    return pixels


@pytest.mark.parametrize("mode", ["never", "always"])
def test_no_box_of_one_picture_stays_on_the_next(model, tmp_path, mode):
    folder, stats = tmp_path / "unrelated", tmp_path / "stats.json"
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / "{}.png".format(number)), with_face(number == 0))
    arguments = ["--source", str(folder), "--display", "none", "--stats", str(stats), "--set", model]
    arguments += ["--set", "recovery.mode=" + mode, "--set", "power.mode=" + mode]
    assert main(["run"] + arguments) == 0
    assert json.loads(stats.read_text())["frames"]["with_faces"] == 1


def test_run_ends_after_so_many_frames(model, pictures, tmp_path):
    stats = tmp_path / "stats.json"
    arguments = ["--source", pictures, "--display", "none", "--frames", "7", "--stats", str(stats)]
    assert main(["run", "--set", model] + arguments) == 0
    assert json.loads(stats.read_text())["frames"]["shown"] == 7


def test_run_writes_the_annotated_clip(model, pictures, tmp_path):
    clip = str(tmp_path / "clip.mp4")
    assert main(["run", "--set", model, "--source", pictures, "--display", "file:" + clip]) == 0
    video = cv2.VideoCapture(clip)
    assert video.read()[0]
    video.release()


@pytest.mark.parametrize(
    "arguments, status, words",
    [
        (["--source", "nowhere.mp4"], 65, ["nowhere.mp4"]),
        (["--source", "v4l2:///dev/video77"], 69, ["/dev/video77"]),
        (["--source", "v4l2://dev/video0"], 78, ["v4l2:///dev/video0, with three slashes"]),
        (["--source", "carrier-pigeon://1"], 78, ["carrier-pigeon", "known are"]),
        (["--set", "camera.rate_hz=fast"], 78, ["camera.rate_hz", "expected a number"]),
        (["--config", "nowhere.yaml"], 78, ["nowhere.yaml", "No such file"]),
        (["--threshold", "95"], 78, ["faces.show (--threshold)", "from 0 to 1"]),
        (["--display", "hologram"], 78, ["hologram"]),
        (["--set", "detector.model=nowhere.onnx"], 65, ["no model card at nowhere.json"]),
        (["--display", "file:/nowhere/clip.mp4"], 74, ["/nowhere"]),
        (["--stats", "/nowhere/stats.json"], 74, ["/nowhere/stats.json", "No such file"]),
        (["--set", "events.file=/nowhere/a.jsonl"], 74, ["/nowhere/a.jsonl: No such file", "events.file"]),
    ],
)
def test_what_cannot_work_says_so_in_one_line(model, pictures, capsys, arguments, status, words):
    fixed = ["--source", pictures, "--display", "none", "--frames", "3", "--set", model]
    assert main(["run"] + fixed + arguments) == status
    out, error = capsys.readouterr()
    assert out == "" and len(error.splitlines()) == 1 and error.startswith("edge-app: ")
    for word in words:
        assert word in error


def test_statistics_that_cannot_take_their_place_leave_nothing(model, pictures, tmp_path, capsys):
    (tmp_path / "stats.json").mkdir()
    before = sorted(os.listdir(str(tmp_path)))
    arguments = ["--source", pictures, "--display", "none", "--frames", "3", "--set", model]
    assert main(["run", "--stats", str(tmp_path / "stats.json")] + arguments) == 74
    out, error = capsys.readouterr()
    assert out == "" and "stats.json: Is a directory" in error  # before the run, not after it
    with pytest.raises(DisplayError, match="stats.json: Is a directory"):  # made while it ran
        Summary.of(Meter(), {}, {}, "", "").save(str(tmp_path / "stats.json"))
    assert sorted(os.listdir(str(tmp_path))) == before


def test_the_command_line_itself(capsys):
    for arguments in ([], ["dance"], ["run", "--frames", "0"], ["run", "--seconds", "nan"]):
        with pytest.raises(SystemExit) as raised:
            main(arguments)
        assert raised.value.code == 2
    with pytest.raises(SystemExit) as raised:
        main(["--version"])
    assert raised.value.code == 0


def test_config_prints_what_it_would_read_back(tmp_path, capsys):
    path = tmp_path / "edge-app.yaml"
    path.write_text("camera:\n  width_px: 640\n")
    assert main(["config", "--config", str(path), "--set", "faces.show=0.9"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["camera"]["width_px"] == 640
    origins = {line.split(":")[0].strip(): line.split("#")[1].strip()
               for line in printed.splitlines() if "#" in line}  # fmt: skip
    assert origins["width_px"] == "{}, line 2".format(path)
    assert origins["show"] == "--set"
    assert origins["height_px"] == "default"
    again = tmp_path / "again.yaml"
    again.write_text(printed)
    assert main(["config", "--config", str(again)]) == 0


def start(*arguments, env=None):
    return subprocess.Popen(
        [sys.executable, "-m", "edge_app", "run", "--display", "none"] + list(arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=env,
    )


def stop(number, is_time, *arguments, env=None):
    """Start it with a page, signal it when its status says so, and give (exit status, stdout, stderr)."""
    port = free_port()
    process = start("--display", "web", "--set", "web.port={}".format(port), *arguments, env=env)
    try:
        deadline = time.monotonic() + 120
        while not is_time(page_status(port)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        # A second or two; but a machine may be busy, and a driver that hangs does so for ever.
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err
    finally:
        process.kill()
        process.wait()


def page_status(port):
    """What the page tells; nothing before it is there."""
    url = "http://127.0.0.1:{}/api/status".format(port)
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.loads(answer.read().decode())
    except OSError:
        return {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_cleanly(model, number):
    status, out, err = stop(
        number, lambda page: page.get("frame"), "--source", "test://", "--set", model
    )
    assert status == 0, err
    assert "shown" in out and "Traceback" not in err


def test_a_terminal_that_is_closed_leaves_a_clip_that_plays(model, tmp_path):
    clip, stats = str(tmp_path / "clip.mp4"), tmp_path / "stats.json"
    words = [sys.executable, "-m", "edge_app", "run", "--set", model, "--source", "test://?faces=1"]
    words += ["--set", "camera.width_px=160", "--set", "camera.height_px=96", "--stats", str(stats)]
    port = free_port()
    words += ["--set", "web.port={}".format(port), "--display", "web,file:" + clip]
    leader, follower = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait"] + words, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    try:
        deadline = time.monotonic() + 120
        while not (page_status(port).get("frame") or 0) > 5:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.close(leader)  # from here on there is nobody to write to
        while not stats.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    video = cv2.VideoCapture(clip)
    assert video.read()[0]
    video.release()
    assert json.loads(stats.read_text())["frames"]["shown"] > 0


def test_bench_measures_every_step(model, pictures, capsys):
    assert main(["bench", "--set", model, "--source", pictures, "--frames", "30", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    steps = {"capture", "preprocess", "network", "postprocess", "overlay", "display"}
    assert set(report["single"]["steps_ms"]) == steps
    assert report["single"]["frames"]["shown"] == 30
    assert report["single"]["detector"].endswith("1 thread")
    assert report["pipeline"]["peak_memory_mb"] > 10
    assert report["overhead"] > 0 and report["beside_ms"] > 0


def test_bench_plays_a_short_source_again_and_counts_no_cold_frame(model, tmp_path, capsys):
    picture = str(tmp_path / "one.png")
    cv2.imwrite(picture, with_face())
    assert main(["bench", "--set", model, "--source", picture, "--frames", "7", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["single"]["frames"]["shown"] == report["pipeline"]["frames"]["shown"] == 7
    assert report["pipeline"]["frames"]["captured"] <= 7 + 4  # what was under way at the end
    assert report["single"]["faces"] == report["pipeline"]["faces"] == 7


def test_bench_of_a_source_without_a_frame(model, capsys):
    source = "test://?live=0&seconds=0.001"
    assert main(["bench", "--set", model, "--source", source, "--frames", "7"]) == 69
    assert "holds no frame to measure with" in capsys.readouterr().err


def test_bench_prints_a_table_with_device_and_date(model, pictures, capsys):
    assert main(["bench", "--set", model, "--source", pictures, "--frames", "5"]) == 0
    table = capsys.readouterr().out
    for words in ("of the network call", "ms a frame", "cores", time.strftime("%Y-")):
        assert words in table


def test_the_script_and_the_module_are_the_same():
    script = os.path.join(os.path.dirname(sys.executable), "edge-app")
    for command in ([script], [sys.executable, "-m", "edge_app"]):
        text = subprocess.check_output(command + ["--help"]).decode()
        assert text.startswith("usage: edge-app")


CSI = {"hung": "20", "stuck in its driver": "20:hard"}


@pytest.mark.parametrize("hang", sorted(CSI))
def test_a_signal_ends_the_run_even_with_a_hung_camera(model, nvstub, hang):
    environment = dict(os.environ, NVSTUB_HANG=CSI[hang], NVSTUB_SCENE="videotestsrc is-live=true")
    status, out, err = stop(
        signal.SIGTERM,
        lambda page: (page.get("age_ms") or 0) > 1000,  # nothing comes any more
        "--source", "csi://0", "--set", model, "--set", "camera.timeout_s=60", env=environment,
    )  # fmt: skip
    assert status == 0, err
    assert "shown" in out and "Traceback" not in err


def test_a_camera_that_falls_silent_ends_the_run_and_says_so(model, nvstub):
    environment = dict(os.environ, NVSTUB_HANG="30", NVSTUB_SCENE="videotestsrc is-live=true")
    process = start("--source", "csi://0", "--set", model, env=environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 69
    assert "camera stage" in err and "no frame for" in err and "Traceback" not in err
    assert "captured" in out


def test_a_live_camera_of_the_nano_runs_through_its_own_launch_line(model, nvstub, tmp_path):
    stats = tmp_path / "stats.json"
    environment = dict(os.environ, NVSTUB_SCENE="videotestsrc is-live=true")
    process = start(
        "--source", "csi://0", "--set", model, "--frames", "60", "--stats", str(stats), env=environment
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    summary = json.loads(stats.read_text())
    assert summary["frames"]["shown"] == 60 and summary["source"] == "csi://0"


def test_a_terminal_that_knows_only_ascii_gets_its_table_too(model, pictures):
    environment = dict(os.environ, LC_ALL="C", PYTHONIOENCODING="ascii:strict")
    process = start("--source", pictures, "--set", model, env=environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "faces shown" in out


def edge_app(*arguments, shell="exec {}", **options):
    """(exit status, standard error) of a command in a shell, its output held back as for a file."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-m", "edge_app"] + [str(word) for word in arguments]
    line = shell.format(" ".join(shlex.quote(word) for word in words))
    process = subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", line], env=environment, stderr=subprocess.PIPE, **options
    )
    _, err = process.communicate(timeout=120)
    return process.returncode, err.decode()


@pytest.mark.parametrize(
    "arguments, shell, status, said",
    [
        (["config"], "{} | true", 0, ""),
        (["--help"], "{} | true", 0, ""),
        (["run", "--help"], "{} > /dev/full", 74, "edge-app: what it says cannot be written"),
        (["config"], "{} > /dev/full", 74, "edge-app: what it says cannot be written"),
        (["config"], "PYTHONUNBUFFERED=1 {} > /dev/full", 74, "edge-app: what it says cannot be"),
        (["config"], "{} >&-", 0, ""),
        (["detect", "nowhere.jpg"], "{} >&-", 65, "edge-app: nowhere.jpg: no such file"),
    ],
)
def test_output_that_goes_nowhere(arguments, shell, status, said):
    found, err = edge_app(*arguments, shell=shell)
    assert found == status, err
    assert err.startswith(said) and len(err.splitlines()) == (1 if said else 0)


def test_ctrl_c_ends_a_command_quietly(model, tmp_path):
    fifo = str(tmp_path / "picture.jpg")
    os.mkfifo(fifo)

    words = [sys.executable, "-m", "edge_app", "detect", "--set", model, fifo]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with open(fifo, "wb"):  # opened on both sides: it waits for the picture now
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, b"", b"")


@pytest.mark.parametrize("slow", ["numpy", "argparse"])
def test_ctrl_c_while_modules_are_loaded_is_quiet_too(tmp_path, slow):
    loading = tmp_path / "loading"
    code = "import time\nopen({!r}, 'w').close()\ntime.sleep(60)\n".format(str(loading))
    (tmp_path / (slow + ".py")).write_text(code)
    words = [sys.executable, "-m", "edge_app", "run", "--display", "none"]
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not loading.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_help_needs_no_numpy(tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemError('loaded')")
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))
    words = [sys.executable, "-m", "edge_app", "--help"]
    assert subprocess.check_output(words, env=environment).startswith(b"usage: edge-app")


def test_a_clip_is_not_written_over_its_source(model, pictures, tmp_path, capsys):
    clip = tmp_path / "a clip.mp4"
    assert main(["run", "--set", model, "--source", pictures, "--display", "file:%s" % clip]) == 0
    before = clip.read_bytes()
    same = str(tmp_path / "pictures" / ".." / "a clip.mp4")
    for source in (str(clip), "file://" + str(clip).replace(" ", "%20")):
        arguments = ["--source", source, "--display", "none, file:" + same]
        assert main(["run", "--set", model] + arguments) == 74
        assert "would be overwritten by its own clip" in capsys.readouterr().err
        assert clip.read_bytes() == before
    rest = tmp_path / "b.unfinished.mp4"  # of a run that crashed
    rest.write_bytes(before)
    arguments = ["--source", str(rest), "--display", "file:{}".format(tmp_path / "b.mp4")]
    assert main(["run", "--set", model] + arguments) == 74
    assert rest.read_bytes() == before


def test_secrets_are_not_printed(capsys):
    assert main(["config", "--set", "web.token=geheim", "--set", "rtsp.password=geheim"]) == 0
    printed = capsys.readouterr().out
    assert "geheim" not in printed and printed.count("(set, not shown)") == 2
    camera = ["camera.source=rtsp://me:geheim@camera/1", "events.mqtt=mqtt://me:geheim@broker/faces"]
    assert main(["config", "--set", camera[0], "--set", camera[1]]) == 0
    printed = capsys.readouterr().out
    assert "geheim" not in printed and "rtsp://me:***@camera/1" in printed
