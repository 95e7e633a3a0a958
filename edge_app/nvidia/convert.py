"""ONNX and card to engine and kernels in the cache: built in a child process, tried, published."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple

from edge_app.card import ModelCard, card_path, load_card, sha256_of, verify_model
from edge_app.errors import DetectorError, OutOfMemoryError
from edge_app.nvidia import builder, cache, compiler, parity
from edge_app.nvidia.builder import Report, Request
from edge_app.nvidia.cache import EngineFiles, Fingerprint, Record
from edge_app.nvidia.context import MEMORY_ADVICE, CudaContext, Gpu, describe_gpu
from edge_app.nvidia.engine import EngineRefused, import_tensorrt
from edge_app.nvidia.network import Network

log = logging.getLogger(__name__)

RUNGS_MIB = (512, 256, 128, 64, 16)
MEMORY_SHARE = 0.4  # of what is available; the rest is for the weights and the desktop
HEARTBEAT_S = 5.0
STOP_S = 5.0
LONGEST_BUILD_S = 3600.0  # a Nano takes ten minutes; service.Notifier asks for as much
_FOLDER = (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.ENOTDIR)
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)

Progress = Callable[[str], None]  # told at least every HEARTBEAT_S seconds while something is built


class ConvertOptions(NamedTuple):
    """What ``edge-app convert`` is asked for."""

    precision: str = "fp16"  # or "fp32"
    output: Optional[str] = None  # folder; None: beside the ONNX
    sm: int = 0  # for another GPU of this compute capability (86); 0: for the one here
    force: bool = False  # take an engine that fails the parity gate
    workspace_mib: int = 0  # largest to try; 0: by the memory that is available


class BuildRefused(DetectorError):
    """TensorRT or the parity gate refuses this model here, and would do so again."""


class Staleness(NamedTuple):
    """Why engine and kernels must be made anew; "" for what fits."""

    engine: str
    kernels: str
    refusal: str = ""  # why the engine is not built all the same: the latest build was refused


def build(
    onnx_path: str, options: ConvertOptions = ConvertOptions(), progress: Progress = log.info
) -> EngineFiles:
    """Make the engine and the kernels, try them, and put them in the cache.

    The engine that was there stays until the new one has passed. Without a GPU (TensorRT-RTX builds
    without one) the parity gate cannot run: the engine is marked unverified, and the first start
    on a GPU runs the gate.

    Args:
        onnx_path: the model; its card lies beside it.
        progress: is told what happens, at least every five seconds.

    Raises:
        CardError: card or model is missing, or they are not of the same export.
        BuildRefused: TensorRT or the parity gate refused, or the builder hung. That is remembered beside
            the engine.
        OutOfMemoryError: the builder cannot even be started.
        DetectorError: the kernels' compiler refused, or memory was too little for the build; or the folder
            is closed to us, or full.
    """
    card = load_card(card_path(onnx_path))
    verify_model(card, onnx_path)
    files = cache.files_of(onnx_path, options.output)
    gpu = _gpu_for(options.sm)
    with _kept_beside(files.engine):
        try:
            _build(onnx_path, card, gpu, files, options, progress)
        except BuildRefused as error:
            if gpu is not None:
                _remember(error, files, card, gpu, options)
            raise
    return files


def _remember(
    error: BuildRefused, files: EngineFiles, card: ModelCard, gpu: Gpu, options: ConvertOptions
) -> None:
    """For the next start; where it cannot be, that one builds again."""
    with suppress(OSError, DetectorError):
        version = builder.tensorrt_version(import_tensorrt())
        cache.save_refusal(files, _fingerprint(card, version, gpu, options), str(error))


@contextmanager
def _kept_beside(engine: str) -> Iterator[None]:
    """Says which folder it is that cannot be written to; other errors have other causes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FOLDER:
            raise
        raise DetectorError(
            "the engine cannot be kept as {}: {}. Its folder must be writable and have room; another one is "
            "set by --output of 'edge-app convert', and by detector.engines.".format(engine, error)
        ) from error


def _build(
    onnx_path: str,
    card: ModelCard,
    gpu: Optional[Gpu],
    files: EngineFiles,
    options: ConvertOptions,
    progress: Progress,
) -> None:
    os.makedirs(os.path.dirname(files.engine), exist_ok=True)
    if gpu is not None:
        parity.import_onnxruntime()  # or the engine could not be compared, after minutes
    started = time.monotonic()
    with cache.build_folder(os.path.dirname(files.engine)) as folder:
        plan = os.path.join(folder, "plan")
        report, workspace_mib = _attempts(onnx_path, card, plan, files, options, progress)
        progress(
            "built with {} in {:.0f} s: {} of {} layers in half precision ({}), {:.1f} MB".format(
                report.tensorrt,
                time.monotonic() - started,
                report.half_layers,
                report.layers,
                report.proof,
                os.path.getsize(plan) / 1e6,
            )
        )
        record = _record(plan, report, _fingerprint(card, report.tensorrt, gpu, options))
        record = record._replace(workspace_mib=workspace_mib)
        if gpu is not None:
            try:
                record = _gate(onnx_path, card, plan, record, options.force, progress)
            except EngineRefused as error:
                raise BuildRefused("the new engine is refused: {}".format(error)) from error
            except OutOfMemoryError as error:  # not as such: a restart would build for minutes again
                raise DetectorError("the new engine cannot be tried: {}".format(error)) from error
        cache.publish(plan, files.engine)
        cache.save_record(record, files.record)
    with suppress(FileNotFoundError):
        os.remove(files.refusal)
    if gpu is not None:
        _compile_kernels(files, gpu.sm, progress)
    else:
        _try_to_compile_kernels(files, options.sm, progress)
    if not record.verified:
        progress(
            "UNVERIFIED: {} was not run on a GPU; the first start on one compares it with ONNX "
            "Runtime and refuses it if they differ.".format(files.engine)
        )


def ensure(
    onnx_path: str,
    card: ModelCard,
    gpu: Gpu,
    progress: Progress = log.info,
    folder: Optional[str] = None,
) -> EngineFiles:
    """The engine for this GPU: the cached one when it is right, else a new one, saying why.

    Args:
        folder: where it lies; beside the model by default.

    Raises:
        As ``build``.
    """
    files = cache.files_of(onnx_path, folder)
    stale = why_stale(files, card, gpu)
    if stale.engine:
        return rebuild(onnx_path, card, gpu, files, stale.engine, progress)
    with _kept_beside(files.engine):
        if stale.kernels:
            progress("compiling the kernels: {}".format(stale.kernels))
            _compile_kernels(files, gpu.sm, progress)
    if not cache.load_record(files.record).verified:
        progress("trying the engine, which was never run on a GPU")
        try:
            _verify(onnx_path, card, gpu, files, progress)
        except EngineRefused as error:
            return rebuild(onnx_path, card, gpu, files, str(error), progress)
    return files


def _verify(
    onnx_path: str, card: ModelCard, gpu: Gpu, files: EngineFiles, progress: Progress
) -> None:
    """Run the parity gate on the engine that is there, and note that it has passed."""
    record = cache.load_record(files.record)
    record = _gate(onnx_path, card, files.engine, record, False, progress)
    with _kept_beside(files.engine):
        record = record._replace(kernels=cache.kernels_entry(files, gpu.sm))
        cache.save_record(record, files.record)


def rebuild(
    onnx_path: str, card: ModelCard, gpu: Gpu, files: EngineFiles, reason: str, progress: Progress
) -> EngineFiles:
    """A new engine in the place of one that cannot be used, in that one's precision.

    What was refused is not built again before model, TensorRT, GPU or system are others: a start would
    take minutes each time. ``build`` always tries.

    Args:
        reason: why it cannot, in words.

    Raises:
        As ``build``.
    """
    refusal = cache.load_refusal(files, _wanted(files, card, gpu))
    if refusal:
        raise BuildRefused(
            "the engine is not built again, since it was refused: {}. To try all the same: edge-app convert "
            "{} --output {}".format(refusal.rstrip("."), onnx_path, os.path.dirname(files.engine))
        )
    progress(
        "building the engine: {}. Up to ten minutes on a Nano, and only now".format(reason.rstrip("."))
    )
    options = ConvertOptions(_precision_of(files), os.path.dirname(files.engine))
    return build(onnx_path, options, progress)


def why_stale(files: EngineFiles, card: ModelCard, gpu: Gpu) -> Staleness:
    """What ``ensure`` would make anew, and why; nothing is changed.

    Raises:
        DetectorError: TensorRT is not installed.
    """
    wanted = _wanted(files, card, gpu)
    reason = cache.why_stale(files, wanted)
    if reason:
        return Staleness(reason, "", cache.load_refusal(files, wanted))
    return Staleness("", cache.why_kernels_stale(files, cache.load_record(files.record), gpu.sm))


def _wanted(files: EngineFiles, card: ModelCard, gpu: Gpu) -> Fingerprint:
    """Of an engine that would fit here and now."""
    version = builder.tensorrt_version(import_tensorrt())
    return _fingerprint(card, version, gpu, ConvertOptions(precision=_precision_of(files)))


def _precision_of(files: EngineFiles) -> str:
    """In which the engine was built; half precision where there is none yet."""
    try:
        return cache.load_record(files.record).fingerprint.precision
    except ValueError:
        return "fp16"  # cache.why_stale says what is wrong with it


def _gpu_for(sm: int) -> Optional[Gpu]:
    """The GPU that is here, where an engine for ``sm`` runs on it (0: on whatever is here)."""
    try:
        gpu = describe_gpu()
    except DetectorError as error:
        log.info("no GPU here: %s", error)
        return None
    return gpu if sm in (0, gpu.sm) else None


def _fingerprint(
    card: ModelCard, tensorrt: str, gpu: Optional[Gpu], options: ConvertOptions
) -> Fingerprint:
    return Fingerprint(
        onnx_sha256=card.sha256,
        tensorrt=tensorrt,
        gpu=gpu.name if gpu is not None else cache.ANY_GPU,
        sm=gpu.sm if gpu is not None else options.sm,
        l4t=cache.l4t_release() if gpu is not None else "",
        precision=options.precision,
        converter=cache.CONVERTER,
    )


def _record(plan: str, report: Report, fingerprint: Fingerprint) -> Record:
    return Record(
        fingerprint=fingerprint,
        engine_sha256=sha256_of(plan),
        engine_bytes=os.path.getsize(plan),
        half_layers=report.half_layers,
        layers=report.layers,
        proof=report.proof,
        workspace_mib=0,
        verified=False,
        parity={},
        kernels={},
    )


def _gate(
    onnx_path: str, card: ModelCard, plan: str, record: Record, force: bool, progress: Progress
) -> Record:
    """Compare the engine with ONNX Runtime.

    Raises:
        BuildRefused: they differ, and ``force`` is not set.
    """
    reference = parity.onnx_answers(onnx_path, card)
    with CudaContext(), Network(plan, card) as network:
        result = parity.compare(reference, network.run, card, parity.golden_pictures())
    progress(
        "parity over {} pictures: scores differ by {:.5f} at most, mean overlap {:.5f}, {} faces, "
        "{} missing".format(
            result.pictures, result.score_difference, result.mean_iou, result.faces, result.missing
        )
    )
    if result.problem and not force:
        raise BuildRefused(
            "the {} engine is refused: {} (limits: scores {}, overlap {}). Convert with --precision "
            "fp32, or with --force to use it all the same.".format(
                record.fingerprint.precision,
                result.problem,
                parity.SCORE_LIMIT,
                parity.IOU_LIMIT,
            )
        )
    if result.problem:
        progress("FORCED: the engine is used although {}".format(result.problem))
    return record._replace(verified=True, parity=dict(result._asdict()))


def _compile_kernels(files: EngineFiles, sm: int, progress: Progress) -> None:
    """Compile them and note them in the record."""
    found = compiler.find_compiler()
    compiler.compile_all(sm, os.path.splitext(files.engine)[0], found)
    record = cache.load_record(files.record)
    cache.save_record(record._replace(kernels=cache.kernels_entry(files, sm)), files.record)
    progress("kernels compiled for sm_{} by {}".format(sm, found.version))


def _try_to_compile_kernels(files: EngineFiles, sm: int, progress: Progress) -> None:
    """For a GPU that is not here; what cannot be done now is done at the first start there."""
    reason = "no GPU was named"
    if sm:
        try:
            return _compile_kernels(files, sm, progress)
        except DetectorError as error:
            reason = str(error)
    progress("the kernels are compiled at the first start on the GPU: {}".format(reason))


def workspace_rungs(largest_mib: int = 0, meminfo: str = "/proc/meminfo") -> List[int]:
    """Workspace sizes to try, in MiB, falling.

    Args:
        largest_mib: 0 takes 40 % of the memory that is available, 512 MiB at most.
    """
    if not largest_mib:
        largest_mib = max(
            RUNGS_MIB[-1], min(RUNGS_MIB[0], int(MEMORY_SHARE * _available_mib(meminfo)))
        )
    return [largest_mib] + [rung for rung in RUNGS_MIB if rung < largest_mib]


def _available_mib(meminfo: str) -> float:
    try:
        with open(meminfo, encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) / 1024.0
    except OSError:
        pass
    return float(RUNGS_MIB[1])


def _attempts(
    onnx_path: str,
    card: ModelCard,
    plan: str,
    files: EngineFiles,
    options: ConvertOptions,
    progress: Progress,
) -> Tuple[Report, int]:
    """Down the ladder until an attempt succeeds or fails for another reason than memory."""
    for rung in workspace_rungs(options.workspace_mib):
        request = _request(onnx_path, card, plan, files, options, rung)
        report = _attempt(request, progress)
        if not report.problem:
            return report, rung
        if not report.wants_memory:
            break
        progress("not enough memory with a workspace of {} MiB: {}".format(rung, report.problem))
    passes = report.wants_memory or report.may_pass
    kind = DetectorError if passes else BuildRefused
    raise kind("{} cannot be converted: {}".format(onnx_path, report.problem))


def _request(
    onnx_path: str,
    card: ModelCard,
    plan: str,
    files: EngineFiles,
    options: ConvertOptions,
    workspace_mib: int,
) -> Request:
    width, height = card.input.size_wh
    count = len(card.default_boxes())
    return Request(
        onnx=os.path.abspath(onnx_path),
        plan=os.path.abspath(plan),
        report=os.path.abspath(plan) + ".report",
        precision=options.precision,
        workspace_mib=workspace_mib,
        sm=options.sm,
        timing_cache=os.path.abspath(files.timing_cache),
        tensors={
            card.input.name: [1, 3, height, width],
            card.outputs.offsets: [1, count, 4],
            card.outputs.scores: [1, count, 2],
        },
    )


def _attempt(request: Request, progress: Progress) -> Report:
    """Run one builder process to its end, or end it when we are interrupted."""
    path = request.report + ".request"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(request._asdict(), file)
    command = [sys.executable, "-m", "edge_app.nvidia.builder", path, str(os.getpid())]
    root = os.path.dirname(os.path.dirname(compiler.FOLDER))
    python_path = os.pathsep.join([root] + [p for p in [os.environ.get("PYTHONPATH", "")] if p])
    environment = dict(os.environ, PYTHONPATH=python_path)
    try:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
    except OSError as error:
        kind = OutOfMemoryError if error.errno == errno.ENOMEM else DetectorError
        raise kind("the builder cannot be started: {}. {}".format(error, MEMORY_ADVICE)) from error
    try:
        output = b"".join(_output_while_waiting(child, request.workspace_mib, progress))
    except BaseException:
        _end(child)
        raise
    report = builder.load_report(request.report)
    if report is not None:
        return report
    return _obituary(child.returncode, output.decode("utf-8", "replace"))


def _obituary(status: int, said: str) -> Report:
    """Of a builder that ended without a report."""
    if status == -signal.SIGKILL:
        text = "the builder was killed, as the kernel does for want of memory"
        return Report(text, True, "", 0, 0, "")
    words = said.strip().splitlines()[-1:] or ["it said nothing"]
    text = "the builder ended with status {}: {}".format(status, words[0])
    return Report(text, False, "", 0, 0, "", may_pass=-status not in _CRASHES)


def _output_while_waiting(
    child: "subprocess.Popen[bytes]", workspace_mib: int, progress: Progress
) -> Iterator[bytes]:
    """Until it ends; a heartbeat for whoever watches.

    Raises:
        BuildRefused: it does not.
    """
    started = time.monotonic()
    while True:
        try:
            yield child.communicate(timeout=HEARTBEAT_S)[0]
            return
        except subprocess.TimeoutExpired:
            spent_s = time.monotonic() - started
            if spent_s >= LONGEST_BUILD_S:
                raise BuildRefused(
                    "the builder has not come to an end within {:.0f} minutes: the GPU's driver hangs, or "
                    "memory is so short that it only swaps; see 'dmesg'".format(spent_s / 60)
                ) from None
            progress(
                "building the engine, {:.0f} s so far, workspace {} MiB".format(spent_s, workspace_mib)
            )


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.communicate(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
