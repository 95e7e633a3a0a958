"""Every TensorRT name that edge-app uses exists where it is used.

Three links: (1) trt_names.json agrees with NVIDIA's own binding wheels, name by name, both ways; (2) the
stand-in of a release has no name that the table denies to that release (it removes them); (3) our code
runs on the stand-in of every release (the other files), and ``test_no_other_name_is_used`` reads from
our source that it uses no name that is not in the table.
"""

import ast
import glob
import json
import os
import subprocess
import sys

import pytest
from standins import HERE, STANDIN

from edge_app.nvidia import compiler

with open(os.path.join(HERE, "trt_names.json"), encoding="utf-8") as _file:
    TABLE = json.load(_file)

PYTHON36 = sys.version_info < (3, 7)
WHEELS = {"8.6.1": "8.6.1"} if PYTHON36 else {"10.3.0": "10.3.0", "11": "11.4.0.106"}
BEYOND_TENSORRT = {"set_compute_capability", "num_compute_capabilities"}  # TensorRT-RTX's own

DUMP = """
import json, sys
import {module} as trt
table = json.load(open(sys.argv[1]))["names"]
print(json.dumps({{kind: [name for name in names if hasattr(getattr(trt, kind, None), name)]
                  for kind, names in table.items()}}))
"""


def expected(release):
    """{class: names} that the table gives to a release."""
    order = TABLE["releases"]
    now = order.index(release)
    return {
        kind: sorted(
            name
            for name, (first, last) in names.items()
            if order.index(first) <= now <= order.index(last)
        )
        for kind, names in TABLE["names"].items()
    }


def names_in(module, folders, libraries=""):
    """{class: names of the table} that a real module has, asked in a process of its own."""
    environment = dict(os.environ, LD_LIBRARY_PATH=libraries, PYTHONPATH=os.pathsep.join(folders))
    command = [
        sys.executable,
        "-c",
        DUMP.format(module=module),
        os.path.join(HERE, "trt_names.json"),
    ]
    text = subprocess.check_output(command, env=environment, universal_newlines=True)
    return {kind: sorted(names) for kind, names in json.loads(text.splitlines()[-1]).items()}


@pytest.mark.parametrize("release", sorted(WHEELS))
def test_the_table_agrees_with_nvidia_s_wheel(nvidia, release, tmp_path):
    folder = os.path.join(nvidia, "bindings-" + WHEELS[release])
    module = os.path.join(folder, "tensorrt_bindings", "tensorrt.so")
    script = os.path.join(STANDIN, "hollow_libraries.sh")
    subprocess.check_call(["sh", script, module, str(tmp_path)])
    assert names_in("tensorrt_bindings", [folder], str(tmp_path)) == expected(release)


@pytest.mark.skipif(PYTHON36, reason="TensorRT-RTX has no wheel for Python 3.6")
def test_tensorrt_rtx_has_every_name_of_tensorrt_11(nvidia):
    found = names_in("tensorrt_rtx", [os.path.join(nvidia, "rtx")])
    assert found == expected("11")


@pytest.mark.parametrize("release", TABLE["releases"])
def test_the_stand_in_has_exactly_the_names_of_its_release(tensorrt, release):
    module = tensorrt(release)
    for kind, names in TABLE["names"].items():
        has = [name for name in names if hasattr(getattr(module, kind, None), name)]
        has += [name for name in names if name in SET_BY_INIT.get(kind, ())]
        assert sorted(has) == expected(release)[kind], kind


SET_BY_INIT = {
    "ITensor": ("name", "shape", "dtype"),
    "ILayer": ("name",),
    "IBuilderConfig": ("profiling_verbosity",),
}


def test_no_other_name_is_used():
    """Whatever our two modules ask of an object of TensorRT stands in the table."""
    known = {name for names in TABLE["names"].values() for name in names} | set(TABLE["names"])
    known |= BEYOND_TENSORRT | {"ComputeCapability"}
    used = set()
    for path in (os.path.join(compiler.FOLDER, name) for name in ("engine.py", "builder.py")):
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and _root(node) in TENSORRT_OBJECTS:
                used.add(node.attr)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "hasattr",
                "getattr",
            ):
                word = getattr(node.args[1], "value", getattr(node.args[1], "s", None))
                used.update([word] if isinstance(word, str) else [])
    assert len(used) > 40
    assert used - known <= OF_OTHER_OBJECTS


OF_OTHER_OBJECTS = {
    "__name__", "__version__", "__init__", "name", "take", "get", "strip", "strerror", "wants_memory",
}  # fmt: skip
TENSORRT_OBJECTS = {
    "trt", "builder", "network", "parser", "config", "engine", "context", "runtime", "error", "layer",
    "tensor", "inspector", "cache", "timing",
}  # fmt: skip


def _root(node):
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return getattr(node, "id", "")


def test_the_wheels_are_there(nvidia):
    assert len(glob.glob(os.path.join(nvidia, "bindings-*.done"))) == len(WHEELS)
