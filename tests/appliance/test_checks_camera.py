"""GStreamer, the camera's daemon, rights, and who has the camera."""

import os
import socket
import subprocess
import sys

import pytest
from trees import NANO, loaded, machine, process

from edge_app.appliance import checks_camera
from edge_app.appliance.finding import FAILURE, NOT_NEEDED, OK, WARNING

CSI = loaded("camera.source=csi://0")
USB = loaded("camera.source=v4l2:///dev/video0")
SENSOR = {"dev/video0": "", "tmp/argus_socket": ""}


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def test_a_csi_camera_with_all_its_parts(tmp_path):
    here = machine(tmp_path, NANO, SENSOR, process(7, "nvargus-daemon"))
    found = only(checks_camera.daemon(CSI, here))
    assert found.state == OK and "nvargus-daemon (PID 7)" in found.seen


@pytest.mark.parametrize(
    "trees, words, cure",
    [
        ([NANO, SENSOR], "does not run", "systemctl restart nvargus-daemon"),
        ([NANO, SENSOR, process(7, "nvargus-daemon", "T")], "hangs", "systemctl restart"),
        ([NANO, process(7, "nvargus-daemon")], "no sensor", "dmesg"),
        (
            [NANO, {"dev/video0": ""}, process(7, "nvargus-daemon")],
            "its socket",
            "systemctl restart",
        ),
        ([], "this is none", "run --source test://"),
    ],
)
def test_what_a_csi_camera_can_lack(tmp_path, trees, words, cure):
    found = only(checks_camera.daemon(CSI, machine(tmp_path, *trees)))
    assert found.state == FAILURE and words in found.seen and cure in found.fix


def test_other_sources_need_no_daemon(tmp_path):
    assert only(checks_camera.daemon(USB, machine(tmp_path, NANO))).state == NOT_NEEDED


@pytest.mark.parametrize(
    "source, wanted",
    [
        ("csi://0", {"nvarguscamerasrc", "nvvidconv", "videoconvert", "appsink"}),
        ("v4l2:///dev/video0", {"v4l2src", "decodebin", "jpegdec", "capsfilter"}),
        ("rtsp://u:secret@host/1", {"rtspsrc", "rtph264depay", "h264parse", "nvvidconv"}),
        ("clip.mp4", {"filesrc", "decodebin", "qtdemux"}),
        ("gst://videotestsrc pattern=ball ! video/x-raw, width=64", {"videotestsrc", "appsink"}),
    ],
)
def test_elements_are_those_of_the_launch_line(tmp_path, source, wanted):
    elements = checks_camera._elements(source, loaded(), machine(tmp_path, NANO))
    assert wanted <= elements
    assert not [name for name in elements if "/" in name or "=" in name]


def test_every_element_that_a_line_names_has_a_package(tmp_path):
    here = machine(tmp_path, NANO)
    for source in ("csi://0", "v4l2:///dev/video0", "rtsp://host", "clip.mp4"):
        assert checks_camera._elements(source, loaded("camera.flip=clockwise"), here) <= set(
            checks_camera._PACKAGES
        )


def test_a_missing_element_is_told_with_its_package(gstreamer, tmp_path):
    here = machine(tmp_path, NANO)
    found = checks_camera.gstreamer(
        loaded("camera.source=gst://nosuchelement ! videoconvert"), here
    )
    assert [one.state for one in found] == [OK, FAILURE]
    assert "nosuchelement" in found[1].seen
    found = checks_camera._missing({"rtspsrc", "appsink"}, {"appsink"}, "rtsp")
    assert [one.state for one in found] == [FAILURE, WARNING]
    assert found[0].fix == "sudo apt install gstreamer1.0-plugins-good"
    assert found[1].fix == "sudo apt install gstreamer1.0-libav"


def test_elements_of_a_usb_camera_are_found_here(gstreamer, tmp_path):
    found = checks_camera.gstreamer(USB, machine(tmp_path, {"dev/video0": ""}))
    assert [one.state for one in found] == [OK, OK]


def test_without_gstreamer_a_usb_camera_is_read_by_opencv(tmp_path, monkeypatch):
    (tmp_path / "gi.py").write_text("raise ImportError('no gi here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = only(checks_camera.gstreamer(USB, machine(tmp_path)))
    assert found.state == WARNING and "no gi here" in found.seen
    found = only(checks_camera.gstreamer(loaded("camera.source=rtsp://host/1"), machine(tmp_path)))
    assert found.state == FAILURE and "python3-gi" in found.fix


def test_a_usb_camera_that_is_not_there(tmp_path):
    found = only(checks_camera.presence(USB, machine(tmp_path, {"dev/video2": ""})))
    assert found.state == FAILURE and found.fix.endswith("run --source v4l2:///dev/video2")
    found = only(checks_camera.presence(USB, machine(tmp_path / "bare")))
    assert found.state == FAILURE and found.fix == "lsusb"


def test_a_usb_camera_is_told_by_its_name(tmp_path):
    tree = {"dev/video0": "", "sys/class/video4linux/video0/name": "HD Webcam\n"}
    found = only(checks_camera.presence(USB, machine(tmp_path, tree)))
    assert found == ("camera", OK, "/dev/video0: HD Webcam", "")


def test_a_laptop_without_a_camera_is_warned_that_it_sees_a_scene(tmp_path):
    found = only(checks_camera.presence(loaded(), machine(tmp_path)))
    assert found.state == WARNING and "generated scene" in found.seen


def test_a_network_camera_is_reached_or_not(tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        source = "rtsp://u:secret@127.0.0.1:{}/1".format(server.getsockname()[1])
        reached = only(checks_camera.presence(loaded("camera.source=" + source), machine(tmp_path)))
    gone = only(checks_camera.presence(loaded("camera.source=" + source), machine(tmp_path)))
    assert (reached.state, gone.state) == (OK, FAILURE)
    assert "refused" in gone.seen and gone.fix == "ping -c 3 127.0.0.1"


def test_files(tmp_path):
    here = machine(tmp_path / "root", {"etc/hostname": ""})
    found = only(checks_camera.presence(loaded("camera.source=/nowhere/a.mp4"), here))
    assert found.state == FAILURE and "there is no /nowhere/a.mp4" in found.seen
    (tmp_path / "root" / "a.mp4").write_text("")
    assert "empty" in only(checks_camera.presence(loaded("camera.source=/a.mp4"), here)).seen
    (tmp_path / "root" / "a.mp4").write_text("x")
    assert only(checks_camera.presence(loaded("camera.source=file:///a.mp4"), here)).state == OK


def test_who_has_a_usb_camera_by_the_real_proc(tmp_path):
    here = machine(tmp_path, {"dev/video0": ""})
    os.symlink("/proc", str(tmp_path / "proc"))
    assert only(checks_camera.owner(USB, here)).state == OK
    script = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path / "dev" / "video0")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        found = only(checks_camera.owner(USB, here))
        child.stdin.close()
    assert found.state == WARNING and "PID {}".format(child.pid) in found.seen
    assert found.fix == "kill {}".format(child.pid)


def test_who_has_a_csi_camera(tmp_path):
    daemon = process(7, "nvargus-daemon", maps="/usr/lib/tegra/libnvargus.so")
    client = "/usr/lib/aarch64-linux-gnu/tegra/libnvargus_socketclient.so"
    ours = process(
        8, "python3", cgroup="1:name=systemd:/system.slice/edge-app.service", maps=client
    )
    here = machine(tmp_path, NANO, daemon, process(9, "bash"))
    assert only(checks_camera.owner(CSI, here)).seen.startswith("nobody uses it now")
    here = machine(tmp_path, ours)
    found = only(checks_camera.owner(CSI, here))
    assert found.state == OK and "sudo systemctl stop edge-app" in found.seen
    by_hand = {"proc/8/cgroup": "", "proc/8/cmdline": "/usr/bin/python3\0-m\0edge_app\0run"}
    found = only(checks_camera.owner(CSI, machine(tmp_path, by_hand)))
    assert found.state == WARNING and "edge-app (PID 8)" in found.seen
    (tmp_path / "proc/8/maps").write_text("")
    here = machine(tmp_path, process(10, "gst-launch-1.0", maps=client))
    found = only(checks_camera.owner(CSI, here))
    assert found.state == WARNING and found.fix == "kill 10"


def test_the_services_user_must_be_in_video(tmp_path):
    service = "edge-app:x:998:998::/var/lib/edge-app:/usr/sbin/nologin"
    here = machine(tmp_path, NANO, {"etc/passwd": NANO["etc/passwd"] + "\n" + service})
    found = checks_camera.rights(CSI, here)
    assert found[1].state == FAILURE and "usermod -aG video edge-app" in found[1].fix
    here = machine(tmp_path, {"etc/group": "video:x:44:nano,edge-app"})
    assert checks_camera.rights(CSI, here)[1].state == OK


def test_our_own_rights(as_nobody):
    names = {os.geteuid(): "nano"}
    assert checks_camera._own_rights(444444, ["nano"], names).fix == "newgrp video"
    found = checks_camera._own_rights(444444, [], names)
    assert found.state == FAILURE and found.fix.startswith("sudo usermod -aG video nano")
    assert checks_camera._own_rights(os.getegid(), [], names).state == OK
