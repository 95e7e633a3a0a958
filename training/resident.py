"""The whole set in the GPU's memory, and the views made there: only boxes travel.

``augment`` chooses a view on the CPU, number by number as for the loader; here the pixels are cut
and distorted by tensor operations. A view differs from the loader's by rounding only (and where
noise is added, by the noise).
"""

from typing import List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training import augment, data

Key = Tuple[int, int, Tuple[int, int]]  # epoch, index, size of the input

_GREY = (0.114, 0.587, 0.299)  # of blue, green, red (ITU-R BT.601)


class Resident:
    """Pictures on a device.

    Args:
        pictures: are decoded once, here.
        windows: how views are chosen.
        seed: of the run; a view depends on it, the epoch and the index only.
        device: where the pixels are kept and the views made.
    """

    def __init__(
        self, pictures: data.Pictures, windows: augment.Recipe, seed: int, device: torch.device
    ) -> None:
        self._windows, self._seed, self._device = windows, seed, device
        self._pixels: List[Tensor] = []  # (H, W, 3) uint8 BGR
        self._boxes: List[Tuple[np.ndarray, np.ndarray]] = []
        for index in range(len(pictures)):
            pixels, faces, ignored = pictures[index]
            self._pixels.append(torch.from_numpy(pixels).to(device))
            self._boxes.append((faces, ignored))

    def batch(self, keys: Sequence[Key]) -> Tuple[Tensor, List[Tensor], List[Tensor]]:
        """As ``train.collate`` gives it, with the pixels on the device."""
        views, parts = [], []
        for epoch, index, input_wh in keys:
            pixels, (faces, ignored) = self._pixels[index], self._boxes[index]
            size_wh = (pixels.shape[1], pixels.shape[0])
            rng = np.random.default_rng((self._seed, epoch, index))
            view = augment.choose(size_wh, faces, ignored, input_wh, self._windows, rng)
            views.append(view)
            parts.append(distort(cut(pixels, view, input_wh), view.distortion))
        whole = torch.stack(parts).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        faces = [torch.from_numpy(view.faces) for view in views]
        return whole, faces, [torch.from_numpy(view.ignored) for view in views]


def bytes_of(pictures: data.Pictures) -> int:
    """What the pictures take, decoded."""
    return sum(pictures[index][0].nbytes for index in range(len(pictures)))


def cut(pixels: Tensor, view: augment.View, input_wh: Tuple[int, int]) -> Tensor:
    """``augment.cut`` on the pixels' device.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (3, h, w) float32, whole numbers from 0 to 255.
    """
    x1, y1, x2, y2 = view.window
    height, width = pixels.shape[:2]
    picture = pixels.permute(2, 0, 1)[None].float() - view.grey  # zero padding is grey then
    reduces = max(input_wh[0] / (x2 - x1), input_wh[1] / (y2 - y1)) < 1
    if view.soft and reduces:
        padded = functional.pad(picture, (1, 0, 1, 0), mode="reflect")
        picture = functional.avg_pool2d(padded, 2, stride=1)
    axes = []
    for low, high, cells, side in ((x1, x2, input_wh[0], width), (y1, y2, input_wh[1], height)):
        centres = (torch.arange(cells, device=pixels.device) + 0.5) / cells
        axes.append((low + centres * (high - low)) * (2 / side) - 1)
    if view.flip:
        axes[0] = axes[0].flip(0)
    grid = torch.stack(torch.meshgrid(axes[1], axes[0], indexing="ij")[::-1], dim=-1)[None]
    method = "nearest" if view.rough else "bilinear"
    part = functional.grid_sample(picture, grid, method, "zeros", align_corners=False)[0]
    return (part + view.grey).round()


def distort(pixels: Tensor, distortion: augment.Distortion) -> Tensor:
    """``augment.distort`` on (3, h, w) float32 BGR of whole numbers."""
    if distortion.light is not None:
        contrast, brightness = distortion.light
        pixels = ((pixels - 110) * contrast + 110 + brightness).clamp(0, 255).floor()
    if distortion.grey:
        weights = torch.tensor(_GREY, device=pixels.device)[:, None, None]
        pixels = (pixels * weights).sum(0, keepdim=True).round().expand(3, -1, -1)
    if distortion.colour is not None:
        pixels = _recolour(pixels, *distortion.colour)
    if distortion.blur_px is not None:
        pixels = _blur(pixels, distortion.blur_px)
    if distortion.noise is not None:
        sigma, seed = distortion.noise
        chance = torch.Generator(pixels.device).manual_seed(seed)
        noise = torch.randn(pixels.shape, generator=chance, device=pixels.device)
        pixels = (pixels + noise * sigma).clamp(0, 255).floor()
    return pixels


def _recolour(pixels: Tensor, turn: float, factor: float) -> Tensor:
    """Hue turned by ``turn`` of 180 and saturation times ``factor``, as by OpenCV's HSV."""
    value, low = pixels.max(0).values, pixels.min(0).values
    chroma = value - low
    blue, green, red = pixels
    safe = chroma.clamp(min=1e-6)
    hue = torch.where(
        value == red, ((green - blue) / safe) % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )  # fmt: skip
    hue = (hue + turn / 30) % 6
    saturation = (chroma / value.clamp(min=1e-6) * factor).clamp(max=1)
    # f(n) = v - v s max(0, min(k, 4 - k, 1)), k = (n + h) mod 6; n of blue, green, red: 1, 3, 5.
    steps = torch.tensor([1.0, 3.0, 5.0], device=pixels.device)[:, None, None]
    place = (steps + hue) % 6
    share = torch.minimum(place, 4 - place).clamp(0, 1)
    return (value - value * saturation * share).round()


def _blur(pixels: Tensor, sigma: float) -> Tensor:
    """Gaussian, of the width that OpenCV takes for eight bits (three sigma on each side)."""
    reach = round(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=pixels.device).float()
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights / weights.sum()
    out = functional.pad(pixels[:, None], (reach, reach, reach, reach), mode="reflect")
    out = functional.conv2d(out, weights[None, None, None, :])
    return functional.conv2d(out, weights[None, None, :, None])[:, 0].round()
