"""The part of a conversion that calls TensorRT: one attempt, in a process of its own.

    python3 -m edge_app.nvidia.builder REQUEST.json PID-OF-THE-CALLER

``convert`` starts it, so that a build can be interrupted, may be killed for want of memory without
taking the program along, and gives all its memory back. What came of it is left in the report.
"""

import ctypes
import json
import os
import signal
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from edge_app.errors import DetectorError
from edge_app.nvidia.engine import import_tensorrt, logger_of
from edge_app.nvidia.half import cast_to_half

MIB = 1 << 20
_PR_SET_PDEATHSIG = 1  # of prctl(2): the signal we get when our parent dies
HALF_WORDS = ("fp16", "half")  # in the inspector's "Format/Datatype", by release


class Request(NamedTuple):
    """What to build; paths are absolute."""

    onnx: str
    plan: str  # where the engine goes
    report: str  # where the ``Report`` goes, as JSON
    precision: str  # "fp16" or "fp32"
    workspace_mib: int
    sm: int  # 0: the GPU of this machine
    timing_cache: str
    tensors: Dict[str, List[int]]  # shape of each input and output that the card speaks of


class Report(NamedTuple):
    """What came of it. ``problem`` is empty after a success."""

    problem: str
    wants_memory: bool  # the problem may go away with a smaller workspace
    tensorrt: str  # module and version
    half_layers: int
    layers: int  # with a floating-point answer
    proof: (
        str  # "inspector": of the finished engine; "network": types of the strongly typed network
    )
    may_pass: bool = False  # the problem says nothing of the model: the builder was ended, a disk was full


class BuildError(Exception):
    """One attempt failed. ``wants_memory``: a smaller workspace may help."""

    def __init__(self, text: str, wants_memory: bool = False) -> None:
        super().__init__(text)
        self.wants_memory = wants_memory


def save_report(report: Report, path: str) -> None:
    """Write it as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report._asdict(), file)


def load_report(path: str) -> Optional[Report]:
    """Read it; None when the process died before it wrote one."""
    try:
        with open(path, encoding="utf-8") as file:
            return Report(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None


def tensorrt_version(trt: Any) -> str:
    """Module and full version, for the fingerprint."""
    return "{} {}".format(trt.__name__, trt.__version__)


def build(request: Request) -> Report:
    """One attempt.

    Raises:
        BuildError: with TensorRT's own node and reason.
        DetectorError: no TensorRT, or the model cannot be cast.
    """
    trt = import_tensorrt()
    log = logger_of(trt)
    builder = trt.Builder(log)
    has_flag = hasattr(trt.BuilderFlag, "FP16")
    onnx_path = request.onnx
    if request.precision == "fp16" and not has_flag:
        onnx_path = request.plan + ".half.onnx"
        _check_readable(request.onnx)
        cast_to_half(request.onnx, onnx_path)
    try:
        network = _parse(trt, builder, log, onnx_path)
        _check_tensors(network, request)
        config = _configure(trt, builder, request, has_flag)
        shares = None if has_flag else _network_share(trt, network)
        log.take()
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise _failed("building the engine", log.take())
        with open(request.plan, "wb") as file:
            file.write(memoryview(plan))
            file.flush()
            os.fsync(file.fileno())
        _keep_timing_cache(config, request.timing_cache)
    finally:
        if onnx_path != request.onnx and os.path.exists(onnx_path):
            os.remove(onnx_path)
    return _report(trt, log, request, shares, bytes(memoryview(plan)))


def _check_readable(path: str) -> None:
    if not os.path.isfile(path):
        raise BuildError("there is no file {}.".format(path))


def _parse(trt: Any, builder: Any, log: Any, path: str) -> Any:
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(path) or parser.num_errors:
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BuildError("; ".join(errors or log.take()) or "the ONNX parser gave no reason")
    return network


def _parser_error(error: Any) -> str:
    """Code, node and reason; node names came with TensorRT 10, before there is the index only."""
    code = getattr(error.code(), "name", str(error.code()))
    if hasattr(error, "node_name") and error.node_operator():
        where = "node {!r}, operator {}: ".format(error.node_name(), error.node_operator())
    else:
        where = "node {}: ".format(error.node()) if error.node() >= 0 else ""
    return "{}{} ({})".format(where, error.desc().strip(), code)


def _check_tensors(network: Any, request: Request) -> None:
    """Names and shapes must be the card's; a dynamic shape shows as -1."""
    found = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        found[tensor.name] = [int(side) for side in tensor.shape]
    for index in range(network.num_outputs):
        tensor = network.get_output(index)
        found[tensor.name] = [int(side) for side in tensor.shape]
    dynamic = sorted(name for name, shape in found.items() if min(shape, default=0) < 0)
    if dynamic:
        raise BuildError(
            "dynamic shape: {} {}. Export with a fixed batch of 1 and a fixed size.".format(
                dynamic[0], found[dynamic[0]]
            )
        )
    if found != request.tensors:
        raise BuildError(
            "wrong inputs or outputs: the model has {}, its card speaks of {}.".format(
                found, request.tensors
            )
        )


def _configure(trt: Any, builder: Any, request: Request, has_flag: bool) -> Any:
    config = builder.create_builder_config()
    size_bytes = request.workspace_mib * MIB
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size_bytes)
    else:
        config.max_workspace_size = size_bytes
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request.precision == "fp16" and has_flag:
        if not builder.platform_has_fast_fp16:
            raise BuildError("this GPU has no fast half precision; use --precision fp32.")
        config.set_flag(trt.BuilderFlag.FP16)
    if request.sm:
        _set_target(trt, config, request.sm)
    cache = b""
    if os.path.exists(request.timing_cache):
        with open(request.timing_cache, "rb") as file:
            cache = file.read()
    timing = config.create_timing_cache(cache)
    if timing is not None:
        config.set_timing_cache(timing, True)
    return config


def _set_target(trt: Any, config: Any, sm: int) -> None:
    """TensorRT-RTX builds for GPUs that are not here."""
    if not hasattr(config, "set_compute_capability"):
        raise BuildError(
            "this TensorRT builds for the GPU it runs on, not for sm_{}. Convert on that machine, or "
            "use TensorRT-RTX (pip install tensorrt-rtx-cu12).".format(sm)
        )
    target = getattr(trt.ComputeCapability, "SM{}".format(sm), None)
    if target is None:
        known = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
        raise BuildError("no target sm_{}; this builder has {}.".format(sm, ", ".join(known)))
    config.num_compute_capabilities = 1
    config.set_compute_capability(target, 0)


def _failed(action: str, lines: List[str]) -> BuildError:
    text = "; ".join(lines) or "TensorRT gave no reason"
    memory = ("memory", "outofmemory", "workspace")
    return BuildError(
        "{} failed: {}".format(action, text), any(word in text.lower() for word in memory)
    )


def _keep_timing_cache(config: Any, path: str) -> None:
    """Tactics measured once need not be measured again; lost, it only costs time."""
    cache = config.get_timing_cache()
    if cache is not None:
        with open(path + ".tmp", "wb") as file:
            file.write(memoryview(cache.serialize()))
        os.replace(path + ".tmp", path)


def _network_share(trt: Any, network: Any) -> Tuple[int, int]:
    """(half, all) layers with a floating-point answer; final in a strongly typed network."""
    half = floats = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kinds = [layer.get_output(i).dtype for i in range(layer.num_outputs)]
        half += trt.DataType.HALF in kinds
        floats += trt.DataType.HALF in kinds or trt.DataType.FLOAT in kinds
    return half, floats


def inspector_share(text: str) -> Tuple[int, int]:
    """(half, all) layers of an engine, by the inspector's JSON of a DETAILED engine."""
    half = floats = 0
    for layer in json.loads(text).get("Layers", []):
        outputs = layer.get("Outputs", []) if isinstance(layer, dict) else []
        formats = [str(output.get("Format/Datatype", "")).lower() for output in outputs]
        is_half = any(word in text for text in formats for word in HALF_WORDS)
        half += is_half
        floats += is_half or any("fp32" in text or "float" in text for text in formats)
    return half, floats


def _inspect(trt: Any, log: Any, plan: bytes) -> Optional[Tuple[int, int]]:
    """Of the finished engine; None without a GPU, where it cannot be read back."""
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    share = inspector_share(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return share if share[1] else None


def _report(
    trt: Any, log: Any, request: Request, shares: Optional[Tuple[int, int]], plan: bytes
) -> Report:
    proof = "network"
    inspected = _inspect(trt, log, plan)
    if shares is None and inspected is None:
        raise _failed("reading the new engine back", log.take())
    if inspected is not None and (shares is None or inspected[0]):
        proof, shares = "inspector", inspected
    assert shares is not None
    if request.precision == "fp16" and not shares[0]:
        raise BuildError(
            "FP16 was asked for, but none of the engine's {} layers is in half precision.".format(
                shares[1]
            )
        )
    return Report("", False, tensorrt_version(trt), shares[0], shares[1], proof)


def main(arguments: List[str]) -> int:
    """Carry out a request file for the process that started us; 0 after a success."""
    # A build must not go on for minutes after the program was killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for our parent, who ends us
    if os.getppid() != int(arguments[1]):
        return 1
    with open(arguments[0], encoding="utf-8") as file:
        request = Request(**json.load(file))
    try:
        report = build(request)
    except BuildError as error:
        report = Report(str(error), error.wants_memory, "", 0, 0, "")
    except DetectorError as error:
        report = Report(str(error), False, "", 0, 0, "")
    except MemoryError:
        report = Report("out of memory", True, "", 0, 0, "")
    save_report(report, request.report)
    return 1 if report.problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
