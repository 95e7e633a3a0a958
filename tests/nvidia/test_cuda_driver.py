"""Context, stream and buffers: the real pycuda on the stand-in driver."""

import sys
import threading

import numpy as np
import pytest

from edge_app.errors import DetectorError
from edge_app.nvidia.buffers import DeviceBuffer, MappedBuffer
from edge_app.nvidia.context import CudaContext, describe_gpu, explained, import_driver
from edge_app.nvidia.kernels import Kernels
from edge_app.nvidia.stream import Stream


@pytest.fixture
def driver(standin):
    assert standin.alive() == {}
    yield standin
    assert standin.alive() == {}


def test_it_is_the_real_pycuda(driver):
    import pycuda

    assert pycuda.VERSION >= (2022, 1)
    assert pycuda.VERSION[0] == 2022 or sys.version_info >= (3, 8)
    assert describe_gpu() == ("CPU emulated Tegra X1", 53, True)


def test_a_context_is_current_in_its_own_thread_only(driver):
    raised = []

    def allocate():
        try:
            with DeviceBuffer(16):
                pass
        except DetectorError as error:
            raised.append(str(error))

    with CudaContext():
        with DeviceBuffer(16):
            thread = threading.Thread(target=allocate)
            thread.start()
            thread.join()
    assert len(raised) == 1 and "invalid device context" in raised[0]
    allocate()
    assert len(raised) == 2


def test_a_hundred_contexts_one_after_the_other(driver):
    for _ in range(100):
        context = CudaContext()
        with context:
            pass
        context.close()
        assert driver.alive() == {}


def test_buffers_are_written_into_and_closed_twice(driver):
    values = np.arange(10, dtype=np.float32)
    with CudaContext():
        buffer, mapped = DeviceBuffer(40), MappedBuffer((3, 5), np.int32)
        with buffer, mapped:
            buffer.upload(values)
            found = np.empty(10, np.float32)
            buffer.download(found)
            assert found.tolist() == values.tolist()
            buffer.clear()
            buffer.download(found)
            assert not found.any()
            mapped.array[:] = 7
            assert mapped.address == mapped.array.ctypes.data  # one memory, as on a Jetson
            with pytest.raises(AttributeError):
                mapped.array = np.zeros((3, 5))
        for thing in (buffer, mapped):
            thing.close()
            thing.close()
        with pytest.raises(DetectorError, match="is not open"):
            buffer.address
        with pytest.raises(DetectorError, match="is not open"):
            mapped.array


def test_what_does_not_fit_is_refused_before_the_driver_sees_it(driver):
    with CudaContext(), DeviceBuffer(8) as buffer:
        with pytest.raises(DetectorError, match=r"cannot upload 40 bytes \(contiguous\) into 8"):
            buffer.upload(np.zeros(10, np.float32))
        with pytest.raises(DetectorError, match="not contiguous"):
            buffer.upload(np.zeros((4, 4), np.uint8)[:, ::2])
        with pytest.raises(DetectorError, match="cannot download 12 bytes of 8"):
            buffer.download(np.zeros(3, np.float32))


def test_too_much_memory_says_what_to_do(driver):
    with CudaContext():
        with pytest.raises(DetectorError, match="allocating 5368709120 bytes.*out of memory.*swap"):
            with DeviceBuffer(5 << 30):
                pass


def test_a_stream_marks_and_measures(driver):
    stream = Stream(marks=2)
    with CudaContext(), stream, MappedBuffer((4,), np.uint8) as source, DeviceBuffer(4) as target:
        source.array[:] = 9
        stream.mark(0)
        stream.upload(target.address, source.array)
        stream.mark(1)
        stream.wait_for(1)
        assert stream.between_s(0, 1) >= 0
        found = np.zeros(4, np.uint8)
        target.download(found)
        assert found.tolist() == [9] * 4
    stream.close()
    stream.close()


def test_kernels_of_another_gpu_or_none_are_told(driver, tmp_path):
    path = tmp_path / "nms.cubin"
    path.write_bytes(b"\x7fELF but not for this GPU")
    with CudaContext():
        with pytest.raises(DetectorError, match="loading the kernels .*edge-app convert"):
            with Kernels([str(path), str(path)]):
                pass
    with pytest.raises(DetectorError, match="not loaded"):
        Kernels([])._launch(0, (1, 1), (1, 1, 1), None)


def test_other_errors_pass_through(driver):
    with pytest.raises(KeyError):
        with explained("looking something up"):
            raise KeyError("x")


def test_no_gpu(driver, monkeypatch):
    monkeypatch.setenv("CUDA_STANDIN_NODEV", "1")
    with pytest.raises(DetectorError, match="no CUDA-capable device is detected.*group video"):
        describe_gpu()


def test_no_pycuda(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(DetectorError, match="Install pycuda.*onnxruntime"):
        import_driver()
