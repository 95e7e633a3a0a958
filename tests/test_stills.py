"""The ``detect`` command: every image gets its line, in order, and memory stays where it is."""

import json
import os

import cv2
import numpy as np
import pytest
from models import make_bright

from edge_app.cli import main


@pytest.fixture
def command(tmp_path):
    (tmp_path / "model").mkdir()
    model = make_bright(tmp_path / "model")

    def call(*arguments):
        return main(["detect", "--set", "detector.model=" + model] + [str(a) for a in arguments])

    return call


def write(path, size_wh=(64, 48), white=((0, 0, 16, 16),)):
    pixels = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    for x1, y1, x2, y2 in white:
        pixels[y1:y2, x1:x2] = 255
    cv2.imwrite(str(path), pixels)
    return path


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_documented_json_object_an_image(command, tmp_path, capsys):
    path = write(tmp_path / "a.png", (128, 96), [(32, 32, 64, 64)])
    assert command("--json", path) == 0
    (found,) = lines(capsys)
    assert list(found) == ["file", "width", "height", "faces"]
    assert (found["file"], found["width"], found["height"]) == (str(path), 128, 96)
    (face,) = found["faces"]
    assert face["box"] == pytest.approx([32, 32, 64, 64], abs=0.02)
    assert 0.99 < face["score"] <= 1


def test_scores_descend_at_threshold_zero(command, tmp_path, capsys):
    assert command("--json", "--threshold", "0", write(tmp_path / "a.png")) == 0
    scores = [face["score"] for face in lines(capsys)[0]["faces"]]
    assert len(scores) == 12 and scores == sorted(scores, reverse=True)


def test_without_json_a_line_for_people(command, tmp_path, capsys):
    command(write(tmp_path / "a.png"), write(tmp_path / "b.png", white=()))
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("a.png: 1 face: 100.0% at 0,0 to 16,16")
    assert second.endswith("b.png: 0 faces")


def test_a_bad_image_is_reported_and_the_others_go_on(command, tmp_path, capsys):
    write(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("hello")
    write(tmp_path / "c.png")
    assert command("--json", tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "c.png") == 65
    captured = capsys.readouterr()
    assert [os.path.basename(json.loads(line)["file"]) for line in captured.out.splitlines()] == [
        "a.png",
        "c.png",
    ]
    assert "b.jpg" in captured.err and len(captured.err.strip().splitlines()) == 1


def test_nothing_there_is_an_error(command, tmp_path, capsys):
    assert command(tmp_path / "none.jpg") != 0
    assert "none.jpg" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert command(tmp_path / "empty") != 0


def test_drawn_images_have_the_box(command, tmp_path):
    path = write(tmp_path / "a.png", (320, 240), [(80, 80, 160, 160)])
    assert command("--draw", tmp_path / "drawn", path) == 0
    before, after = cv2.imread(str(path)), cv2.imread(str(tmp_path / "drawn" / "a.png"))
    assert after.shape == before.shape
    changed = np.argwhere((before != after).any(axis=2))
    assert 60 <= changed[:, 1].min() <= 82 and 158 <= changed[:, 1].max() <= 180


def test_a_drawing_never_overwrites_its_image(command, tmp_path, capsys):
    path = write(tmp_path / "a.png")
    before = path.read_bytes()
    assert command("--draw", tmp_path, path) == 74
    assert path.read_bytes() == before
    assert "give another folder" in capsys.readouterr().err


def test_a_drawing_never_overwrites_another_image(command, tmp_path, capsys):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.png")
    before = (tmp_path / "two" / "a.png").read_bytes()
    assert command("--draw", tmp_path / "two", tmp_path / "one", tmp_path / "two") == 74
    assert (tmp_path / "two" / "a.png").read_bytes() == before
    assert "two/a.png would be overwritten by the drawing of" in capsys.readouterr().err


def test_images_of_one_name_get_a_drawing_each(command, tmp_path):
    paths = []
    for number, name in enumerate(["a.png", "a.bmp", "a.tif", "a.png"]):
        (tmp_path / str(number)).mkdir()
        paths.append(write(tmp_path / str(number) / name, (64 + 16 * number, 48)))
    for _ in range(2):  # again, over those of before
        assert command("--draw", tmp_path / "drawn", *paths) == 0
        names = ["a.png", "a.bmp", "a-2.png", "a-3.png"]
        assert sorted(os.listdir(str(tmp_path / "drawn"))) == sorted(names)
        widths = [cv2.imread(str(tmp_path / "drawn" / name)).shape[1] for name in names]
        assert widths == [64, 80, 96, 112]


def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_358_images_in_order_without_growing(command, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    random = np.random.RandomState(0)
    for number in range(358):
        width, height = random.randint(200, 1100, 2)
        write(folder / "{:03d}.jpg".format(number), (int(width), int(height)), [(0, 0, 99, 99)])
    memory = []
    from edge_app import stills

    honest = stills.as_dict
    monkeypatch.setattr(stills, "as_dict", lambda *a: (memory.append(resident_mb()), honest(*a))[1])
    assert command("--json", folder) == 0
    found = lines(capsys)
    assert [os.path.basename(one["file"]) for one in found] == sorted(os.listdir(str(folder)))
    assert memory[-1] - memory[50] < 60


def test_covered_faces_in_drawn_images(command, tmp_path):
    path = write(tmp_path / "a.png", (256, 192), [(0, 0, 64, 64)])
    pixels = cv2.imread(str(path))
    pixels[0:64:2, 0:64] = 230  # stripes, which a cell has no place for
    cv2.imwrite(str(path), pixels)
    drawn = []
    for name, more in (("plain", []), ("covered", ["--set", "privacy.mode=blur"])):
        assert command("--draw", tmp_path / name, *more, path) == 0
        drawn.append(cv2.imread(str(tmp_path / name / "a.png"))[20:40, 20:40].astype(int))
    plain, covered = (np.abs(np.diff(part, axis=0)).max() for part in drawn)
    assert plain == 25 and covered < 5
