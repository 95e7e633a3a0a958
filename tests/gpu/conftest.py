"""A real GPU for the tests of this folder; they are skipped, loudly, where there is none.

``make gpu-test`` runs them (run.sh). They share the cases of tests/nvidia, which run everywhere.
"""

import ctypes
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
for _folder in ("nvidia", "gpu"):
    sys.path.insert(0, os.path.join(os.path.dirname(HERE), _folder))

from ledger import Ledger  # noqa: E402

from edge_app.errors import DetectorError  # noqa: E402
from edge_app.nvidia import compiler  # noqa: E402
from edge_app.nvidia.context import CudaContext, describe_gpu  # noqa: E402


@pytest.fixture(scope="session")
def gpu():
    """What GPU this is. EDGE_APP_GPU_TEST=1 (run.sh) keeps an ordinary test run away from it."""
    if os.environ.get("EDGE_APP_GPU_TEST") != "1":
        pytest.skip("NOT TESTED, needs an NVIDIA GPU: make gpu-test")
    try:
        return describe_gpu()
    except DetectorError as error:
        pytest.skip("NOT TESTED, no GPU here: {}".format(error))


@pytest.fixture(scope="session")
def cubins(gpu, tmp_path_factory):
    """The kernels, compiled here for this GPU."""
    return compiler.compile_all(gpu.sm, str(tmp_path_factory.mktemp("cubins") / "kernels"))


@pytest.fixture
def ledger(gpu):
    """The books of what pycuda has alive; nothing may be at the end that was not at the start."""
    try:
        books = Ledger()
    except LookupError as error:
        pytest.skip("NOT TESTED: {}".format(error))
    before = books.alive()
    yield books
    books.fail_allocation(0)
    assert books.alive() == before


@pytest.fixture
def held_context(gpu):
    """The primary context, kept alive but not current: opening it takes a third of a second, once."""
    driver, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    yield
    driver.cuDevicePrimaryCtxRelease_v2(0)


@pytest.fixture
def context(gpu):
    """The primary context, current."""
    with CudaContext() as opened:
        yield opened
