"""The whole set in the GPU's memory, and the views made there, a batch at a time: only boxes travel.

``augment.choose`` draws a view on the CPU, number by number as for the loader; here the pixels are
cut and distorted by tensor operations. A view differs from the loader's by rounding only (and where
noise is added, by the noise). For views of much of a picture it is kept halved as well, which takes
a third more.
"""

from typing import List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from edge_app.card import halvings
from edge_app.detector import halved
from training import augment, data
from training.match import Boxes

Key = Tuple[int, int, Tuple[int, int]]  # epoch, index, size of the input

HALVINGS = 2  # kept of each picture; views that would be halved more often alias
_GREY = (0.114, 0.587, 0.299)  # of blue, green, red (ITU-R BT.601)


class Plan(NamedTuple):
    """The views of a batch, chosen and not yet made."""

    indices: Sequence[int]
    views: Sequence[augment.View]
    input_wh: Tuple[int, int]


class Chosen(Dataset):
    """Views by their keys; drawn fast enough for a few processes to feed any GPU.

    Args:
        pictures: of which only sizes and boxes are used.
        windows: how views are chosen.
        seed: of the run; a view depends on it, the epoch and the index only.
    """

    def __init__(self, pictures: data.Pictures, windows: augment.Recipe, seed: int) -> None:
        self._windows, self._seed = windows, seed
        self._known = []
        for index in range(len(pictures)):
            pixels, faces, ignored = pictures[index]
            self._known.append(((pixels.shape[1], pixels.shape[0]), faces, ignored))

    def __getitem__(self, key: Key) -> Tuple[int, augment.View, Tuple[int, int]]:
        epoch, index, input_wh = key
        rng = np.random.default_rng((self._seed, epoch, index))
        view = augment.choose(*self._known[index], input_wh, self._windows, rng)
        return index, view, input_wh

    @staticmethod
    def collate(chosen: Sequence[Tuple[int, augment.View, Tuple[int, int]]]) -> Plan:
        """A batch, all of the same size."""
        indices, views, sizes = zip(*chosen)
        return Plan(indices, views, sizes[0])


class Resident:
    """Pictures on a device.

    Args:
        pictures: are decoded once, here.
        device: where the pixels are kept and the views made.
    """

    def __init__(self, pictures: data.Pictures, device: torch.device) -> None:
        wholes = np.array([pictures[index][0].shape[:2] for index in range(len(pictures))])
        sizes = wholes // (1 << np.arange(HALVINGS + 1))[:, None, None]
        areas = sizes.prod(2).ravel()
        firsts = (np.cumsum(areas) - areas).reshape(sizes.shape[:2])
        self._first = torch.tensor(firsts, device=device)  # (HALVINGS + 1, n)
        self._sizes = torch.tensor(sizes, device=device)  # (HALVINGS + 1, n, 2) height, width
        self._store = torch.empty((int(areas.sum()), 3), dtype=torch.uint8, device=device)
        for index in range(len(pictures)):
            pixels = pictures[index][0]
            for times, first in enumerate(firsts[:, index]):
                if not sizes[times, index].all():
                    break
                if times:
                    pixels = halved(pixels)
                flat = torch.from_numpy(np.ascontiguousarray(pixels).reshape(-1, 3))
                self._store[first : first + len(flat)] = flat.to(device)

    def make(self, plan: Plan) -> Tuple[Tensor, Boxes, Boxes]:
        """(B, H, W, 3) uint8 BGR on the device, and the faces and what to ignore, not there yet."""
        pixels = distort(self.cut(plan), [view.distortion for view in plan.views])
        faces = Boxes.of([torch.from_numpy(view.faces) for view in plan.views])
        ignored = Boxes.of([torch.from_numpy(view.ignored) for view in plan.views])
        return pixels.clamp(0, 255).to(torch.uint8), faces, ignored

    def cut(self, plan: Plan) -> Tensor:
        """``augment.cut`` of every view: (B, h, w, 3) float32, whole numbers from 0 to 255."""
        cells_wh, device, views = plan.input_wh, self._store.device, plan.views
        index = torch.tensor(plan.indices, device=device)
        windows = np.array([view.window for view in views])
        times = [halvings(tuple(one[2:] - one[:2]), cells_wh) for one in windows]
        times = np.minimum(times, HALVINGS)
        low_high = torch.tensor(windows / (1 << times)[:, None], dtype=torch.float32, device=device)
        flip = torch.tensor([view.flip for view in views], device=device)[:, None]
        grey = torch.tensor([float(view.grey) for view in views], device=device)
        places = []
        for axis in range(2):  # x and y in pixels of the picture, half-pixel centres
            share = (torch.arange(cells_wh[axis], device=device) + 0.5) / cells_wh[axis]
            share = share.expand(len(views), -1)
            if axis == 0:
                share = torch.where(flip, 1 - share, share)
            low, high = low_high[:, axis : axis + 1], low_high[:, axis + 2 : axis + 3]
            places.append(low + share * (high - low) - 0.5)
        chosen = (torch.tensor(times, device=device), index)
        return self._bilinear(chosen, places, grey).round()

    def _bilinear(
        self, chosen: Tuple[Tensor, Tensor], places: Sequence[Tensor], grey: Tensor
    ) -> Tensor:
        """Pixels at (B, w) x and (B, h) y; grey beyond the edge.

        Args:
            chosen: (B,) each, how often halved and which picture.
        """
        (x0, y0), out = (place.floor() for place in places), None
        x_share, y_share = places[0] - x0, places[1] - y0
        height, width = self._sizes[chosen][:, :1], self._sizes[chosen][:, 1:]
        for down in range(2):
            y = y0.long() + down
            row = self._first[chosen][:, None] + y.clamp(min=0).minimum(height - 1) * width
            y_inside = (y >= 0) & (y < height)
            y_weight = y_share if down else 1 - y_share
            for right in range(2):
                x = x0.long() + right
                column = x.clamp(min=0).minimum(width - 1)
                inside = y_inside[:, :, None] & ((x >= 0) & (x < width))[:, None]
                pixels = self._store[row[:, :, None] + column[:, None]].float()
                pixels = torch.where(inside[..., None], pixels, grey[:, None, None, None])
                weight = y_weight[:, :, None] * (x_share if right else 1 - x_share)[:, None]
                part = pixels * weight[..., None]
                out = part if out is None else out + part
        return out


def bytes_of(pictures: data.Pictures) -> int:
    """What the pictures take on the device, give or take their odd rows and columns."""
    whole = sum(pictures[index][0].nbytes for index in range(len(pictures)))
    return sum(whole >> 2 * times for times in range(HALVINGS + 1))


def distort(pixels: Tensor, distortions: Sequence[augment.Distortion]) -> Tensor:
    """``augment.distort`` of each of (B, h, w, 3) float32 BGR of whole numbers, in place."""

    def those(which: Sequence[bool]) -> Tensor:
        return torch.tensor(np.flatnonzero(which), device=pixels.device)

    def values(which: Tensor, field: str) -> Tensor:
        chosen = [getattr(distortions[number], field) for number in which.tolist()]
        return torch.tensor(chosen, dtype=torch.float32, device=pixels.device)

    lit = those([one.light is not None for one in distortions])
    if len(lit):
        contrast, brightness = values(lit, "light").view(-1, 2, 1, 1, 1).unbind(1)
        pixels[lit] = ((pixels[lit] - 110) * contrast + 110 + brightness).clamp(0, 255).floor()
    faded = those([one.grey for one in distortions])
    if len(faded):
        weights = torch.tensor(_GREY, device=pixels.device)
        pixels[faded] = (pixels[faded] * weights).sum(-1, keepdim=True).round().expand(-1, -1, -1, 3)
    coloured = those([one.colour is not None for one in distortions])
    if len(coloured):
        turn, factor = values(coloured, "colour").view(-1, 2, 1, 1).unbind(1)
        pixels[coloured] = _recolour(pixels[coloured], turn, factor)
    blurred = those([one.blur_px is not None for one in distortions])
    if len(blurred):
        pixels[blurred] = _blur(pixels[blurred], values(blurred, "blur_px"))
    for number, one in enumerate(distortions):
        if one.noise is not None:
            sigma, seed = one.noise
            chance = torch.Generator(pixels.device).manual_seed(seed)
            noise = torch.randn(pixels.shape[1:], generator=chance, device=pixels.device)
            pixels[number] = (pixels[number] + noise * sigma).clamp(0, 255).floor()
    return pixels


def _recolour(pixels: Tensor, turn: Tensor, factor: Tensor) -> Tensor:
    """Hue turned by ``turn`` of 180 and saturation times ``factor``, as by OpenCV's HSV.

    Args:
        pixels: (n, h, w, 3). turn, factor: (n, 1, 1).
    """
    value, low = pixels.max(-1).values, pixels.min(-1).values
    chroma = value - low
    blue, green, red = pixels.unbind(-1)
    safe = chroma.clamp(min=1e-6)
    hue = torch.where(
        value == red, ((green - blue) / safe) % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )  # fmt: skip
    hue = (hue + turn / 30) % 6
    saturation = (chroma / value.clamp(min=1e-6) * factor).clamp(max=1)
    # f(n) = v - v s max(0, min(k, 4 - k, 1)), k = (n + h) mod 6; n of blue, green, red: 1, 3, 5.
    steps = torch.tensor([1.0, 3.0, 5.0], device=pixels.device)
    place = (steps + hue[..., None]) % 6
    share = torch.minimum(place, 4 - place).clamp(0, 1)
    return (value[..., None] - (value * saturation)[..., None] * share).round()


def _blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian, of the width that OpenCV takes for eight bits (three sigma on each side).

    Args:
        pixels: (n, h, w, 3). sigma: (n,) in pixels.
    """
    count, height, width, _ = pixels.shape
    reach = int((3 * sigma).round().max())
    offsets = torch.arange(-reach, reach + 1, device=pixels.device).float()
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights * (offsets.abs() <= (3 * sigma).round()[:, None])
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    planes = pixels.permute(0, 3, 1, 2).reshape(1, -1, height, width)
    planes = functional.pad(planes, (reach, reach, reach, reach), mode="reflect")
    planes = functional.conv2d(planes, weights[:, :, None], groups=3 * count)
    planes = functional.conv2d(planes, weights[:, :, :, None], groups=3 * count)
    return planes.view(count, 3, height, width).permute(0, 2, 3, 1).round()
