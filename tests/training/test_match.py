"""Which default box answers for which face, by hand."""

import torch

from training import match
from training.match import BACKGROUND, IGNORED, Boxes, corners, iou

NONE = torch.zeros(0, 4)


def match_by_overlap(faces, ignored, defaults):
    """Of one picture."""
    return match.match_by_overlap(Boxes.of([faces]), Boxes.of([ignored]), defaults, 1)[0]


def match_adaptively(faces, ignored, defaults, level_sizes, boxes_per_cell):
    """Of one picture."""
    return match.match_adaptively(
        Boxes.of([faces]), Boxes.of([ignored]), defaults, 1, level_sizes, boxes_per_cell
    )[0]


def default(*boxes):
    """Default boxes from corners."""
    xyxy = torch.tensor(boxes, dtype=torch.float32)
    return torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1)


def test_iou_of_a_shifted_square_is_a_third():
    found = iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2]))
    assert torch.isclose(found, torch.tensor(1 / 3))
    assert iou(torch.tensor([0.0, 0, 1, 1]), torch.tensor([5.0, 5, 6, 6])) == 0


def test_the_papers_rule_takes_the_best_and_all_over_a_half():
    defaults = default(
        [0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4], [50, 50, 60, 60], [90, 90, 99, 99]
    )
    faces = torch.tensor([[0.0, 0, 10, 10], [52.0, 52, 70, 70]])
    # 1.0, 0.8 and 0.4 of the first face; 64 / (100 + 324 - 64) = 0.18 of the second, its best.
    owner = match_by_overlap(faces, NONE, defaults)
    assert owner.tolist() == [0, 0, BACKGROUND, 1, BACKGROUND]


def test_a_face_keeps_its_best_box_though_another_overlaps_it_more():
    defaults = default([0, 0, 10, 10], [100, 100, 110, 110])
    faces = torch.tensor([[0.0, 0, 10, 10], [4.0, 4, 12, 12]])
    assert match_by_overlap(faces, NONE, defaults).tolist() == [1, BACKGROUND]


def test_no_faces_is_all_background():
    defaults = default([0, 0, 10, 10], [5, 5, 9, 9])
    assert match_by_overlap(NONE, NONE, defaults).tolist() == [BACKGROUND] * 2
    assert match_adaptively(NONE, NONE, defaults, [2], [1]).tolist() == [BACKGROUND] * 2


def test_what_sees_an_ignored_face_is_neither():
    defaults = default([0, 0, 10, 10], [20, 20, 24, 24], [0, 0, 100, 100], [60, 60, 70, 70])
    ignored = torch.tensor([[18.0, 18, 30, 30]])
    owner = match_by_overlap(NONE, ignored, defaults)
    # The large one holds the ignored face but is far over six times its area.
    assert owner.tolist() == [BACKGROUND, IGNORED, BACKGROUND, BACKGROUND]


def test_a_matched_box_is_never_ignored():
    defaults = default([0, 0, 10, 10])
    face = torch.tensor([[0.0, 0, 10, 10]])
    assert match_by_overlap(face, face, defaults).tolist() == [0]


def grid(step, size, count):
    """count x count cells of square boxes."""
    places = (torch.arange(count) + 0.5) * step
    y, x = torch.meshgrid(places, places, indexing="ij")
    centre = torch.stack([x.flatten(), y.flatten()], 1)
    return torch.cat([centre, torch.full_like(centre, size)], 1)


def test_adaptive_selection_by_hand():
    """One map of 3x3 cells of 10 px, boxes of 10 px; a face of 12x10 about the middle cell.

    Overlaps: the middle one 100 / 120; left and right 10 / 210 each;
    all others 0. Mean plus deviation is about .38, so the middle box is the only one.
    """
    defaults = grid(10, 10.0, 3)
    face = torch.tensor([[9.0, 10, 21, 20]])
    overlap = iou(face, corners(defaults))
    assert torch.isclose(overlap[4], torch.tensor(100 / 120))
    owner = match_adaptively(face, NONE, defaults, [9], [1])
    assert owner.tolist() == [BACKGROUND] * 4 + [0] + [BACKGROUND] * 4


def test_a_tiny_face_between_cells_still_has_a_box():
    defaults = grid(10, 10.0, 3)
    face = torch.tensor([[9.0, 9, 12, 12]])  # no centre of a cell lies in it
    owner = match_adaptively(face, NONE, defaults, [9], [1])
    assert (owner == 0).sum() == 1
    assert owner[0] == 0 or owner[4] == 0


def test_adaptive_selection_prefers_the_map_of_the_faces_size():
    small, large = grid(10, 10.0, 8), grid(40, 40.0, 2)
    defaults = torch.cat([small, large])
    face = torch.tensor([[1.0, 1, 39, 39]])
    owner = match_adaptively(face, NONE, defaults, [64, 4], [1, 1])
    assert owner[64] == 0 and (owner[:64] == BACKGROUND).all()


def test_two_faces_share_the_boxes_by_overlap():
    defaults = grid(10, 10.0, 4)
    faces = torch.tensor([[0.0, 0, 10, 10], [10.0, 0, 20, 10]])
    owner = match_adaptively(faces, NONE, defaults, [16], [1])
    assert owner[0] == 0 and owner[1] == 1


def test_faces_on_the_border_and_larger_than_the_input_do_not_fail():
    defaults = grid(10, 10.0, 3)
    faces = torch.tensor([[-5.0, -5, 3, 3], [-100.0, -100, 200, 200]])
    owner = match_adaptively(faces, NONE, defaults, [9], [1])
    assert set(owner.tolist()) <= {BACKGROUND, 0, 1} and (owner == 1).any()


def test_pictures_of_a_batch_do_not_see_each_other():
    """Three pictures, the middle one empty, at once and apart."""
    generator = torch.Generator().manual_seed(5)
    defaults = torch.cat([grid(10, 10.0, 8), grid(20, 28.0, 4)])
    each, hidden = [], []
    for count in (7, 0, 4):
        low = torch.rand(count, 2, generator=generator) * 60
        each.append(torch.cat([low, low + 4 + torch.rand(count, 2, generator=generator) * 30], 1))
        hidden.append(low.repeat(1, 2) + torch.tensor([-9.0, -9, 3, 3]))
    faces, ignored = Boxes.of(each), Boxes.of(hidden)
    both = (
        (match.match_by_overlap(faces, ignored, defaults, 3), match_by_overlap, ()),
        (
            match.match_adaptively(faces, ignored, defaults, 3, [64, 16], [1, 1]),
            match_adaptively,
            ([64, 16], [1, 1]),
        ),
    )
    for owners, alone, more in both:
        assert owners.shape == (3, 80) and (owners[1] == BACKGROUND).all()
        for number, first in ((0, 0), (2, 7)):
            wanted = alone(each[number], hidden[number], defaults, *more)
            wanted = torch.where(wanted >= 0, wanted + first, wanted)
            assert torch.equal(owners[number], wanted)
            assert (wanted >= 0).any() and (wanted == IGNORED).any()
