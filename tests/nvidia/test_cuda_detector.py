"""The whole detector: the real pycuda on the stand-in driver, our kernels, TensorRT's stand-in."""

import shutil
import threading

import numpy as np
import pytest

from edge_app import boxes
from edge_app.config import DetectorSettings
from edge_app.detector import OnnxDetector
from edge_app.errors import CardError, DetectorError
from edge_app.nvidia.detector import CudaDetector, open_cuda_detector
from edge_app.scene import Scene

RELEASES = ("8.2.1", "8.6.1", "10.3.0")  # those with an FP16 flag: the stand-in computes in float32


@pytest.fixture
def settings(converted):
    """Of a model with engine, as TensorRT 8.2.1 made it."""
    return DetectorSettings(model=converted(), threads=1)


@pytest.fixture
def machine(standin):
    """A Jetson as far as our code can tell; nothing may be left alive on it at the end."""
    assert standin.alive() == {}
    yield standin
    assert standin.alive() == {}


def assert_same_faces(found, wanted, size_wh):
    """Same boxes in the same order. A box may be a few ulp of expf off."""
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=0, atol=1e-5 * max(size_wh))


@pytest.mark.parametrize("release", RELEASES)
def test_the_boxes_are_those_of_the_cpu_detector(machine, converted, release):
    settings = DetectorSettings(model=converted(release), threads=1)
    scene, counts = Scene((320, 180), faces=4), []
    with CudaDetector(settings) as cuda, OnnxDetector(settings) as cpu:
        assert release in cuda.description and "sm_53" in cuda.description
        for number in range(6):
            pixels = scene.render(number * 10)
            for threshold in (0.95, 0.3, 0.999999):
                found, wanted = cuda.detect(pixels, threshold), cpu.detect(pixels, threshold)
                assert_same_faces(found, wanted, (320, 180))
                counts.append(len(found))
        assert cuda.times.network_s > 0 and cuda.overflow == cpu.overflow == 0
    assert max(counts) > 30 and min(counts) < 10


def test_the_trained_network_on_the_test_scene(machine, nvcc, tensorrt, tmp_path):
    """The model of the repository, frames of 1280x720: the same faces as the CPU detector's."""
    tensorrt("8.2.1")
    for ending in (".onnx", ".json"):
        shutil.copy(DetectorSettings().model[:-5] + ending, str(tmp_path / ("model" + ending)))
    settings = DetectorSettings(model=str(tmp_path / "model.onnx"), threads=1)
    scene, compared = Scene(faces=6), 0
    with CudaDetector(settings) as cuda, OnnxDetector(settings) as cpu:
        for number in range(0, 60, 12):
            pixels = scene.render(number)
            for threshold in (0.95, 0.05) if number else (0.0,):  # 0.0: every default box
                found, wanted = cuda.detect(pixels, threshold), cpu.detect(pixels, threshold)
                assert_same_faces(found, wanted, scene.size_wh)
                compared += len(found)
        assert cuda.overflow == cpu.overflow > 0
    assert compared > 500


def test_any_frame_size_and_layout(machine, settings):
    """Halved not at all, once and twice."""
    random = np.random.RandomState(3)
    with CudaDetector(settings) as cuda, OnnxDetector(settings) as cpu:
        for height, width in ((96, 96), (1, 1), (333, 517), (96, 96), (72, 128), (201, 223)):
            pixels = random.randint(0, 256, (height, width * 2, 3)).astype(np.uint8)
            views = (pixels[:, ::2], pixels[:, :width][::-1], pixels[:, :width][:, :, ::-1])
            for view in views:
                wanted = cpu.detect(np.ascontiguousarray(view), 0.5)
                assert_same_faces(cuda.detect(view, 0.5), wanted, (width, height))


def test_a_discrete_gpu_gets_the_frame_by_copy(machine, settings, monkeypatch):
    monkeypatch.setenv("CUDA_STANDIN_DISCRETE", "1")
    pixels = Scene((320, 180)).render(0)
    with CudaDetector(settings) as cuda, OnnxDetector(settings) as cpu:
        for _ in range(2):
            assert_same_faces(cuda.detect(pixels, 0.5), cpu.detect(pixels, 0.5), (320, 180))


@pytest.mark.parametrize("discrete", [False, True])
def test_a_frame_allocates_nothing_waits_once_and_copies_no_tensor(
    machine, settings, monkeypatch, discrete
):
    if discrete:
        monkeypatch.setenv("CUDA_STANDIN_DISCRETE", "1")
    pixels = Scene((320, 180)).render(0)
    with CudaDetector(settings) as cuda:
        cuda.detect(pixels, 0.5)
        before = machine.calls()
        for _ in range(10):
            cuda.detect(pixels, 0.5)
        after = machine.calls()
    spent = {name: (after[name] - before[name]) / 10.0 for name in after}
    assert spent == {"allocations": 0, "waits": 1, "copies": int(discrete), "launches": 6}


def test_every_default_box_over_the_threshold_and_an_overflow(machine, settings):
    pixels = Scene((320, 180)).render(0)
    few = settings._replace(max_candidates=100, max_faces=7)
    with CudaDetector(few) as cuda, OnnxDetector(few) as cpu:
        assert_same_faces(cuda.detect(pixels, 0.0), cpu.detect(pixels, 0.0), (320, 180))
        assert cuda.overflow == cpu.overflow > 0
    with CudaDetector(settings) as cuda, OnnxDetector(settings) as cpu:
        assert_same_faces(cuda.detect(pixels, 0.0), cpu.detect(pixels, 0.0), (320, 180))


def test_the_network_s_tensors_are_bit_for_bit_those_of_the_cpu(machine, settings):
    """At the network's own size, where stretching is the identity."""
    pixels = Scene((96, 96)).render(0)
    with CudaDetector(settings) as cuda, OnnxDetector(settings) as cpu:
        found, wanted = cuda.detect(pixels, 0.5), cpu.detect(pixels, 0.5)
    assert found.scores.tolist() == wanted.scores.tolist()


def test_a_network_that_says_nan_is_reported(machine, settings, monkeypatch):
    with CudaDetector(settings) as cuda:
        monkeypatch.setenv("TRT_STANDIN_NOISE", "nan")
        with pytest.raises(DetectorError, match="only NaN"):
            cuda.detect(Scene((96, 96)).render(0), 0.5)
        monkeypatch.delenv("TRT_STANDIN_NOISE")
        assert len(cuda.detect(Scene((96, 96)).render(0), 0.5)) > 0


def test_open_and_close_again_and_again_leaves_nothing(machine, settings):
    pixels, counts = Scene((320, 180)).render(0), set()
    for _ in range(10):
        detector = CudaDetector(settings)
        with detector:
            counts.add(len(detector.detect(pixels, 0.5)))
        assert machine.alive() == {}
        detector.close()
        detector.close()
    assert len(counts) == 1
    with pytest.raises(DetectorError, match="not open"):
        detector.detect(pixels, 0.5)


def test_out_of_memory_at_any_allocation_frees_everything(machine, settings, monkeypatch):
    pixels = Scene((192, 192)).render(0)
    failures = 0
    for nth in range(1, 40):
        monkeypatch.setenv("CUDA_STANDIN_FAIL_ALLOC", str(nth))
        try:
            with CudaDetector(settings) as cuda:
                cuda.detect(pixels, 0.5)
        except DetectorError as error:
            assert "out of memory" in str(error) and "Close other programs" in str(error)
            failures += 1
            assert machine.alive() == {}
        else:
            break
    assert 12 < failures < 39
    monkeypatch.delenv("CUDA_STANDIN_FAIL_ALLOC")
    with CudaDetector(settings) as cuda:
        assert len(cuda.detect(pixels, 0.5)) > 0


@pytest.mark.parametrize("nth", range(1, 7))
def test_a_gpu_lost_in_the_middle_is_named_and_everything_freed(
    machine, settings, monkeypatch, nth
):
    pixels = Scene((192, 192)).render(0)
    with pytest.raises(DetectorError, match="looking for faces.*launch failure.*start it again"):
        with CudaDetector(settings) as cuda:
            cuda.detect(pixels, 0.5)
            monkeypatch.setenv("CUDA_STANDIN_FAIL_LAUNCH", str(nth))
            cuda.detect(pixels, 0.5)
    assert machine.alive() == {}
    monkeypatch.delenv("CUDA_STANDIN_FAIL_LAUNCH")
    with CudaDetector(settings) as cuda:  # a restart is clean
        assert len(cuda.detect(pixels, 0.5)) > 0


def test_an_engine_that_fails_in_the_middle_gives_tensorrt_s_own_words(
    machine, converted, monkeypatch
):
    settings = DetectorSettings(model=converted("10.3.0"), threads=1)
    pixels = Scene((96, 96)).render(0)
    with pytest.raises(DetectorError, match="Error Code 1: Cuda Runtime"):
        with CudaDetector(settings) as cuda:
            cuda.detect(pixels, 0.5)
            monkeypatch.setenv("TRT_STANDIN_FAIL_RUN", "1")
            cuda.detect(pixels, 0.5)


def test_two_threads_one_after_the_other(machine, settings):
    """The pipeline's detector thread opens and closes it; a restart does so on another thread."""
    pixels, found = Scene((96, 96)).render(0), []

    def work():
        with CudaDetector(settings) as cuda:
            found.append(len(cuda.detect(pixels, 0.5)))

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(found) == 2 and found[0] == found[1] > 0


def test_a_frame_that_is_none_is_refused(machine, settings):
    with CudaDetector(settings) as cuda:
        with pytest.raises(DetectorError, match=r"must be \(H, W, 3\) uint8, not \(4, 4\)"):
            cuda.detect(np.zeros((4, 4), np.uint8), 0.5)


def test_the_wrong_card_is_told_before_anything_is_built(machine, settings):
    with open(settings.model, "ab") as file:
        file.write(b"x")
    said = []
    with pytest.raises(CardError, match="does not match its card"):
        with CudaDetector(settings, said.append):
            pass
    assert said == []


def test_without_a_gpu_the_reason_is_told(machine, settings, monkeypatch):
    monkeypatch.setenv("CUDA_STANDIN_NODEV", "1")
    with pytest.raises(DetectorError, match="no CUDA-capable device"):
        open_cuda_detector(settings)


def test_it_opens_by_its_one_entry(machine, settings):
    with open_cuda_detector(settings) as detector:
        faces = detector.detect(Scene((96, 96)).render(0), 0.5)
    assert faces.boxes.shape == (len(faces), 4)
    assert boxes.areas(faces.boxes).min() > 0
