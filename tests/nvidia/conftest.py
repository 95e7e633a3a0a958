"""What the tests of edge_app/nvidia share: NVIDIA's software without a GPU, and stand-ins for the rest.

``setup.sh`` fetches and compiles once, into build/nvidia or the folder EDGE_APP_CACHE names; what is
compiled from this repository's own files is kept there under the hash of those files.
"""

import ctypes
import glob
import os
import shutil
import subprocess
import sys

import pytest
import small_ssd
from kernel_runner import Runner
from standins import HERE, STANDIN, StandIn, compiled_kernels, hash_of, libcuda

from edge_app.nvidia import compiler, convert


@pytest.fixture(scope="session")
def cache_folder():
    """build/nvidia, or the folder EDGE_APP_CACHE names."""
    root = os.path.dirname(os.path.dirname(HERE))
    return os.environ.get("EDGE_APP_CACHE") or os.path.join(root, "build", "nvidia")


@pytest.fixture(scope="session")
def nms_library(cache_folder):
    """Host library of nms.cu."""
    return compiled_kernels(compiler.source_path("nms"), os.path.join(cache_folder, "kernels"))


@pytest.fixture(scope="session")
def nms_kernels(nms_library):
    """nms.cu on the CPU."""
    return Runner(nms_library)


@pytest.fixture(scope="session")
def preprocess_kernels(cache_folder):
    """preprocess.cu on the CPU."""
    folder = os.path.join(cache_folder, "kernels")
    return Runner(compiled_kernels(compiler.source_path("preprocess"), folder))


@pytest.fixture(scope="session")
def nvidia(cache_folder):
    """What setup.sh made for this interpreter: the folder with site, bindings-*, rtx."""
    command = ["sh", os.path.join(HERE, "setup.sh"), sys.executable]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def toolkit(nvidia):
    """NVRTC and ptxas 11.8: the folder that holds nvidia/."""
    return os.path.join(os.path.dirname(nvidia), "toolkit")


@pytest.fixture(scope="session")
def standin(nvidia):
    """The real pycuda, importable, on the stand-in libcuda.

    The library is loaded first, by path; pycuda's module then finds it by its soname.
    """
    site = os.path.join(nvidia, "site")
    module = glob.glob(os.path.join(site, "pycuda", "_driver*.so"))
    sources = [os.path.join(STANDIN, name) for name in ("libcuda.c", "libcuda.py")]
    folder = os.path.join(nvidia, "lib-" + hash_of(*(sources + module)))
    if not os.path.exists(os.path.join(folder, "libcuda.so")):
        libcuda.build(folder, module)
    library = ctypes.CDLL(os.path.join(folder, "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, site)
    yield StandIn(library, folder)
    sys.path.remove(site)


@pytest.fixture
def nvcc(monkeypatch, tmp_path, cache_folder):
    """A toolkit whose nvcc compiles for the stand-in driver; returns its folder."""
    folder = tmp_path / "cuda" / "bin"
    folder.mkdir(parents=True)
    program = folder / "nvcc"
    program.write_text(
        '#!/bin/sh\nexec "{}" "{}" "{}" "$@"\n'.format(
            sys.executable, os.path.join(STANDIN, "nvcc.py"), os.path.join(cache_folder, "kernels")
        )
    )
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_ROOT", str(tmp_path / "cuda"))
    return tmp_path / "cuda"


@pytest.fixture
def tensorrt(monkeypatch):
    """Function: make ``import tensorrt`` the stand-in of a release, here and in child processes."""
    for name in [name for name in os.environ if name.startswith("TRT_STANDIN")]:
        monkeypatch.delenv(name)

    def use(release):
        monkeypatch.setenv("TRT_STANDIN", release)
        monkeypatch.setenv("PYTHONPATH", STANDIN)
        monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
        return __import__("tensorrt")

    yield use
    sys.modules.pop("tensorrt", None)


@pytest.fixture(scope="session")
def templates(tmp_path_factory):
    """Folder of converted models, one a release, made when first wanted."""
    return tmp_path_factory.mktemp("converted")


@pytest.fixture
def converted(standin, nvcc, tensorrt, templates, tmp_path):
    """Function: path of a small model in ``tmp_path`` with its engine and kernels of a release."""

    def copy(release="8.2.1"):
        tensorrt(release)
        template = templates / release
        if not template.exists():
            template.mkdir()
            convert.build(small_ssd.write(template), progress=lambda text: None)
        for path in template.iterdir():
            shutil.copy(str(path), str(tmp_path))
        return str(tmp_path / "small_ssd.onnx")

    return copy
