"""Measure the CUDA path on this GPU, by CUDA events, beside torch and beside OpenCV with NumPy.

    python3 measure.py [--rounds 300]          prints Markdown tables

Every row of the table is the median of the rounds. Scores are synthetic, so that the number of
candidates is known: 40 at 0.95, 400 at 0.05, and every default box. torch and torchvision are measured
where they are installed, on the same inputs in the same run. What cannot be measured says why, and
keeps nothing else from being measured.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from unittest import mock

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [
    os.path.dirname(os.path.dirname(HERE)),
    os.path.join(os.path.dirname(HERE), "nvidia"),
]

from torch_network import TorchNetwork  # noqa: E402

from edge_app import boxes  # noqa: E402
from edge_app.card import card_path, halvings, load_card  # noqa: E402
from edge_app.config import DetectorSettings  # noqa: E402
from edge_app.detector import Stretch  # noqa: E402
from edge_app.nvidia import budget, cache, compiler, convert, parity  # noqa: E402
from edge_app.nvidia import detector as cuda_detector  # noqa: E402
from edge_app.nvidia.buffers import DeviceBuffer, MappedBuffer  # noqa: E402
from edge_app.nvidia.context import CudaContext, describe_gpu, import_driver  # noqa: E402
from edge_app.nvidia.detector import CudaDetector, _FrameInput, _PostProcess  # noqa: E402
from edge_app.nvidia.jetson import GpuPixels  # noqa: E402
from edge_app.nvidia.kernels import Kernels, Source  # noqa: E402
from edge_app.nvidia.network import Network  # noqa: E402
from edge_app.nvidia.stream import Stream  # noqa: E402
from edge_app.scene import Scene  # noqa: E402

LIMIT_S = 2.0  # of one row
POST_KERNELS = ("collect", "rank_and_decode", "overlap_mask", "suppress")
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
    """(warm, counted): how often a thing is done, but no longer than LIMIT_S (and at least once)."""

    def medians(self, once):
        """Median, column by column, of what the counted rounds of ``once`` give."""
        warm, counted = self
        deadline, seen = time.monotonic() + LIMIT_S, []
        for number in range(warm + counted):
            if seen and time.monotonic() > deadline:
                break
            answer = once()
            if number >= warm or time.monotonic() > deadline:
                seen.append(answer)
        return np.median(seen, axis=0).tolist()

    def median_us(self, once):
        """Median of the counted rounds of ``once``, which gives microseconds."""
        return self.medians(once)


class Timer:
    """Medians of GPU time by events on one stream.

    ``gpu_us`` keeps the GPU busy with a memset first, so that the work lies queued when its turn comes: no launch of
    Python's shows in it, and the caches are cold. ``called_us`` is the same with the stream empty, as in the loop.
    """

    def __init__(self, stack, rounds, ahead_mib):
        self.stream = stack.enter_context(Stream(marks=8))
        self._rounds = rounds
        self._busy = stack.enter_context(DeviceBuffer(ahead_mib << 20))

    def _marked(self, work, ahead):
        if ahead:
            memset = import_driver().memset_d8_async
            memset(self._busy.address, 0, self._busy.size_bytes, self.stream.raw)
        self.stream.mark(0)
        work()
        self.stream.mark(1)
        self.stream.wait_for(1)

    def _once(self, work, ahead):
        self._marked(work, ahead)
        return self.stream.between_s(0, 1) * 1e6

    def gpu_us(self, work):
        return self._rounds.median_us(lambda: self._once(work, True))

    def called_us(self, work):
        return self._rounds.median_us(lambda: self._once(work, False))

    def both_us(self, work):
        """(gpu_us, called_us)"""
        return self.gpu_us(work), self.called_us(work)

    def steps_us(self, work, steps):
        """Medians between the marks 2, 3, ... that ``work`` makes after each of its steps; mark 0 is before them."""
        marks = [0] + list(range(2, 2 + steps))

        def once():
            self._marked(work, True)
            pairs = zip(marks, marks[1:])
            return [self.stream.between_s(first, second) * 1e6 for first, second in pairs]

        return self._rounds.medians(once)


def wall_us(rounds, work):
    """Median wall time on the CPU, in microseconds."""

    def once():
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) * 1e6

    return Rounds((1, max(1, rounds[1] // 20))).median_us(once)


class MarkedKernels(Kernels):
    """Kernels that leave a mark behind each launch while ``mark`` is not 0."""

    mark = 0

    def _launch(self, index, grid, block, stream, *arguments, shared_bytes=0):
        super()._launch(index, grid, block, stream, *arguments, shared_bytes=shared_bytes)
        if self.mark:
            stream.mark(self.mark)
            self.mark += 1


class Bench:
    """Everything that the rows share, on the GPU."""

    def __init__(self, stack, card, settings, cubins, timer):
        self.card, self.timer = card, timer
        self.kernels = stack.enter_context(MarkedKernels(cubins))
        self.post = stack.enter_context(_PostProcess(self.kernels, card, settings))
        self._stack = stack

    def _device(self, array):
        buffer = self._stack.enter_context(DeviceBuffer(array.nbytes))
        buffer.upload(array)
        return buffer.address

    def preprocess_us(self, pixels, card, gpu):
        """(GPU time and as called, GPU time by kernel) of a frame in the GPU's memory, where a Jetson's lies."""
        width, height = card.input.size_wh
        tensor = self._device(np.zeros((3, height, width), np.float32))
        frame = pixels.view(GpuPixels)
        frame.on_gpu = Source(self._device(pixels), "BGR", pixels.shape[1::-1], 3 * pixels.shape[1])
        frames = self._stack.enter_context(_FrameInput(self.kernels, card, gpu))
        source = frames.place(frame, self.timer.stream)

        def work():
            frames.preprocess(source, tensor, self.timer.stream)

        steps = 1 + halvings(source.size_wh, card.input.size_wh)
        return self.timer.both_us(work), self._by_kernel(work, steps)

    def _by_kernel(self, work, steps):
        def marked():
            self.kernels.mark = 2
            work()
            self.kernels.mark = 0

        return self.timer.steps_us(marked, steps)

    def upload_us(self, pixels):
        """What a discrete GPU needs besides: the copy of a frame."""
        mapped = self._stack.enter_context(MappedBuffer((pixels.nbytes,), np.uint8))
        target = self._stack.enter_context(DeviceBuffer(pixels.nbytes))
        stream = self.timer.stream
        return self.timer.both_us(lambda: stream.upload(target.address, mapped.array))

    def post_us(self, offsets, scores, threshold):
        """(GPU time of threshold, decode and NMS, as called, number of faces, the same by kernel)."""
        where, stream = (self._device(offsets), self._device(scores)), self.timer.stream

        def work():
            self.post.queue(where[0], where[1], threshold, stream)

        times = self.timer.both_us(work)
        return times, len(self.post.faces()[0]), self._by_kernel(work, len(POST_KERNELS))


def torch_rows(card, pixels, answers, rounds, ahead_mib):
    """{row: (microseconds with work queued ahead, as called, faces)} of torch and torchvision, on the same GPU.

    torch waits for the GPU to know how many candidates there are; that is in both figures.
    """
    import torch
    import torchvision

    device = torch.device("cuda")
    busy = torch.empty(ahead_mib << 20, dtype=torch.uint8, device=device)
    frame = torch.from_numpy(pixels).to(device)
    defaults = torch.from_numpy(card.default_boxes()).to(device)
    scale = torch.tensor(card.input.scale, device=device)[:, None, None]
    mean = torch.tensor(card.input.mean, device=device)[:, None, None]

    def stretch(size_wh):
        planes = frame.permute(2, 0, 1)[[2, 1, 0]].float()[None]
        size = (size_wh[1], size_wh[0])
        for _ in range(halvings(pixels.shape[1::-1], size_wh)):
            planes = torch.nn.functional.avg_pool2d(planes, 2)
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

    def once(work, ahead):
        first, second = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if ahead:
            busy.zero_()
        first.record()
        work()
        second.record()
        second.synchronize()
        return first.elapsed_time(second) * 1e3

    def measured(work):
        return [rounds.median_us(lambda: once(work, ahead)) for ahead in (True, False)]

    rows = {name: measured(lambda: stretch(size)) + ["-"] for name, size in sizes(card)}
    for name, threshold, offsets, scores in answers:
        there = torch.from_numpy(offsets).to(device), torch.from_numpy(scores).to(device)
        work = lambda: select(there[0], there[1], threshold)  # noqa: B023, E731
        rows[name] = measured(work) + [len(work())]
    return rows


def cpu_rows(card, pixels, answers, settings, rounds):
    """{row: microseconds} of OpenCV and NumPy, wall time."""
    defaults, rows = card.default_boxes(), {}
    for name, (width, height) in sizes(card):
        stretch = Stretch(card.input._replace(width_px=width, height_px=height))
        rows[name] = wall_us(rounds, lambda: stretch(pixels))
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


def sizes(card):
    """Row and size of what a frame is stretched to."""
    return [
        ("preprocess 1280x720 to {}x{}".format(*size), size)
        for size in (card.input.size_wh, (300, 300))
    ]


def engine_times(model, card, rounds, ahead_mib, folder):
    """(times, what the build and the parity gate said) of the engine that TensorRT makes here."""
    said = []
    files = convert.build(model, convert.ConvertOptions(output=folder), said.append)
    with CudaContext(), Network(files.engine, card) as network:
        times = network_times(network, rounds, ahead_mib)
    return times, [line for line in said if "parity" in line or "built" in line]


def torch_times(model, card, rounds, ahead_mib):
    """The same of torch: cuDNN in half precision, as one CUDA graph."""
    with CudaContext(), TorchNetwork(model, card) as network:
        times = network_times(network, rounds, ahead_mib)
        reference = parity.onnx_answers(model, card)
        result = parity.compare(reference, network.run, card, parity.golden_pictures())
    return times, ["{}: {}".format(result, result.problem or "passes the gate")]


def network_times(network, rounds, ahead_mib):
    """(GPU, as called) of one inference."""
    with ExitStack() as stack:
        timer = Timer(stack, rounds, ahead_mib)
        return timer.both_us(lambda: network.enqueue(timer.stream))


def or_reason(what, work, *arguments):
    """What ``work`` gives, or None after a line that says why there is nothing: the other parts go on."""
    try:
        return work(*arguments)
    except Exception as error:  # whatever a missing or foreign library raises
        print("NOT MEASURED, {}: {}: {}".format(what, type(error).__name__, str(error)[:600]))
        return None


def cuda_rows(card, settings, gpu, pixels, answers, rounds, ahead_mib, folder):
    """({row: (gpu, as called, faces)}, {row: microseconds of each kernel}) of our kernels."""
    rows, by_kernel = {}, {}
    cubins = compiler.compile_all(gpu.sm, os.path.join(folder, "kernels"))
    with ExitStack() as stack:
        stack.enter_context(CudaContext())
        bench = Bench(stack, card, settings, cubins, Timer(stack, rounds, ahead_mib))
        for name, size in sizes(card):
            other = card._replace(input=card.input._replace(width_px=size[0], height_px=size[1]))
            times, by_kernel[name] = bench.preprocess_us(pixels, other, gpu)
            rows[name] = times + ("-",)
        rows["copy of a frame to a discrete GPU"] = bench.upload_us(pixels) + ("-",)
        for name, threshold, offsets, scores in answers:
            times, faces, by_kernel[name] = bench.post_us(offsets, scores, threshold)
            rows[name] = times + (faces,)
    return rows, by_kernel


def frame_times(settings, pixels, rounds):
    """Of the whole detector, a frame at a time, 720p in host memory, faces out: (wall, steps, description)."""
    steps = []
    with CudaDetector(settings, lambda text: None) as cuda:

        def once():
            cuda.detect(pixels, 0.95)
            steps.append(cuda.times)

        wall = wall_us(Rounds((1, 20 * rounds[1])), once)
        return wall, [1e6 * float(np.median(column)) for column in zip(*steps)], cuda.description


def torch_frame_times(settings, gpu, pixels, rounds, folder):
    """``frame_times`` with torch in the engine's place."""
    cubins = compiler.compile_all(gpu.sm, os.path.join(folder, "kernels"))
    files = cache.files_of(settings.model)._replace(engine=settings.model, cubins=cubins)
    with ExitStack() as stack:
        for owner, name, value in (
            (cuda_detector, "Network", TorchNetwork),
            (convert, "ensure", lambda *arguments: files),
            (convert, "import_tensorrt", lambda: __import__("torch")),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        return frame_times(settings, pixels, rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--warm", type=int, default=20, help="rounds before those that count")
    parser.add_argument("--ahead-mib", type=int, default=512, help="of the memset that goes before")
    options = parser.parse_args()
    rounds, ahead = Rounds((options.warm, options.rounds)), options.ahead_mib
    settings = DetectorSettings()
    card, gpu = load_card(card_path(settings.model)), describe_gpu()
    pixels, count = Scene().render(0), len(card.default_boxes())
    answers = [
        (name, threshold) + synthetic_answer(count, passing, threshold)
        for name, threshold, passing in CASES
    ]
    print("{} (sm_{}), {}, medians of {} rounds, microseconds; network {}x{}, {} default boxes".format(
        gpu.name, gpu.sm, time.strftime("%Y-%m-%d"), rounds[1], *card.input.size_wh, count))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        ours = or_reason(
            "our kernels", cuda_rows, card, settings, gpu, pixels, answers, rounds, ahead, folder
        )
        cpu = cpu_rows(card, pixels, answers, settings, rounds)
        theirs = or_reason("torch", torch_rows, card, pixels, answers, rounds, ahead)
        if ours:
            print_steps(card, ours[0], theirs or {}, cpu)
            print_kernels(card, ours[1], ours[0])
        print_networks(settings, card, gpu, pixels, rounds, ahead, folder)


def print_steps(card, ours, theirs, cpu):
    """The table of steps, and whether the targets are met."""
    print(
        "\n'GPU': queued behind other work, caches cold. 'called': launches of Python included.\n"
    )
    print(
        "| step | faces | ours, GPU | ours, called | torch + torchvision, GPU | called | OpenCV + NumPy, CPU |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (on_gpu, called, faces) in ours.items():
        label = "decode + NMS " + name if name in dict(c[:2] for c in CASES) else name
        other = "{:.1f} | {:.1f}".format(*theirs[name]) if name in theirs else "- | -"
        print("| {} | {} | {:.1f} | {:.1f} | {} | {} |".format(
            label, faces, on_gpu, called, other, "{:.1f}".format(cpu[name]) if name in cpu else "-"))  # fmt: skip
        if name in theirs and theirs[name][2] != faces:
            print("(torch keeps {} faces there)".format(theirs[name][2]), file=sys.stderr)
    for name, limit in (("at 0.95", 60), ("at 0.05", 200)):
        total = ours[sizes(card)[0][0]][0] + ours[name][0]
        verdict = "met" if total <= limit else "MISSED"
        print("\nPreprocess + decode + NMS {}: {:.1f} of {} microseconds allowed: {}".format(
            name, total, limit, verdict))  # fmt: skip


def print_kernels(card, by_kernel, ours):
    """Each kernel here, measured, and what bytes and operations allow on a Nano, computed."""
    print(
        "\n| kernel | candidates | bytes | operations | here, GPU | Nano at least (COMPUTED, not measured) |"
    )
    print("|---|---|---|---|---|---|")
    costs = budget.preprocess_costs(card, (1280, 720))
    rows = [(cost, "-", us) for cost, us in zip(costs, by_kernel[sizes(card)[0][0]])]
    count = len(card.default_boxes())
    for name, _, passing in CASES:
        costs = budget.post_costs(count, passing or count, ours[name][2])
        rows += [(c, passing or count, us) for c, us in zip(costs, by_kernel[name])]
    for cost, candidates, here_us in rows:
        print("| {} | {} | {:,.0f} | {:,.0f} | {:.1f} | {:.1f} |".format(
            cost.kernel, candidates, cost.bytes_moved, cost.operations, here_us, cost.floor_us))  # fmt: skip


def print_networks(settings, card, gpu, pixels, rounds, ahead, folder):
    """Inference by whatever runs here, and the whole detector."""
    infer = parity.onnx_answers(settings.model, card)
    tensor = Stretch(card.input)(pixels)
    cpu_us = wall_us(rounds, lambda: infer(tensor))
    print("\nInference, {}x{}:".format(*card.input.size_wh))
    print("ONNX Runtime, float32, CPU: {:.1f}".format(cpu_us))
    engine = or_reason(
        "inference by TensorRT", engine_times, settings.model, card, rounds, ahead, folder
    )
    torch = or_reason("inference by torch", torch_times, settings.model, card, rounds, ahead)
    for name, made in (("TensorRT, FP16", engine), ("torch, FP16, CUDA graph", torch)):
        if made:
            print(
                "{}: GPU {:.1f}, called {:.1f}; {}".format(name, *(made[0] + ("; ".join(made[1]),)))
            )
    with_engine = settings._replace(engines=folder)
    frames = (
        [or_reason("the whole detector", frame_times, with_engine, pixels, rounds)]
        if engine
        else []
    )
    if torch:
        arguments = (settings, gpu, pixels, rounds, folder)
        frames.append(or_reason("the whole detector with torch", torch_frame_times, *arguments))
    for frame in filter(None, frames):
        print("Whole detector, a frame of 1280x720 from host memory to faces: {:.1f} wall; in place and "
              "preprocess {:.1f}, network {:.1f}, decode and NMS {:.1f}: {}".format(
                  frame[0], *(frame[1] + [frame[2]])))  # fmt: skip


if __name__ == "__main__":
    main()
