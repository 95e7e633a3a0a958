"""Measure the CUDA path on this GPU, by CUDA events, beside torch and beside OpenCV with NumPy.

    python3 measure.py [--rounds 500]          prints a Markdown table

Every row of the table is the median of the rounds. Scores are synthetic, so that the number of
candidates is known: 40 at 0.95, 400 at 0.05, and every default box. torch and torchvision are measured
where they are installed, on the same inputs in the same run.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [
    os.path.dirname(os.path.dirname(HERE)),
    os.path.join(os.path.dirname(HERE), "nvidia"),
]

from edge_app import boxes  # noqa: E402
from edge_app.card import card_path, load_card  # noqa: E402
from edge_app.config import DetectorSettings  # noqa: E402
from edge_app.detector import Stretch  # noqa: E402
from edge_app.errors import DetectorError  # noqa: E402
from edge_app.nvidia import compiler, convert  # noqa: E402
from edge_app.nvidia.buffers import DeviceBuffer, MappedBuffer  # noqa: E402
from edge_app.nvidia.context import CudaContext, describe_gpu  # noqa: E402
from edge_app.nvidia.detector import _PostProcess  # noqa: E402
from edge_app.nvidia.kernels import Kernels, Source, stretch_table  # noqa: E402
from edge_app.nvidia.network import Network  # noqa: E402
from edge_app.nvidia.stream import Stream  # noqa: E402
from edge_app.scene import Scene  # noqa: E402

CASES = (("at 0.95", 0.95, 40), ("at 0.05", 0.05, 400), ("every default box", -1.0, None))


def synthetic_answer(count, passing, threshold, seed=0):
    """(offsets, scores (N, 2)) with exactly ``passing`` scores over the threshold."""
    random = np.random.RandomState(seed)
    offsets = (random.randn(count, 4) * 0.5).astype(np.float32)
    face = random.rand(count).astype(np.float32) * np.float32(max(threshold, 0) * 0.99)
    chosen = random.permutation(count)[: count if passing is None else passing]
    low = max(threshold, 0)
    face[chosen] = (low + (1 - low) * random.rand(len(chosen))).astype(np.float32)
    return offsets, np.ascontiguousarray(np.stack([1 - face, face], 1))


class Rounds(tuple):
    """(warm, counted): how often a thing is done."""

    def median_us(self, once):
        """Median of the counted rounds of ``once``, which gives microseconds."""
        warm, counted = self
        for _ in range(warm):
            once()
        return float(np.median([once() for _ in range(counted)]))


def median_us(stream, rounds, work):
    """Median GPU time of ``work``, in microseconds, by events around each round."""

    def once():
        stream.mark(0)
        work()
        stream.mark(1)
        stream.wait_for(1)
        return stream.between_s(0, 1) * 1e6

    return rounds.median_us(once)


def wall_us(rounds, work):
    """Median wall time on the CPU, in microseconds."""

    def once():
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) * 1e6

    return Rounds((1, max(1, rounds[1] // 20))).median_us(once)


class Bench:
    """Everything that the rows share, on the GPU."""

    def __init__(self, stack, card, settings, cubins, rounds):
        self.card, self.settings, self.rounds = card, settings, rounds
        self.kernels = stack.enter_context(Kernels(cubins))
        self.stream = stack.enter_context(Stream(marks=2))
        self.post = stack.enter_context(_PostProcess(self.kernels, card, settings))
        self._stack = stack

    def _device(self, array):
        buffer = self._stack.enter_context(DeviceBuffer(array.nbytes))
        buffer.upload(array)
        return buffer.address

    def preprocess_us(self, pixels, size_wh):
        """A frame that is in the GPU's memory already, as it is in a Jetson's."""
        spec = self.card.input._replace(width_px=size_wh[0], height_px=size_wh[1])
        height, width = pixels.shape[:2]
        source = Source(self._device(pixels), "BGR", (width, height), 3 * width)
        tables = (
            self._device(stretch_table(width, size_wh[0], False)),
            self._device(stretch_table(height, size_wh[1], True)),
        )
        tensor = self._device(np.zeros((3, size_wh[1], size_wh[0]), np.float32))
        return median_us(
            self.stream,
            self.rounds,
            lambda: self.kernels.preprocess(source, tables, spec, tensor, self.stream),
        )

    def upload_us(self, pixels):
        """What a discrete GPU needs besides: the copy of a frame."""
        mapped = self._stack.enter_context(MappedBuffer((pixels.nbytes,), np.uint8))
        target = self._stack.enter_context(DeviceBuffer(pixels.nbytes))
        return median_us(
            self.stream, self.rounds, lambda: self.stream.upload(target.address, mapped.array)
        )

    def post_us(self, offsets, scores, threshold):
        """(GPU time of threshold, decode and NMS, number of faces)."""
        where = self._device(offsets), self._device(scores)
        work = lambda: self.post.queue(where[0], where[1], threshold, self.stream)  # noqa: E731
        return median_us(self.stream, self.rounds, work), len(self.post.faces()[0])


def torch_rows(card, pixels, answers, rounds):
    """{row: microseconds} of torch and torchvision on the same GPU; empty without them."""
    try:
        import torch
        import torchvision
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    device = torch.device("cuda")
    frame = torch.from_numpy(pixels).to(device)
    defaults = torch.from_numpy(card.default_boxes()).to(device)
    scale = torch.tensor(card.input.scale, device=device)[:, None, None]
    mean = torch.tensor(card.input.mean, device=device)[:, None, None]

    def stretch():
        planes = frame.permute(2, 0, 1)[[2, 1, 0]].float()[None]
        size = (card.input.height_px, card.input.width_px)
        small = torch.nn.functional.interpolate(planes, size, mode="bilinear", align_corners=False)
        return (small[0] - mean) * scale

    def select(offsets, scores, threshold):
        face = scores[:, 1]
        kept = torch.nonzero(face >= threshold)[:, 0]
        kept = kept[torch.argsort(face[kept], descending=True)][:4096]
        base, offset = defaults[kept], offsets[kept]
        centre = base[:, :2] + offset[:, :2] * card.variances[0] * base[:, 2:]
        half = base[:, 2:] * torch.exp(offset[:, 2:] * card.variances[1]) / 2
        corners = torch.cat([centre - half, centre + half], 1).clamp(0, 1)
        return torchvision.ops.nms(corners, face[kept], 0.45)[:750]

    def measured(work):
        def once():
            first, second = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            work()
            second.record()
            second.synchronize()
            return first.elapsed_time(second) * 1e3

        return rounds.median_us(once)

    rows = {"preprocess": measured(stretch)}
    for name, threshold, offsets, scores in answers:
        there = torch.from_numpy(offsets).to(device), torch.from_numpy(scores).to(device)
        rows[name] = measured(lambda: select(there[0], there[1], threshold))
    return rows


def cpu_rows(card, pixels, answers, settings, rounds):
    """{row: microseconds} of OpenCV and NumPy, wall time."""
    stretch, defaults = Stretch(card.input), card.default_boxes()
    rows = {"preprocess": wall_us(rounds, lambda: stretch(pixels))}
    for name, threshold, offsets, scores in answers:
        face = np.ascontiguousarray(scores[:, 1])
        rows[name] = wall_us(
            rounds,
            lambda: boxes.select(
                offsets,
                face,
                defaults,
                card.variances,
                threshold,
                settings.nms_iou,
                settings.max_candidates,
                settings.max_faces,
            ),
        )
    return rows


def engine_text(model, card, rounds, folder):
    """For the table: inference by the engine that TensorRT makes here, or what it answered."""
    try:
        files = convert.build(model, convert.ConvertOptions(output=folder), lambda text: None)
        with CudaContext(), Network(files.engine, card) as network, Stream(marks=2) as stream:
            time_us = median_us(stream, rounds, lambda: network.enqueue(stream))
        version = convert.builder.tensorrt_version(convert.import_tensorrt())
        return "{:.1f} ({}, FP16)".format(time_us, version)
    except DetectorError as error:
        return "not measured: {}".format(str(error).replace("|", "/")[:300])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--warm", type=int, default=20, help="rounds before those that count")
    options = parser.parse_args()
    rounds = Rounds((options.warm, options.rounds))
    settings = DetectorSettings()
    card, gpu = load_card(card_path(settings.model)), describe_gpu()
    pixels, count = Scene().render(0), len(card.default_boxes())
    answers = [
        (name, threshold) + synthetic_answer(count, passing, threshold)
        for name, threshold, passing in CASES
    ]
    ours, faces = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        inference = engine_text(settings.model, card, rounds, folder)
        cubins = compiler.compile_all(gpu.sm, os.path.join(folder, "kernels"))
        with ExitStack() as stack:
            stack.enter_context(CudaContext())
            bench = Bench(stack, card, settings, cubins, rounds)
            ours["preprocess"] = bench.preprocess_us(pixels, card.input.size_wh)
            to_300 = bench.preprocess_us(pixels, (300, 300))
            upload = bench.upload_us(pixels)
            for name, threshold, offsets, scores in answers:
                ours[name], faces[name] = bench.post_us(offsets, scores, threshold)
    cpu = cpu_rows(card, pixels, answers, settings, rounds)
    torch = torch_rows(card, pixels, answers, rounds)
    print_table(gpu, card, count, rounds, ours, torch, cpu, faces, inference, to_300, upload)


def print_table(gpu, card, count, rounds, ours, torch, cpu, faces, inference, to_300, upload):
    print("{} (sm_{}), {}, medians of {} rounds, microseconds".format(
        gpu.name, gpu.sm, time.strftime("%Y-%m-%d"), rounds[1]))  # fmt: skip
    print(
        "\n| step | faces | ours, GPU time | torch + torchvision, GPU time | OpenCV + NumPy, CPU |"
    )
    print("|---|---|---|---|---|")
    for name in ["preprocess"] + [case[0] for case in CASES]:
        size = "{}x{}".format(*card.input.size_wh)
        label = "preprocess 1280x720 to " + size if name == "preprocess" else "decode + NMS " + name
        theirs = "{:.1f}".format(torch[name]) if torch else "-"
        print("| {} | {} | {:.1f} | {} | {:.1f} |".format(
            label, faces.get(name, "-"), ours[name], theirs, cpu[name]))  # fmt: skip
    print("| preprocess 1280x720 to 300x300 | - | {:.1f} | | |".format(to_300))
    print("| copy of a frame to a discrete GPU | - | {:.1f} | | |".format(upload))
    print("| inference | - | {} | | |".format(inference))
    for name, limit in (("at 0.95", 60), ("at 0.05", 200)):
        total = ours["preprocess"] + ours[name]
        verdict = "met" if total <= limit else "MISSED"
        print("\nPreprocess + decode + NMS {}: {:.1f} of {} microseconds allowed: {}".format(
            name, total, limit, verdict))  # fmt: skip
    print("\n{} default boxes.".format(count))


if __name__ == "__main__":
    main()
