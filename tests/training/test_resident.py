"""Views made by tensor operations are the loader's views, give or take a rounding."""

import made_faces
import numpy as np
import pytest
import torch

from training import augment, data, resident, train

CPU = torch.device("cpu")
PLAIN = augment.Distortion(None, False, None, None, None)


def picture(seed=3):
    """Smooth enough that an eighth of a pixel makes little difference."""
    import cv2

    pixels = made_faces.picture(seed, (120, 100))[0]
    return cv2.GaussianBlur(pixels, (0, 0), 2)


def view(window, **changes):
    none = np.zeros((0, 4), np.float32)
    return augment.View(window, False, 99, PLAIN, none, none)._replace(**changes)


class Set(list):
    """Pictures as ``data.Pictures`` gives them, without boxes."""

    def __getitem__(self, index):
        return super().__getitem__(index), *([np.zeros((0, 4), np.float32)] * 2)


@pytest.mark.parametrize("window", [(10.0, 20.0, 70.0, 80.0), (-30.0, -10.0, 150.0, 130.0)])
@pytest.mark.parametrize("changes", [{}, {"flip": True}])
@pytest.mark.parametrize("input_wh", [(64, 48), (32, 24), (22, 22)])  # the latter two: halved
def test_a_window_is_cut_as_by_the_loader(window, changes, input_wh):
    pixels, one = picture(), view(window, **changes)
    other = view((5.0, 5.0, 60.0, 90.0))
    kept = resident.Resident(Set([np.full((40, 30, 3), 7, np.uint8), pixels]), CPU)
    cut = kept.cut(resident.Plan([1, 1, 0], [other, one, other], input_wh)).numpy()
    assert cut.shape == (3, input_wh[1], input_wh[0], 3)
    for made, choice in ((cut[0], other), (cut[1], one)):
        wanted = augment.cut(pixels, choice, input_wh).astype(float)
        difference = np.abs(made - wanted)
        assert difference.mean() < 0.6 and np.percentile(difference, 98) <= 3
    assert set(np.unique(cut[2].round())) >= {7, 99}


@pytest.mark.parametrize(
    "change",
    [
        {"light": (1.3, -20.0)},
        {"grey": True},
        {"colour": (8.0, 1.4)},
        {"colour": (-9.0, 0.6)},
        {"blur_px": 1.2},
        {"light": (0.7, 30.0), "colour": (5.0, 1.2), "blur_px": 0.7},
    ],
)
def test_light_and_colour_change_as_by_the_loader(change):
    pixels, distortion = picture(), PLAIN._replace(**change)
    wanted = augment.distort(pixels, distortion).astype(float)
    tensor = torch.from_numpy(pixels).float()
    both = resident.distort(torch.stack([tensor, tensor]), [PLAIN, distortion]).numpy()
    assert np.array_equal(both[0], pixels)
    changed = both[1]
    difference = np.abs(changed - wanted)
    assert difference.mean() < 1.5 and difference.max() <= 12  # OpenCV's hue has 180 steps
    assert np.abs(changed - pixels).mean() > 0.5


def test_noise_has_the_wanted_strength_and_comes_from_its_seed():
    noisy = PLAIN._replace(noise=(10.0, 7))
    first, second = resident.distort(torch.full((2, 64, 64, 3), 128.0), [noisy, noisy])
    assert torch.equal(first, second) and 9 < float(first.std()) < 11


def test_a_batch_is_that_of_the_loader(tmp_path):
    made_faces.write_wider(tmp_path, 5, size_wh=(96, 96), faces=2, sizes_px=(16, 40))
    pictures = data.Pictures(data.wider_split(str(tmp_path), "train")[0])
    keys = [(0, index, (64, 64)) for index in range(4)]
    views = train.Views(pictures, augment.FACES, seed=1)
    loaded = train.collate([views[key] for key in keys])
    chosen = resident.Chosen(pictures, augment.FACES, 1)
    plan = chosen.collate([chosen[key] for key in keys])
    made = resident.Resident(pictures, CPU).make(plan)
    assert made[0].shape == loaded[0].shape and made[0].dtype == torch.uint8
    for mine, theirs in zip([*made[1], *made[2]], [*loaded[1], *loaded[2]]):
        assert torch.equal(mine, theirs)
    assert float((made[0].float() - loaded[0].float()).abs().median()) <= 2
    assert resident.bytes_of(pictures) == 5 * (96 * 96 + 48 * 48 + 24 * 24) * 3


def test_a_run_with_its_set_on_the_device_learns_and_goes_on(tmp_path):
    made_faces.write_wider(tmp_path / "set", 9, size_wh=(96, 96), faces=2, sizes_px=(16, 40))
    options = ["blazeface", "--data", str(tmp_path / "set"), "--size", "64x64", "--batch", "4"]
    options += ["--epochs", "2", "--threads", "1", "--device", "cpu", "--no-bf16", "--resident"]
    train.main(options + ["--out", str(tmp_path / "whole")])
    train.main(options + ["--out", str(tmp_path / "broken"), "--stop-at", "3"])
    train.main(options + ["--out", str(tmp_path / "broken")])
    whole, broken = (
        torch.load(str(tmp_path / name / "final.pt"), weights_only=True)["model"]
        for name in ("whole", "broken")
    )
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())
