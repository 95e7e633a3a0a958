"""What each kernel must move and calculate, and its time on a Nano: computed, never measured.

    python3 -m edge_app.nvidia.budget [MODEL.onnx]

A kernel cannot be faster than its bytes over the memory's rate, nor than its operations over the
GPU's; the larger of the two is the floor given here. Launch overhead and latency come on top.
"""

import sys
from typing import List, NamedTuple, Sequence, Tuple

from edge_app.card import ModelCard, card_path, halvings, load_card
from edge_app.config import DetectorSettings

NANO_BYTES_A_S = 25.6e9  # LPDDR4, 64 bits at 1600 MHz
NANO_FLOPS = 236e9  # float32: 128 cores, 921.6 MHz, a multiply and an add each
CHUNK_BYTES = 32  # the least a GPU reads from memory


class Cost(NamedTuple):
    """Of one kernel, one frame."""

    kernel: str
    bytes_moved: float
    operations: float

    @property
    def floor_us(self) -> float:
        """Microseconds on a Nano that it cannot be faster than."""
        return 1e6 * max(self.bytes_moved / NANO_BYTES_A_S, self.operations / NANO_FLOPS)


def preprocess_costs(card: ModelCard, frame_wh: Tuple[int, int]) -> List[Cost]:
    """The kernels of preprocess.cu: ``halve`` as often as the frame's size asks for, then ``preprocess``.

    Halving reads every pixel and writes a quarter of them; about 5 operations a channel and pixel
    written. Stretching reads two rows a tensor row, every chunk of them at most once, and writes 12
    bytes a pixel; about 30 operations a channel and pixel: four weights, three sums, shifts, scale
    and shift.
    """
    (width, height), costs = frame_wh, []
    for _ in range(halvings(frame_wh, card.input.size_wh)):
        read, written = width * height, (width // 2) * (height // 2)
        costs.append(Cost("halve", 3.0 * (read + written), 5.0 * 3 * written))
        width, height = width // 2, height // 2
    columns, rows = card.input.size_wh
    rows_read = min(height, 2 * rows)
    pixels_read = min(width, 2 * columns)  # a pair of neighbours a column
    row_bytes = min(3.0 * width, CHUNK_BYTES * pixels_read / 2.0)
    moved = rows_read * row_bytes + 12.0 * columns * rows + 16.0 * (columns + rows)
    return costs + [Cost("preprocess", moved, 30.0 * 3 * columns * rows)]


def post_costs(default_boxes: int, found: int, kept: int, capacity: int = 4096) -> List[Cost]:
    """The four kernels of nms.cu when ``found`` scores pass and ``kept`` of the best survive.

    Operations: a compare each rank; about 40 a decoded box with its two exponentials; about 20 an
    overlap; one a word of the mask.
    """
    candidates = min(found, capacity)
    words = (candidates + 63) // 64
    tiles = words * (words + 1) / 2.0
    return [
        Cost("collect", 8.0 * default_boxes + 8 * found, 3.0 * default_boxes),
        Cost(
            "rank_and_decode",
            8.0 * found * (1 + (found + 63) // 64) + 52 * candidates,
            2.0 * found * found + 40 * candidates,
        ),
        Cost("overlap_mask", tiles * 64 * (16 + 16 + 8), tiles * 64 * 64 * 20),
        Cost("suppress", 8.0 * candidates + 8.0 * kept * words + 48 * kept, 2.0 * kept * words),
    ]


def table(card: ModelCard, frame_wh: Tuple[int, int] = (1280, 720)) -> str:
    """A Markdown table for few, some and all default boxes over the threshold."""
    count = len(card.default_boxes())
    lines = [
        "| kernel | candidates | bytes | operations | floor on a Nano (computed) |",
        "|---|---|---|---|---|",
    ]
    rows = [(cost, "-") for cost in preprocess_costs(card, frame_wh)]
    for candidates, kept in ((50, 10), (500, 50), (count, 750)):
        costs = post_costs(count, candidates, kept)
        rows += [(cost, str(candidates)) for cost in costs]
        total = Cost(
            "**all four**",
            sum(cost.bytes_moved for cost in costs),
            sum(cost.operations for cost in costs),
        )
        rows.append((total, str(candidates)))
    for cost, candidates in rows:
        lines.append(
            "| {} | {} | {:,.0f} | {:,.0f} | {:.1f} µs |".format(
                cost.kernel, candidates, cost.bytes_moved, cost.operations, cost.floor_us
            )
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Print the table for a model."""
    path = arguments[0] if arguments else DetectorSettings().model
    sys.stdout.buffer.write((table(load_card(card_path(path))) + "\n").encode("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
