"""Views of a picture: boxes stay on the faces, chance comes from the generator alone."""

import cv2
import made_faces
import numpy as np
import pytest

from edge_app.card import ModelInput
from edge_app.detector import Stretch
from training import augment

NONE = np.zeros((0, 4), np.float32)


@pytest.mark.parametrize("recipe", [augment.PAPER, augment.FACES])
def test_the_same_generator_gives_the_same_example(recipe):
    pixels, faces = made_faces.picture(3)
    first, second = (
        augment.example(pixels, faces, NONE, (96, 80), recipe, np.random.default_rng(5))
        for _ in range(2)
    )
    assert first.pixels.shape == (80, 96, 3) and first.pixels.dtype == np.uint8
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.faces, second.faces)


@pytest.mark.parametrize("recipe", [augment.PAPER, augment.FACES])
def test_boxes_lie_in_the_view_and_have_an_area(recipe):
    pixels, faces = made_faces.picture(1, faces=4, sizes_px=(10, 40))
    some = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        view = augment.example(pixels, faces, faces[:1] + 3, (96, 96), recipe, rng)
        for boxes in (view.faces, view.ignored):
            assert (
                boxes.dtype == np.float32
                and boxes.min(initial=0) >= 0
                and boxes.max(initial=0) <= 96
            )
            assert (boxes[:, 2:] > boxes[:, :2]).all()
        some += len(view.faces)
    assert some > 60


@pytest.mark.parametrize("flip", [False, True])
def test_a_box_moves_with_its_pixels(flip):
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[20:40, 30:50] = 255
    boxes = np.array([[30, 20, 50, 40]], np.float32)
    window = (10.0, 10.0, 60.0, 50.0)
    plain = augment.Distortion(None, False, None, None, None)
    chosen = augment.View(window, flip, 99, plain, boxes, boxes)
    view = augment.cut(pixels, chosen, (100, 80))
    placed, ignored = augment.place(boxes, window, (100, 80), flip, 4.5)
    assert placed.tolist() == [[20, 20, 60, 60] if flip else [40, 20, 80, 60]] and not len(ignored)
    x1, y1, x2, y2 = placed[0].astype(int)
    assert view[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() > 250
    view[y1 - 2 : y2 + 2, x1 - 2 : x2 + 2] = 0
    assert view.max() == 0


def test_a_picture_seen_whole_is_what_a_device_makes_of_the_frame():
    pixels = cv2.GaussianBlur(made_faces.picture(2, (336, 256))[0], (0, 0), 2)
    plain = augment.Distortion(None, False, None, None, None)
    whole = augment.View((0.0, 0.0, 336.0, 256.0), False, 99, plain, NONE, NONE)
    for input_wh in ((200, 150), (160, 120), (64, 64)):
        model_input = ModelInput("input", *input_wh, "BGR", (0.0,) * 3, (1.0,) * 3)
        wanted = Stretch(model_input)(pixels)[0].transpose(1, 2, 0)
        inner = np.abs(augment.cut(pixels, whole, input_wh) - wanted)[2:-2, 2:-2]
        assert inner.mean() < 1 and inner.max() <= 6


def test_a_face_half_out_of_sight_or_too_small_is_ignored():
    boxes = np.array(
        [[0, 0, 10, 10], [90, 40, 110, 60], [85, 40, 115, 60], [50, 50, 53, 53], [200, 0, 220, 20]],
        np.float32,
    )
    faces, ignored = augment.place(boxes, (0.0, 0.0, 100.0, 100.0), (100, 100), False, 4.5)
    assert faces.tolist() == [[0, 0, 10, 10], [90, 40, 100, 60], [85, 40, 100, 60]]
    assert ignored.tolist() == [[50, 50, 53, 53]]
    faces, ignored = augment.place(boxes[2:3], (0.0, 0.0, 99.0, 99.0), (99, 99), False, 4.5)
    assert not len(faces) and ignored.tolist() == [[85, 40, 99, 60]]


def test_wanted_sizes_spread_over_the_scales():
    faces = np.array([[200, 100, 240, 150]], np.float32)
    rng = np.random.default_rng(0)
    recipe = augment.Recipe(whole=0, wanted=1)
    sides = []
    for _ in range(200):
        x1, _, x2, _ = augment.choose_window((448, 300), faces, (320, 320), recipe, rng)
        sides.append(40 * 320 / (x2 - x1))
    assert np.quantile(sides, 0.1) < 25 and np.quantile(sides, 0.9) > 100


def test_a_picture_without_faces_has_views():
    pixels, _ = made_faces.picture(0, faces=0)
    for seed in range(20):
        view = augment.example(
            pixels, NONE, NONE, (64, 64), augment.FACES, np.random.default_rng(seed)
        )
        assert not len(view.faces) and not len(view.ignored)
