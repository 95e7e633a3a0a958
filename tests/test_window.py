import os
import subprocess
import sys
import time

import numpy as np
import pytest
from needs import opencv_has_windows
from waiting import is_running, until
from xserver import XClient

from edge_app.display import AutoDisplay, NoDisplay
from edge_app.errors import DisplayError
from edge_app.frames import Detections, Figures, Frame, Picture, Result, StepTimes
from edge_app.overlay import BOX_BGR, Overlay
from edge_app.window import WindowDisplay

BOX = [200, 120, 320, 260]


def picture_of(width=640, height=480, ground=80):
    frame = Frame(0, 0.0, 0.0, np.full((height, width, 3), ground, np.uint8))
    faces = Detections(np.asarray([BOX], np.float32), np.asarray([0.98], np.float32))
    pixels = Overlay().draw(frame.pixels, faces)
    result = Result(frame, faces, StepTimes(0.0, 0.0, 0.0), 0.0)
    return Picture(pixels, faces, result, Figures(30.0, 30.0, 30.0, 5.0, {}, {}))


def show_until(window, condition, picture=None):
    """Show pictures until ``condition()`` holds; what it returned."""
    picture = picture or picture_of()
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        window.show(picture)
        answer = condition()
        if answer:
            return answer
        time.sleep(0.01)
    raise AssertionError("nothing came of it")


def box_on(screen):
    """Where the box's colour is on the screen: x1, y1, x2, y2 with x2 and y2 exclusive; ``None`` when
    it is nowhere, or when the server is just painting."""
    shot = screen.shot()
    time.sleep(0.02)
    rows, columns = np.nonzero((shot == np.asarray(BOX_BGR, np.uint8)).all(axis=-1))
    if not len(rows) or (screen.shot() != shot).any():
        return None
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_the_window_shows_the_box_where_the_face_is(screen):
    with WindowDisplay() as window, XClient(screen.display) as client:

        def as_expected():
            _, place = client.find("edge-app")
            x1, y1, x2, y2 = box_on(screen) or (0, 0, 0, 0)
            is_there = (x1, x2, y2) == (place[0] + BOX[0], place[0] + BOX[2], place[1] + BOX[3])
            has_score_above = BOX[1] - 30 <= y1 - place[1] < BOX[1]
            return place[2:] == (640, 480) and is_there and has_score_above

        show_until(window, as_expected)


def test_a_picture_of_another_size_keeps_its_shape(screen):
    with WindowDisplay() as window:
        show_until(window, lambda: box_on(screen))
        tall = picture_of(360, 480)
        bar_px = (640 - 360) // 2
        expected = (BOX[0] + bar_px, BOX[2] + bar_px, BOX[3])

        def as_expected():
            x1, _, x2, y2 = box_on(screen) or (0, 0, 0, 0)
            return (x1, x2, y2) == expected

        show_until(window, as_expected, tall)


@pytest.mark.parametrize("key", ["q", "escape"])
def test_a_key_closes(screen, key):
    with WindowDisplay() as window, XClient(screen.display) as client:
        handle, _ = show_until(window, lambda: client.find("edge-app"))
        # Again and again: Qt loses an event now and then, as it does when windows open.
        show_until(window, lambda: window.closed or client.press(handle, key))


def test_closing_the_window_closes(screen):
    with WindowDisplay() as window, XClient(screen.display) as client:
        handle, _ = show_until(window, lambda: client.find("edge-app"))
        deadline = time.monotonic() + 60.0
        while not window.closed and time.monotonic() < deadline:
            client.ask_to_close(handle)
            window.idle()
            time.sleep(0.05)
        assert window.closed


def test_close_leaves_no_process_and_can_be_repeated(screen):
    window = WindowDisplay()
    with window, XClient(screen.display) as client:
        show_until(window, lambda: client.find("edge-app"))
        process = window._process
        window.close()
        assert process.poll() is not None
        assert client.find("edge-app") is None
    window.close()


def test_no_screen_is_said_at_once(no_screen):
    with pytest.raises(DisplayError, match="neither DISPLAY nor WAYLAND_DISPLAY .* --display web"):
        WindowDisplay().__enter__()


def test_a_screen_that_does_not_answer_is_an_error_not_an_abort(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":4711")
    said = ":4711" if opencv_has_windows() else "built without windows; install opencv-python"
    with pytest.raises(DisplayError, match=said):
        WindowDisplay().__enter__()


def test_a_screen_that_dies_is_an_error_and_the_process_lives(screen):
    with WindowDisplay() as window:
        show_until(window, lambda: box_on(screen))
        screen.kill()
        with pytest.raises(DisplayError, match="the screen .* does not show a window"):
            show_until(window, lambda: False)


def test_auto_goes_on_with_the_next_display_when_the_screen_dies(screen):
    shown = []

    class Page(NoDisplay):
        def show(self, picture):
            shown.append(picture)

    with AutoDisplay([("window", WindowDisplay), ("web", Page)]) as display:
        show_until(display, lambda: box_on(screen))
        assert not shown
        screen.kill()
        show_until(display, lambda: shown)


def test_a_frozen_screen_slows_nothing_down_for_long(screen):
    with WindowDisplay() as window:
        show_until(window, lambda: box_on(screen))
        screen.freeze()
        show_until(window, lambda: window.skipped > 3)
        window._asked_at -= 10.0  # as if it had hung for so long
        with pytest.raises(DisplayError, match="has not answered"):
            window.show(picture_of())


def test_the_window_ends_when_its_parent_is_killed(screen):
    code = (
        "import time\nfrom edge_app.window import WindowDisplay\n"
        "with WindowDisplay() as w:\n print(w._process.pid, flush=True)\n time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not is_running(child))


def test_ctrl_c_is_left_to_the_parent(screen):
    with WindowDisplay() as window:
        assert os.getsid(window._process.pid) != os.getsid(0)
