"""A packed folder is a folder in WIDER FACE's layout again."""

import tarfile

import made_faces
import numpy as np
import pytest

from edge_app.errors import ConfigError
from edge_app.images import read_image
from training import curves, data, pack


def test_packing_reduces_the_training_pictures_only(tmp_path):
    root = tmp_path / "data"
    made_faces.write_wider(root / "wider", 3, size_wh=(200, 100), faces=1, sizes_px=(40, 50))
    made_faces.write_wider(root / "wider", 2, split="val")
    broken = root / "wider" / "WIDER_train" / "images" / "0--Made" / "made_1.png"
    broken.write_text("no picture")
    file = tmp_path / "data.tar"
    assert pack.pack(str(root), str(file), 50, 90) == 2
    with tarfile.open(str(file)) as archive:
        archive.extractall(str(tmp_path / "there"), filter="data")
    there = str(tmp_path / "there" / "wider")
    before, _ = data.wider_split(str(root / "wider"), "train")
    after, skipped = data.wider_split(there, "train")
    assert [s.name for s in after] == ["0--Made/made_0.png", "0--Made/made_2.png"] and not skipped
    np.testing.assert_allclose(after[0].faces, before[0].faces / 4, atol=0.2)
    assert read_image(after[0].path).shape == (25, 50, 3)
    tests, _ = data.wider_split(there, "val")
    assert read_image(tests[0].path).shape == (160, 160, 3)


def test_a_log_with_a_resume_in_it_is_read_once(tmp_path):
    lines = [
        '{"epoch": 0.5, "score_loss": 2, "box_loss": 1}',
        '{"epoch": 1.0, "score_loss": 9, "box_loss": 0}',
    ]
    lines += ['{"epoch": 1.0, "score_loss": 1, "box_loss": 1, "validation_ap": 0.4}']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    log = curves.read_log(str(tmp_path / "log.jsonl"))
    assert log.losses == [(0.5, 3), (1.0, 2)] and log.validation == [(1.0, 0.4)]
    assert curves.smoothed(log.losses) == ([0.5, 1.0], [3, pytest.approx(2.5)])
    curves.plot([log], str(tmp_path / "out.svg"))
    assert (tmp_path / "out.svg").stat().st_size > 1000


def test_a_file_that_is_no_log_is_refused_by_name(tmp_path):
    for name, text in (("text.jsonl", "step 1"), ("other.jsonl", "{}"), ("list.jsonl", "[1]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=name):
            curves.read_log(str(tmp_path / name))
    with pytest.raises(ConfigError, match="none.jsonl"):
        curves.read_log(str(tmp_path / "none.jsonl"))


def test_a_folder_without_a_test_part_is_packed(tmp_path):
    made_faces.write_wider(tmp_path / "data" / "wider", 2)
    assert pack.pack(str(tmp_path / "data"), str(tmp_path / "data.tar"), 50, 90) == 2
    with tarfile.open(str(tmp_path / "data.tar")) as archive:
        assert not [name for name in archive.getnames() if "_val_" in name]
