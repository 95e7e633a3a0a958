"""The CPU detector: a real network on the real ONNX Runtime, with answers known by hand."""

import numpy as np
import pytest
from models import bright_card, make_bright

from edge_app.card import ModelInput, card_path, load_card, save_card, sha256_of
from edge_app.config import DetectorSettings
from edge_app.detector import OnnxDetector, Stretch, halved
from edge_app.errors import CardError, DetectorError


def picture(size_wh=(64, 48), white=(), colour=(255, 255, 255)):
    """Black, with white boxes."""
    pixels = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    for x1, y1, x2, y2 in white:
        pixels[y1:y2, x1:x2] = colour
    return pixels


@pytest.fixture
def model(tmp_path):
    return make_bright(tmp_path)


def detect(model, pixels, threshold=0.9, **settings):
    with OnnxDetector(DetectorSettings(model=model, threads=1, **settings)) as detector:
        return detector.detect(pixels, threshold)


def test_a_white_cell_is_found_where_it_is(model):
    faces = detect(model, picture(white=[(16, 32, 32, 48)]))
    np.testing.assert_allclose(faces.boxes, [[16, 32, 32, 48]], atol=1e-3)
    assert faces.scores[0] == pytest.approx(1 / (1 + np.exp(-10)), abs=1e-4)


def test_boxes_are_in_pixels_of_the_picture_whatever_its_size(model):
    faces = detect(model, picture((640, 240), white=[(160, 160, 320, 240)]))
    np.testing.assert_allclose(faces.boxes, [[160, 160, 320, 240]], atol=1e-2)


def test_red_is_the_first_channel_of_an_rgb_network(model):
    red, blue = (0, 0, 255), (255, 0, 0)  # of a BGR picture
    assert len(detect(model, picture(white=[(0, 0, 16, 16)], colour=red))) == 1
    assert len(detect(model, picture(white=[(0, 0, 16, 16)], colour=blue))) == 0


def test_every_score_comes_back_at_threshold_zero(model):
    faces = detect(model, picture(), threshold=0.0)
    assert len(faces) == 12
    assert np.all(np.diff(faces.scores) <= 0)


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 500), (500, 1), (33, 7)])
def test_any_size_of_picture_will_do(model, size_wh):
    faces = detect(model, np.full((size_wh[1], size_wh[0], 3), 255, np.uint8))
    assert faces.boxes[:, 2:].max() <= max(size_wh)


def test_a_part_of_a_larger_array_will_do(model):
    pixels = picture((128, 96), white=[(32, 64, 64, 96)])
    faces = detect(model, np.repeat(pixels, 2, axis=1)[:, ::2])
    np.testing.assert_allclose(faces.boxes, [[32, 64, 64, 96]], atol=1e-2)


def test_overflow_is_counted(model):
    with OnnxDetector(DetectorSettings(model=model, max_candidates=5)) as detector:
        assert len(detector.detect(picture(), 0.0)) == 5
        assert detector.overflow == 7


def test_the_times_of_the_last_call_are_known(model):
    with OnnxDetector(DetectorSettings(model=model)) as detector:
        detector.detect(picture(), 0.5)
        assert min(detector.times) > 0
        assert "ONNX Runtime" in detector.description


def test_stretch_is_bilinear_with_half_pixel_centres():
    model_input = ModelInput("input", 2, 1, "BGR", (10.0, 0.0, 0.0), (2.0, 1.0, 1.0))
    pixels = np.zeros((1, 4, 3), np.uint8)
    pixels[0, :, 0] = (0, 100, 200, 100)
    tensor = Stretch(model_input)(pixels)
    assert tensor.shape == (1, 3, 1, 2)
    np.testing.assert_allclose(tensor[0, 0, 0], [(50 - 10) * 2, (150 - 10) * 2])


def test_a_far_larger_picture_is_halved_first_so_that_no_pixel_is_left_out():
    """One bright pixel of 8x8, which plain bilinear sampling would miss."""
    model_input = ModelInput("input", 2, 2, "BGR", (0.0,) * 3, (1.0,) * 3)
    for place in np.ndindex(8, 8):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[place] = 160
        cells = Stretch(model_input)(pixels)[0, 0]
        assert cells[place[0] // 4, place[1] // 4] == cells.sum() == 10
    odd = np.pad(pixels, ((0, 1), (0, 1), (0, 0)), constant_values=255)
    assert Stretch(model_input)(odd)[0, 0].sum() == 10


def test_halving_rounds_halves_up():
    pixels = np.array([[0, 0, 1, 0], [1, 1, 0, 0]], np.uint8)[:, :, None].repeat(3, axis=2)
    assert halved(pixels)[:, :, 0].tolist() == [[1, 0]]


def nan_model(tmp_path, where):
    """A network that answers NaN everywhere, or in the first cell only."""
    import onnx
    from onnx import TensorProto, helper

    path = make_bright(tmp_path)
    model = onnx.load(path)
    for node in model.graph.node:
        if "scores" in node.output:
            node.output[0] = "softmaxed"
    shape = [1, 12, 2]
    holes = np.zeros(shape, np.float32)
    holes[where] = np.nan
    model.graph.initializer.append(
        helper.make_tensor("holes", TensorProto.FLOAT, shape, holes.ravel().tolist())
    )
    model.graph.node.append(helper.make_node("Add", ["softmaxed", "holes"], ["scores"]))
    onnx.save(model, path)
    save_card(bright_card(path, (64, 48)), card_path(path))
    return path


def test_a_network_that_answers_only_nan_is_an_error(tmp_path):
    with pytest.raises(DetectorError, match="answered only NaN"):
        detect(nan_model(tmp_path, np.s_[:]), picture(white=[(0, 0, 64, 48)]))


def test_a_nan_among_scores_is_no_face(tmp_path):
    path = nan_model(tmp_path, np.s_[:, 0])
    assert len(detect(path, picture(white=[(0, 0, 64, 48)]))) == 11


def test_a_file_that_is_no_network_is_an_error(tmp_path, model):
    with open(model, "wb") as file:
        file.write(b"not a network")
    save_card(bright_card(model, (64, 48)), card_path(model))
    with pytest.raises(DetectorError, match="bright.onnx cannot be loaded"):
        detect(model, picture())


def test_a_damaged_file_is_found_before_it_is_loaded(model):
    with open(model, "r+b") as file:
        file.truncate(100)
    with pytest.raises(CardError, match="does not match its card"):
        detect(model, picture())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c._replace(input=c.input._replace(width_px=32)), r"\[1, 3, 48, 32\]"),
        (lambda c: c._replace(input=c.input._replace(name="image")), "'image'"),
        (lambda c: c._replace(outputs=c.outputs._replace(scores="s")), "'s'"),
        (lambda c: c._replace(layers=c.layers * 2), r"\[1, 24, 4\]"),
    ],
)
def test_a_card_of_another_network_is_an_error(model, change, message):
    save_card(change(load_card(card_path(model)))._replace(sha256=sha256_of(model)), card_path(model))
    with pytest.raises(DetectorError, match=message):
        detect(model, picture())
