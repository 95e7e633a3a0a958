"""Two models on one picture, side by side."""

import cv2
import made_faces
import numpy as np
import pytest

from edge_app.errors import ConfigError
from training import comparison, export, model


def test_each_model_has_a_panel_with_its_boxes(tmp_path):
    paths = [
        export.export(model.blazeface(), (128, 128), str(tmp_path), name, {}) for name in "ab"
    ]
    picture = str(tmp_path / "picture.png")
    cv2.imwrite(picture, made_faces.picture(3, (120, 90))[0])
    drawn = []
    for threshold in ("0", "1.0"):  # untrained: everything is a face, or nothing
        out = str(tmp_path / "out.png")
        options = ["--picture", picture, "--threshold", threshold, "--width", "240"]
        comparison.main(paths + options + ["--out", out])
        drawn.append(cv2.imread(out))
    wide = 240 + comparison.GAP_PX
    assert drawn[0].shape == (comparison.LABEL_PX + 180, 2 * wide, 3)
    bare = drawn[1][comparison.LABEL_PX :]
    assert np.array_equal(bare[:, :wide], bare[:, wide:])
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("name", ["none/out.png", "out.nothing"])
def test_a_picture_that_cannot_be_written_is_an_error(tmp_path, name):
    with pytest.raises(ConfigError, match="--out .*" + name):
        comparison.write(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))
