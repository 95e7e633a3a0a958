"""What only a GPU can prove. EDGE_APP_GPU_CASES (10000) says how many random cases."""

import os
import shutil

import numpy as np
import pytest
import small_ssd
import test_cuda_kernels as kernel_cases
import test_cuda_preprocess as preprocess_cases
from gpu_runner import GpuRunner
from onnx_network import OnnxNetwork

from edge_app.config import DetectorSettings
from edge_app.detector import OnnxDetector
from edge_app.errors import DetectorError
from edge_app.nvidia import cache, convert
from edge_app.nvidia import detector as cuda_detector
from edge_app.nvidia.context import CudaContext, import_driver
from edge_app.nvidia.detector import CudaDetector
from edge_app.scene import Scene

pytestmark = pytest.mark.gpu
CASES = int(os.environ.get("EDGE_APP_GPU_CASES", 10000))
ROUNDS = max(10, CASES // 10)  # of opening and closing


@pytest.fixture
def runner(context, cubins):
    return GpuRunner(cubins)


@pytest.fixture
def exact_detector(monkeypatch, cubins):
    """Function: settings of a model whose detector asks ONNX Runtime for the network's answer."""

    def settings_of(model, **changes):
        files = cache.files_of(model)._replace(engine=model, cubins=cubins)
        monkeypatch.setattr(convert, "ensure", lambda *arguments: files)
        monkeypatch.setattr(convert, "import_tensorrt", lambda: np)  # for its name and version
        monkeypatch.setattr(cuda_detector, "Network", OnnxNetwork)
        return DetectorSettings(model=model)._replace(**changes)

    return settings_of


def free_bytes():
    with CudaContext():
        return import_driver().mem_get_info()[0]


def test_post_processing_equals_numpy(runner):
    random = np.random.RandomState(99)
    for number in range(CASES):
        kind = kernel_cases.KINDS[number % len(kernel_cases.KINDS)]
        case = kernel_cases.Case(
            random,
            int(random.choice([1, 2, 63, 64, 65, 129, 300, 700])),
            kind,
            threshold=float(random.choice([0.0, 0.25, 0.5, 0.95])),
            iou=float(random.choice([0.0, 0.3, 0.45, 0.7])),
            capacity=int(random.choice([1, 64, 100, 4096])),
            max_faces=int(random.choice([1, 64, 750])),
        )
        kernel_cases.assert_equal(runner, case)


def test_boxes_with_sizes_from_the_network(runner):
    random = np.random.RandomState(98)
    for _ in range(max(10, CASES // 20)):
        case = kernel_cases.Case(random, int(random.randint(1, 500)), "sizes", threshold=0.2)
        kernel_cases.assert_same(runner, case)


@pytest.mark.parametrize("count,capacity", [(8732, 4096), (8732, 8732), (10659, 4096)])
def test_every_default_box_over_the_threshold(runner, count, capacity):
    kernel_cases.test_every_default_box_over_the_threshold(runner, count, capacity)


def test_sanitized_post_processing(runner):
    """The short one, for compute-sanitizer: every kind, sizes around the tile and word limits."""
    random = np.random.RandomState(97)
    for kind in kernel_cases.KINDS:
        for count in (1, 65, 300):
            case = kernel_cases.Case(random, count, kind, capacity=129, max_faces=40)
            kernel_cases.assert_equal(runner, case)


def test_sanitized_preprocessing(runner):
    for size_wh in ((7, 5), (321, 319), (640, 480)):
        preprocess_cases.test_bgr_is_what_the_cpu_detector_makes(runner, size_wh, "RGB")
    preprocess_cases.test_nv12_is_converted_as_cv2_does(runner, (64, 48))


@pytest.mark.parametrize("size_wh", preprocess_cases.SIZES)
def test_preprocessing_equals_cv2(runner, size_wh):
    preprocess_cases.test_bgr_is_what_the_cpu_detector_makes(runner, size_wh, "BGR")
    if size_wh[0] % 2 == 0 and size_wh[1] % 2 == 0:
        preprocess_cases.test_nv12_is_converted_as_cv2_does(runner, size_wh)


def model_of_the_repository(folder):
    for ending in (".onnx", ".json"):
        shutil.copy(DetectorSettings().model[:-5] + ending, str(folder / ("model" + ending)))
    return str(folder / "model.onnx")


def test_the_detector_equals_the_cpu_detector_on_the_scene(exact_detector, tmp_path):
    settings = exact_detector(model_of_the_repository(tmp_path))
    scene, compared = Scene(), 0
    with CudaDetector(settings) as cuda, OnnxDetector(settings) as cpu:
        for number in range(0, 150, 15):
            pixels = scene.render(number)
            for threshold in (0.95, 0.05):
                found, wanted = cuda.detect(pixels, threshold), cpu.detect(pixels, threshold)
                assert len(found) == len(wanted)
                np.testing.assert_allclose(found.boxes, wanted.boxes, atol=2e-2)
                np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
                compared += len(found)
    assert compared > 0


def test_nothing_is_left_after_opening_and_closing(exact_detector, tmp_path):
    settings = exact_detector(small_ssd.write(tmp_path))
    pixels = Scene((320, 180)).render(0)
    with CudaContext():  # keeps the context itself out of the comparison
        pass
    seen = []
    for number in range(ROUNDS):
        with CudaDetector(settings) as cuda:
            cuda.detect(pixels, 0.5)
        if number in (2, ROUNDS - 1):
            seen.append(free_bytes())
    assert seen[0] == seen[1]


def test_nothing_is_left_after_failures(exact_detector, tmp_path, monkeypatch):
    settings = exact_detector(small_ssd.write(tmp_path))
    pixels, seen = Scene((320, 180)).render(0), []

    def fail(*arguments):
        raise DetectorError("planted")

    for number in range(max(10, ROUNDS // 10)):
        with monkeypatch.context() as patch:
            patch.setattr(cuda_detector.Kernels, ["collect", "suppress"][number % 2], fail)
            with pytest.raises(DetectorError, match="planted"):
                with CudaDetector(settings) as cuda:
                    cuda.detect(pixels, 0.5)
        if number in (2, max(10, ROUNDS // 10) - 1):
            seen.append(free_bytes())
    assert seen[0] == seen[1]


def test_the_half_precision_engine_passes_the_parity_gate(gpu, tmp_path):
    """By TensorRT or TensorRT-RTX, if one is here and accepts this GPU; its own words if not."""
    try:
        convert.import_tensorrt()
    except DetectorError as error:
        pytest.skip("NOT TESTED: {}".format(error))
    said = []
    try:
        files = convert.build(model_of_the_repository(tmp_path), progress=said.append)
    except DetectorError as error:
        if "is refused" in str(error):
            raise
        pytest.skip("NOT TESTED: TensorRT on {} sm_{} answered: {}".format(gpu.name, gpu.sm, error))
    record = cache.load_record(files.record)
    print("\n".join(said))
    assert record.verified and record.half_layers / record.layers > 0.5
    with CudaDetector(DetectorSettings(model=str(tmp_path / "model.onnx"))) as cuda:
        cuda.detect(Scene().render(0), 0.95)
