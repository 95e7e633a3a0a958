"""A stand-in for TensorRT, one release at a time, with ONNX Runtime doing the arithmetic.

TRT_STANDIN names the release (see ../../trt_names.json); names that release lacks are removed from the
classes below, so that code which runs here uses no other. Memory addresses are those of the stand-in
libcuda, so ordinary memory. Behaviour follows NVIDIA's where it is known:
None instead of exceptions, texts through the logger, a magic number, a size and a version in the plan.

Faults, by environment variable:
    TRT_STANDIN_MEMORY_MIB=N   a workspace of more than N MiB fails for want of memory
    TRT_STANDIN_KILL_MIB=N     a workspace of more than N MiB ends the process by SIGKILL, as the kernel does
    TRT_STANDIN_IGNORES_FP16=1 builds float32 whatever the flag says
    TRT_STANDIN_SLOW_S=N       a build takes N seconds
    TRT_STANDIN_NOISE=X        an engine's scores are wrong by X
    TRT_STANDIN_FAIL_RUN=1     running fails
    TRT_STANDIN_NO_CONTEXT=X   an engine gives no execution context, and says X
    TRT_STANDIN_NO_FP16=1      the GPU has no fast half precision
    TRT_STANDIN_CRASH=1        a build is a segmentation fault
"""

import ctypes
import enum
import json
import os
import signal
import struct
import time

import numpy as np

RELEASE = os.environ.get("TRT_STANDIN", "8.2.1")
__version__ = {"11": "11.4.0.106", "8.2.1": "8.2.1.8"}.get(RELEASE, RELEASE)
_MAGIC = b"ftrt"
_OLD_OPERATORS = ("HardSwish", "LayerNormalization")  # not in 8.2


class DataType(enum.IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4


class BuilderFlag(enum.IntEnum):
    TF32 = 7
    FP16 = 0


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1
    EXPLICIT_BATCH = 0


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.IntEnum):
    LAYER_NAMES_ONLY = 0
    DETAILED = 2


class LayerInformationFormat(enum.IntEnum):
    ONELINE = 0
    JSON = 1


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ErrorCode(enum.IntEnum):
    MODEL_DESERIALIZE_FAILED = 3
    INVALID_VALUE = 4
    INVALID_NODE = 7
    UNSUPPORTED_NODE = 8


class _Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    INTERNAL_ERROR = _Severity.INTERNAL_ERROR
    ERROR = _Severity.ERROR
    WARNING = _Severity.WARNING
    INFO = _Severity.INFO
    VERBOSE = _Severity.VERBOSE

    def log(self, severity, text):
        raise NotImplementedError


class ITensor:
    def __init__(self, name, shape, dtype):
        self.name, self.shape, self.dtype = name, tuple(shape), dtype


class ILayer:
    def __init__(self, name, outputs):
        self.name, self._outputs = name, outputs

    @property
    def num_outputs(self):
        return len(self._outputs)

    def get_output(self, index):
        return self._outputs[index]


class INetworkDefinition:
    def __init__(self, flags):
        self._explicit = RELEASE == "11" or flags & 1 << NetworkDefinitionCreationFlag(0).value
        self._model, self._inputs, self._outputs, self._layers = b"", [], [], []

    @property
    def num_inputs(self):
        return len(self._inputs)

    def get_input(self, index):
        return self._inputs[index]

    @property
    def num_outputs(self):
        return len(self._outputs)

    def get_output(self, index):
        return self._outputs[index]

    @property
    def num_layers(self):
        return len(self._layers)

    def get_layer(self, index):
        return self._layers[index]


class ParserError:
    def __init__(self, code, desc, node=-1, name="", operator=""):
        self._code, self._desc, self._node = code, desc, node
        self._name, self._operator = name, operator

    def code(self):
        return self._code

    def desc(self):
        return self._desc

    def node(self):
        return self._node

    def node_name(self):
        return self._name

    def node_operator(self):
        return self._operator


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._errors = network, []

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]

    def _fail(self, *error):
        self._errors.append(ParserError(*error))
        return False

    def parse_from_file(self, path):
        import onnx

        if not self._network._explicit:
            return self._fail(ErrorCode.INVALID_VALUE, "Assertion failed: !_importer_ctx.network()->"
                              "hasImplicitBatchDimension()")  # fmt: skip
        if not os.path.isfile(path):
            text = "Input file cannot be found, or is not a regular file"
            return self._fail(ErrorCode.INVALID_VALUE, text)
        try:
            model = onnx.load(path)
            assert model.graph.node
        except Exception:
            text = "Failed to parse the ONNX model"
            return self._fail(ErrorCode.MODEL_DESERIALIZE_FAILED, text)
        for index, node in enumerate(model.graph.node):
            known = onnx.defs.has(node.op_type)
            if not known or (RELEASE == "8.2.1" and node.op_type in _OLD_OPERATORS):
                text = "No importer registered for op: {}".format(node.op_type)
                code = ErrorCode.UNSUPPORTED_NODE
                return self._fail(code, text, index, node.name, node.op_type)
        self._take(onnx, model)
        return True

    def _take(self, onnx, model):
        kinds = {1: DataType.FLOAT, 10: DataType.HALF, 9: DataType.BOOL}
        graph = onnx.shape_inference.infer_shapes(model).graph
        values = list(graph.value_info) + list(graph.input) + list(graph.output)
        tensors = {}
        for value in values:
            kind = value.type.tensor_type
            shape = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
            dtype = kinds.get(kind.elem_type, DataType.INT32)
            tensors[value.name] = ITensor(value.name, shape, dtype)
        network = self._network
        network._model = model.SerializeToString()
        network._inputs = [tensors[value.name] for value in graph.input]
        network._outputs = [tensors[value.name] for value in graph.output]
        network._layers = [
            ILayer(node.name, [tensors[name] for name in node.output if name in tensors])
            for node in model.graph.node
        ]


class ITimingCache:
    def __init__(self, data):
        self._data = bytes(data)

    def serialize(self):
        return self._data + b"t"


class IBuilderConfig:
    def __init__(self):
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self._workspace, self._flags, self._cache = 0, set(), None

    max_workspace_size = property(
        lambda self: self._workspace, lambda self, size: setattr(self, "_workspace", size)
    )

    def set_memory_pool_limit(self, pool, size):
        assert pool == MemoryPoolType.WORKSPACE
        self._workspace = size

    def set_flag(self, flag):
        self._flags.add(flag)

    def create_timing_cache(self, data):
        return ITimingCache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class IHostMemory(bytearray):
    nbytes = property(len)


class Builder:
    platform_has_fast_fp16 = property(lambda self: "TRT_STANDIN_NO_FP16" not in os.environ)

    def __init__(self, logger):
        self._logger = logger

    def create_network(self, flags=0):
        return INetworkDefinition(flags)

    def create_builder_config(self):
        return IBuilderConfig()

    def build_serialized_network(self, network, config):
        mib = config._workspace >> 20
        time.sleep(float(os.environ.get("TRT_STANDIN_SLOW_S", 0)))
        if "TRT_STANDIN_CRASH" in os.environ:
            os.kill(os.getpid(), signal.SIGSEGV)
        if mib > int(os.environ.get("TRT_STANDIN_KILL_MIB", 1 << 20)):
            os.kill(os.getpid(), signal.SIGKILL)
        if mib > int(os.environ.get("TRT_STANDIN_MEMORY_MIB", 1 << 20)):
            text = "[defaultAllocator.cpp::allocate::20] Error Code 1: Cuda Runtime (out of memory)"
            self._logger.log(ILogger.ERROR, text)
            return None
        flagged = getattr(BuilderFlag, "FP16", None) in config._flags
        half = flagged and "TRT_STANDIN_IGNORES_FP16" not in os.environ
        detailed = config.profiling_verbosity == ProfilingVerbosity.DETAILED
        header = {"release": RELEASE, "half": half, "detailed": detailed}
        text = json.dumps(header, sort_keys=True).encode()
        size = len(_MAGIC) + 8 + len(text) + len(network._model)
        return IHostMemory(_MAGIC + struct.pack("<ii", size, len(text)) + text + network._model)


class Runtime:
    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, plan):
        plan = bytes(plan)
        if plan[:4] != _MAGIC:
            return self._fail(
                "Serialization assertion magicTagRead == kMAGIC_TAG failed. Magic tag does not match"
            )
        size, length = struct.unpack("<ii", plan[4:12])
        if size != len(plan):
            return self._fail("plan.header.size == blobSize failed")
        header = json.loads(plan[12 : 12 + length].decode())
        if header["release"] != RELEASE:
            return self._fail(
                "Serialization assertion stdVersionRead == serializationVersion failed. Version tag does not match"
            )
        return ICudaEngine(self._logger, header, plan[12 + length :])

    def _fail(self, text):
        self._logger.log(ILogger.ERROR, text)
        return None


class ICudaEngine:
    def __init__(self, logger, header, model):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._logger, self._header = logger, header
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._tensors = [(t.name, tuple(t.shape), True) for t in inputs]
        self._tensors += [(t.name, tuple(t.shape), False) for t in outputs]

    def _find(self, name):
        return [tensor for tensor in self._tensors if tensor[0] == name][0]

    @property
    def num_io_tensors(self):
        return len(self._tensors)

    num_bindings = num_io_tensors

    def get_tensor_name(self, index):
        return self._tensors[index][0]

    get_binding_name = get_tensor_name

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if self._find(name)[2] else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return self._find(name)[1]

    def get_tensor_dtype(self, name):
        return DataType.FLOAT

    def binding_is_input(self, index):
        return self._tensors[index][2]

    def get_binding_shape(self, index):
        return self._tensors[index][1]

    def get_binding_dtype(self, index):
        return DataType.FLOAT

    def create_execution_context(self):
        text = os.environ.get("TRT_STANDIN_NO_CONTEXT", "")
        if text:
            self._logger.log(ILogger.ERROR, text)
            return None
        return IExecutionContext(self)

    def create_engine_inspector(self):
        return EngineInspector(self._header)


class EngineInspector:
    def __init__(self, header):
        self._header = header

    def get_engine_information(self, kind):
        assert kind == LayerInformationFormat.JSON and self._header["detailed"]
        word = (
            "Channel major FP16 format" if self._header["half"] else "Row major linear FP32 format"
        )
        layers = [
            {"Name": "layer {}".format(n), "Outputs": [{"Name": "t", "Format/Datatype": word}]}
            for n in range(10)
        ]
        layers[9]["Outputs"][0]["Format/Datatype"] = "Row major linear FP32 format"
        return json.dumps({"Layers": layers, "Bindings": []})


class IExecutionContext:
    def __init__(self, engine):
        self._engine, self._addresses = engine, {}

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return bool(address)

    def execute_async_v3(self, stream):
        return self._run(stream)

    def execute_async_v2(self, bindings, stream):
        names = [tensor[0] for tensor in self._engine._tensors]
        self._addresses = dict(zip(names, bindings))
        return self._run(stream)

    def _run(self, stream):
        assert isinstance(stream, int)
        if "TRT_STANDIN_FAIL_RUN" in os.environ:
            text = "[executionContext.cpp::enqueueInternal::330] Error Code 1: Cuda Runtime (an illegal memory access)"
            self._engine._logger.log(ILogger.ERROR, text)
            return False
        views = {name: self._view(name, shape) for name, shape, _ in self._engine._tensors}
        outputs = [name for name, _, is_input in self._engine._tensors if not is_input]
        inputs = {name: views[name] for name in views if name not in outputs}
        for name, value in zip(outputs, self._engine._session.run(outputs, inputs)):
            noise = float(os.environ.get("TRT_STANDIN_NOISE", 0)) if name == "scores" else 0
            views[name][:] = value + np.float32(noise)
        return True

    def _view(self, name, shape):
        count = int(np.prod(shape))
        memory = (ctypes.c_float * count).from_address(self._addresses[name])
        return np.frombuffer(memory, np.float32).reshape(shape)


def _remove_what_this_release_lacks():
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "..", "..", "trt_names.json"), encoding="utf-8") as file:
        table = json.load(file)
    order = table["releases"]
    now = order.index(RELEASE)
    for kind, names in table["names"].items():
        for name, (first, last) in names.items():
            if order.index(first) <= now <= order.index(last):
                continue
            if isinstance(globals()[kind], enum.EnumMeta):
                _remove_member(kind, name)
            else:
                delattr(globals()[kind], name)


def _remove_member(kind, name):
    members = {m.name: m.value for m in globals()[kind] if m.name != name}
    if members:
        globals()[kind] = enum.IntEnum(kind, members)
    else:
        del globals()[kind]


_remove_what_this_release_lacks()
