"""The geometry, by hand-computed values, ties, and input that is empty or broken."""

import numpy as np
import pytest

from edge_app import boxes
from edge_app.boxes import BoxLayer

VARIANCES = (0.1, 0.2)


def array(rows):
    return np.asarray(rows, np.float32).reshape(-1, 4)


def test_the_papers_table_has_8732_default_boxes():
    assert len(boxes.default_boxes(boxes.paper_layers(), (300, 300))) == 8732


def test_the_papers_first_cell():
    first = boxes.default_boxes(boxes.paper_layers(), (300, 300))[:4] * 300
    between = np.sqrt(30.0 * 60.0)
    wide = [30 * np.sqrt(2), 30 / np.sqrt(2)]
    expected = [
        [4, 4, 30, 30],
        [4, 4, between, between],
        [4, 4, wide[0], wide[1]],
        [4, 4, wide[1], wide[0]],
    ]
    np.testing.assert_allclose(first, expected, rtol=1e-5)


def test_the_papers_last_box_covers_the_picture():
    last = boxes.default_boxes(boxes.paper_layers(), (300, 300))[-4] * 300
    np.testing.assert_allclose(last, [150, 150, 264, 264], rtol=1e-5)


def test_default_boxes_run_along_rows_then_down_then_by_box():
    layer = BoxLayer((3, 2), (10.0, 12.0), ((4.0, 6.0), (8.0, 8.0)))
    table = boxes.default_boxes([layer], (30, 24)) * [30, 24, 30, 24]
    np.testing.assert_allclose(table[:4, :2], [[5, 6], [5, 6], [15, 6], [15, 6]], rtol=1e-6)
    np.testing.assert_allclose(table[6, :], [5, 18, 4, 6], rtol=1e-6)


def test_the_papers_table_for_a_wide_picture():
    """480x272, as large as a square of 361 px: the smallest box is a tenth of that."""
    layers = boxes.paper_layers((480, 272))
    assert [layer.grid_wh for layer in layers] == [
        (60, 34), (30, 17), (15, 9), (8, 5), (6, 3), (4, 1),
    ]  # fmt: skip
    side = np.sqrt(480 * 272)
    np.testing.assert_allclose(layers[0].sizes_px[0], [side / 10, side / 10], rtol=1e-9)
    last = boxes.default_boxes(layers, (480, 272))[-4] * [480, 272, 480, 272]  # the last cell
    np.testing.assert_allclose(last, [420, 136, side * 0.88, side * 0.88], rtol=1e-5)


@pytest.mark.parametrize("input_wh, grid", [((300, 300), (38, 38)), ((480, 272), (60, 34))])
def test_face_layers_fit_any_shape(input_wh, grid):
    layers = boxes.face_layers(input_wh, [(10, 16), (32,)], (8, 16), aspect=0.8)
    assert layers[0].grid_wh == grid
    width, height = layers[0].sizes_px[0]
    assert width / height == pytest.approx(0.8)
    assert width * height == pytest.approx(100.0)


def test_a_zero_offset_is_the_default_box():
    defaults = array([[0.5, 0.5, 0.2, 0.4]])
    decoded = boxes.decode(np.zeros((1, 4), np.float32), defaults, VARIANCES)
    np.testing.assert_allclose(decoded, [[0.4, 0.3, 0.6, 0.7]], atol=1e-7)


def test_decode_by_hand():
    # centre moves by 0.1 * tx * w, the side grows by exp(0.2 * tw)
    decoded = boxes.decode(
        array([[1.0, -1.0, np.log(2) / 0.2, 0.0]]), array([[0.5, 0.5, 0.2, 0.2]]), VARIANCES
    )
    np.testing.assert_allclose(decoded, [[0.32, 0.38, 0.72, 0.58]], atol=1e-6)


def test_decode_clips_to_the_picture_and_keeps_nan():
    defaults = array([[0.0, 1.0, 0.2, 0.2], [0.5, 0.5, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1]])
    offsets = array([[0, 0, 0, 0], [0, 0, 1e30, 0], [np.nan, 0, 0, 0]])
    decoded = boxes.decode(offsets, defaults, VARIANCES)
    np.testing.assert_allclose(decoded[0], [0, 0.9, 0.1, 1], atol=1e-6)
    np.testing.assert_allclose(decoded[1, [0, 2]], [0, 1])
    assert np.isnan(decoded[2, 0])


def test_encode_is_the_inverse_of_decode():
    random = np.random.RandomState(0)
    defaults = boxes.default_boxes(boxes.paper_layers(), (300, 300))[::500]
    centre = random.uniform(0.3, 0.7, (len(defaults), 2))
    side = random.uniform(0.05, 0.3, (len(defaults), 2))
    truth = np.concatenate([centre - side, centre + side], 1).astype(np.float32)
    decoded = boxes.decode(boxes.encode(truth, defaults, VARIANCES), defaults, VARIANCES)
    np.testing.assert_allclose(decoded, truth, atol=2e-6)


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7),
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
        ([0, 0, 2, 2], [2, 0, 4, 2], 0.0),  # they only touch
        ([0, 0, 4, 4], [1, 1, 3, 3], 0.25),  # one inside the other
        ([1, 1, 1, 1], [1, 1, 1, 1], 0.0),  # no area at all
    ],
)
def test_iou_by_hand(first, second, expected):
    assert boxes.iou(array(first), array(second))[0, 0] == pytest.approx(expected)


def test_iou_of_nothing():
    assert boxes.iou(array([]), array([[0, 0, 1, 1]])).shape == (0, 1)


def test_nms_keeps_the_better_of_two_and_the_one_apart():
    sorted_boxes = array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]])
    assert boxes.nms(sorted_boxes, 0.5).tolist() == [0, 2]


def test_nms_suppresses_only_above_the_threshold():
    # IoU is exactly 1/2: 10 x 10 and its upper half
    pair = array([[0, 0, 10, 10], [0, 0, 10, 5]])
    assert boxes.nms(pair, 0.5).tolist() == [0, 1]
    assert boxes.nms(pair, 0.4999).tolist() == [0]


def test_a_suppressed_box_suppresses_nothing():
    chain = array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])  # neighbours 0.43, ends 0.11
    assert boxes.nms(chain, 0.4).tolist() == [0, 2]


def test_nms_of_nothing():
    assert boxes.nms(array([]), 0.5).tolist() == []


def select(offsets, scores, defaults, **changed):
    settings = dict(threshold=0.5, iou_threshold=0.45, max_candidates=100, max_faces=100)
    settings.update(changed)
    return boxes.select(
        np.asarray(offsets, np.float32),
        np.asarray(scores, np.float32),
        array(defaults),
        VARIANCES,
        **settings
    )


APART = [[0.1, 0.1, 0.1, 0.1], [0.3, 0.3, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], [0.7, 0.7, 0.1, 0.1]]
STILL = np.zeros((4, 4), np.float32)


def test_select_sorts_and_takes_scores_at_the_threshold():
    chosen = select(STILL, [0.5, 0.9, 0.49, 0.7], APART)
    assert chosen.indices.tolist() == [1, 3, 0]
    np.testing.assert_allclose(chosen.scores, [0.9, 0.7, 0.5])


def test_equal_scores_keep_the_order_of_the_default_boxes():
    assert select(STILL, [0.8, 0.8, 0.8, 0.8], APART).indices.tolist() == [0, 1, 2, 3]


def test_of_two_equal_boxes_with_equal_scores_the_first_stays():
    chosen = select(STILL[:2], [0.8, 0.8], [APART[0], APART[0]])
    assert chosen.indices.tolist() == [0]


def test_nan_is_no_score_and_no_box():
    offsets = STILL.copy()
    offsets[1] = np.nan
    assert select(offsets, [np.nan, 0.9, 0.9, 0.1], APART).indices.tolist() == [2]


def test_degenerate_boxes_go_before_they_can_suppress():
    outside = [1.5, 0.1, 0.1, 0.1]  # clipped to a line at the edge
    assert select(STILL[:2], [0.9, 0.8], [outside, APART[0]]).indices.tolist() == [1]


def test_the_best_candidates_are_kept_and_the_others_counted():
    chosen = select(STILL, [0.6, 0.9, 0.7, 0.8], APART, max_candidates=2)
    assert chosen.indices.tolist() == [1, 3]
    assert chosen.overflow == 2


def test_max_faces_keeps_the_best():
    assert select(STILL, [0.6, 0.9, 0.7, 0.8], APART, max_faces=1).indices.tolist() == [1]


def test_select_of_nothing():
    chosen = select(STILL, [0.1, 0.1, 0.1, 0.1], APART)
    assert chosen.boxes.shape == (0, 4) and chosen.scores.shape == (0,) and chosen.overflow == 0


def test_every_default_box_over_the_threshold():
    defaults = boxes.default_boxes(boxes.paper_layers(), (300, 300))
    chosen = boxes.select(
        np.zeros_like(defaults), np.ones(len(defaults), np.float32), defaults, VARIANCES,
        0.0, 0.45, len(defaults), len(defaults),
    )
    assert chosen.overflow == 0
    overlap = boxes.iou(chosen.boxes, chosen.boxes) - np.eye(len(chosen.boxes), dtype=np.float32)
    assert overlap.max() <= np.float32(0.45)


def test_to_pixels_stretches_each_axis_by_its_own_side():
    assert boxes.to_pixels(array([[0.5, 0.5, 1, 1]]), (640, 480)).tolist() == [[320, 240, 640, 480]]
