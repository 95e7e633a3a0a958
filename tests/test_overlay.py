import numpy as np
import pytest

from edge_app.frames import Detections, Figures
from edge_app.overlay import BOX_BGR, RIM_BGR, Overlay

FIGURES = Figures(30.0, 28.4, 28.1, 42.0, {"network": 20.0}, {"camera": 3, "detector": 2})


def faces_of(*rows):
    rows = np.asarray(rows, np.float32).reshape(-1, 5)
    return Detections(rows[:, :4], rows[:, 4])


def is_colour(pixels, colour):
    return (pixels == np.asarray(colour, np.uint8)).all(axis=-1)


def test_a_box_is_two_toned_and_exactly_where_the_face_is():
    frame = np.full((360, 640, 3), 255, np.uint8)
    canvas = Overlay().draw(frame, faces_of([200, 100, 300, 220, 0.97]))
    bright, dark = is_colour(canvas, BOX_BGR), is_colour(canvas, RIM_BGR)
    assert bright[219, 200:300].all() and bright[100:220, 200].all() and bright[100:220, 299].all()
    assert dark[220, 199:301].all() and dark[100:221, 199].all() and dark[100:221, 300].all()
    assert (canvas[101:219, 201:299] == 255).all()  # the face itself stays visible
    assert (canvas[222:] == 255).all()


def test_the_frame_is_never_written_and_the_canvas_is_reused():
    frame = np.full((360, 640, 3), 90, np.uint8)
    frame.flags.writeable = False
    overlay = Overlay()
    first = overlay.draw(frame, faces_of([10, 100, 60, 160, 0.99]), FIGURES)
    assert (frame == 90).all() and not (first == 90).all()
    second = overlay.draw(frame, Detections.empty())
    assert second is first and (second == 90).all()


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_a_box_differs_from_any_ground(ground):
    frame = np.full((360, 640, 3), ground, np.uint8)
    canvas = Overlay().draw(frame, faces_of([200, 100, 300, 220, 0.97])).astype(int)
    edge = np.abs(canvas[160, 198:202] - ground).max()
    assert edge > 100


def test_the_score_stands_above_the_box_or_inside_at_the_top_edge():
    frame = np.zeros((360, 640, 3), np.uint8)
    below = is_colour(Overlay().draw(frame, faces_of([200, 100, 300, 220, 0.95])), BOX_BGR)
    assert below[85:98, 205:225].any() and not below[60:70].any()
    at_top = is_colour(Overlay().draw(frame, faces_of([200, 2, 300, 120, 0.95])), BOX_BGR)
    assert at_top[3:16, 203:210].any()
    right = Overlay().draw(frame, faces_of([620, 100, 640, 120, 0.95]))
    assert is_colour(right, BOX_BGR)[84:98, 590:].any()  # the label is moved in, not cut


def test_the_score_says_a_face_at_the_threshold_is_at_95():
    frame = np.zeros((360, 640, 3), np.uint8)
    threshold = np.float32(0.95)  # a little below 0.95
    one = Overlay().draw(frame, faces_of([200, 100, 300, 220, threshold])).copy()
    same = Overlay().draw(frame, faces_of([200, 100, 300, 220, 0.9501]))
    other = Overlay().draw(frame, faces_of([200, 100, 300, 220, 0.94]))
    assert (one == same).all() and (one != other).any()


def test_edges_outside_the_picture_are_not_drawn():
    frame = np.zeros((360, 640, 3), np.uint8)
    canvas = Overlay().draw(frame, faces_of([-50, 100, 60, 220, 0.97]))
    bright = is_colour(canvas, BOX_BGR)
    assert bright[219, 0:60].all() and bright[150, 59] and not bright[150, :58].any()


@pytest.mark.parametrize(
    "box",
    [
        [-500, -500, -10, -10],
        [700, 100, 900, 200],
        [300, 200, 300, 200],
        [300, 200, 200, 100],
        [np.nan, 0, 50, 50],
        [0, 0, np.inf, 50],
    ],
)
def test_nothing_is_drawn_for_a_box_without_anything_to_see(box):
    frame = np.full((360, 640, 3), 7, np.uint8)
    assert (Overlay().draw(frame, faces_of(box + [0.97])) == 7).all()


def test_a_score_that_is_not_a_number_is_not_drawn():
    frame = np.full((360, 640, 3), 7, np.uint8)
    assert (Overlay().draw(frame, faces_of([10, 10, 90, 90, np.nan])) == 7).all()


def test_a_box_far_larger_than_the_picture_is_harmless():
    frame = np.full((360, 640, 3), 7, np.uint8)
    canvas = Overlay().draw(frame, faces_of([-1e30, -1e30, 1e30, 1e30, 0.97]))
    assert (canvas[40:, 100:] == 7).all()


@pytest.mark.parametrize("size_wh", [(1, 1), (33, 7), (7, 33), (61, 61), (641, 359), (3840, 2160)])
def test_odd_sizes(size_wh):
    width, height = size_wh
    frame = np.full((height, width, 3), 50, np.uint8)
    faces = faces_of(
        [0, 0, width, height, 0.99], [-9, -9, width + 9, height / 2.0, 0.97], [0, 0, 1, 1, 0.95]
    )
    canvas = Overlay().draw(frame, faces, FIGURES)
    assert canvas.shape == frame.shape and canvas.dtype == np.uint8
    assert is_colour(canvas, BOX_BGR).any()


def test_line_and_text_grow_with_the_picture():
    for height, line_px in ((360, 1), (720, 2), (1080, 3)):
        frame = np.zeros((height, height * 16 // 9, 3), np.uint8)
        canvas = Overlay().draw(frame, faces_of([150, 150, 350, 350, 0.97]))
        assert is_colour(canvas, BOX_BGR)[300, 150:250].sum() == line_px


def test_figures_are_a_bar_at_the_bottom_and_can_be_turned_off():
    frame = np.full((360, 640, 3), 200, np.uint8)
    canvas = Overlay().draw(frame, Detections.empty(), FIGURES)
    assert (canvas[:320] == 200).all() and (canvas[350] < 200).any()
    assert (Overlay(with_figures=False).draw(frame, Detections.empty(), FIGURES) == 200).all()
    assert (Overlay().draw(frame, Detections.empty()) == 200).all()


def test_figures_that_are_not_known_yet_are_a_dash():
    frame = np.full((360, 640, 3), 200, np.uint8)
    nan = float("nan")
    unknown = Overlay().draw(frame, Detections.empty(), Figures(nan, nan, nan, nan, {}, {})).copy()
    known = Overlay().draw(frame, Detections.empty(), FIGURES)
    assert (unknown != known).any()


def test_a_picture_of_another_size_gets_another_canvas():
    overlay = Overlay()
    overlay.draw(np.zeros((360, 640, 3), np.uint8), Detections.empty())
    assert overlay.draw(np.zeros((480, 640, 3), np.uint8), Detections.empty()).shape == (
        480,
        640,
        3,
    )
