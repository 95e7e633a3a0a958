"""WIDER FACE's layout: what is read, what is skipped and under which name."""

import os

import cv2
import made_faces
import numpy as np
import pytest

from edge_app.errors import ConfigError
from training import data


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_folder_with_everything_that_can_be_wrong(tmp_path):
    listed = made_faces.write_wider(tmp_path, 2)
    folder = tmp_path / "WIDER_train" / "images" / "0--Made"
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    coded = cv2.imencode(".jpg", made_faces.picture(5)[0])[1].tobytes()
    (folder / "half.jpg").write_bytes(coded[: len(coded) // 2])  # OpenCV makes the rest grey
    os.rename(str(folder / "made_1.png"), str(folder / "nobody.png"))
    with open(listed, "a", encoding="utf-8") as file:
        file.write("0--Made/text.jpg\n1\n1 1 5 5 0 0 0 0 0 0\n")
        file.write("0--Made/empty.jpg\n1\n1 1 5 5 0 0 0 0 0 0\n")
        file.write("0--Made/half.jpg\n1\n1 1 5 5 0 0 0 0 0 0\n")
        file.write("0--Made/nobody.png\n0\n0 0 0 0 0 0 0 0 0 0\n")
        file.write("0--Made/made_0.png\n3\n10 20 30 40 0 0 0 0 0 0\n")
        file.write("50 50 0 9 0 0 0 0 0 0\n60 60 20 20 2 0 0 1 0 0\n")
    samples, skipped = data.wider_split(str(tmp_path), "train")
    assert [s.name for s in skipped] == ["0--Made/made_1.png", "0--Made/made_0.png"]
    assert "missing" in skipped[0].reason and "no area" in skipped[1].reason
    nobody, again = samples[-2:]
    assert nobody.faces.shape == (0, 4) and nobody.ignored.shape == (0, 4)
    assert again.faces.tolist() == [[10, 20, 40, 60]]
    assert again.ignored.tolist() == [[60, 60, 80, 80]]
    pictures = data.Pictures(samples)
    broken = ["0--Made/text.jpg", "0--Made/empty.jpg", "0--Made/half.jpg"]
    assert [s.name for s in pictures.skipped] == broken
    assert len(pictures) == 3


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg\n",
        "a.jpg\ntwo\n",
        "a.jpg\n2\n1 2 3 4 0 0 0 0 0 0\n",
        "a.jpg\n1\n1 2 3\n",
        "a.jpg\n-1\n",
    ],
)
def test_a_list_of_another_kind_is_refused_by_name(tmp_path, text):
    write(tmp_path / "list.txt", text)
    with pytest.raises(ConfigError, match="list.txt.*a.jpg"):
        list(data.read_list(str(tmp_path / "list.txt")))


def test_a_missing_list_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="--data"):
        data.wider_split(str(tmp_path), "train")
    path = tmp_path / "wider_face_split" / "wider_face_train_bbx_gt.txt"
    path.parent.mkdir()
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ConfigError, match="not a text.*--data"):
        data.wider_split(str(tmp_path), "train")


def test_large_pictures_are_reduced_with_their_boxes(tmp_path):
    made_faces.write_wider(tmp_path, 1, size_wh=(400, 200), faces=1, sizes_px=(60, 80))
    samples, _ = data.wider_split(str(tmp_path), "train")
    pixels, faces, _ = data.Pictures(samples, long_side_px=100)[0]
    assert pixels.shape == (50, 100, 3)
    np.testing.assert_allclose(faces, samples[0].faces / 4, rtol=1e-6)


def test_a_box_beyond_the_picture_is_clipped_or_dropped(tmp_path):
    listed = made_faces.write_wider(tmp_path, 1)
    with open(listed, "w", encoding="utf-8") as file:
        file.write("0--Made/made_0.png\n2\n150 150 30 30 0 0 0 0 0 0\n200 10 9 9 0 0 0 0 0 0\n")
    samples, _ = data.wider_split(str(tmp_path), "train")
    assert data.Pictures(samples)[0][1].tolist() == [[150, 150, 160, 160]]


def test_no_memory_gives_the_same_pictures(tmp_path):
    made_faces.write_wider(tmp_path, 2)
    samples, _ = data.wider_split(str(tmp_path), "train")
    kept, fresh = data.Pictures(samples), data.Pictures(samples, budget_bytes=0)
    np.testing.assert_array_equal(kept[1][0], fresh[1][0])


def test_the_validation_part_is_apart_and_always_the_same(tmp_path):
    made_faces.write_wider(tmp_path, 10)
    samples, _ = data.wider_split(str(tmp_path), "train")
    first, second = (data.split_validation(samples, 0.3) for _ in range(2))
    assert [s.name for s in first[1]] == [s.name for s in second[1]]
    names = {s.name for part in first for s in part}
    assert len(first[1]) == 3 and len(names) == 10
