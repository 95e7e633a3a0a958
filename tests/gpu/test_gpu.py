"""What only a GPU can prove. EDGE_APP_GPU_CASES (10000) says how many random cases."""

import os
import shutil

import numpy as np
import pytest
import small_ssd
import test_cuda_kernels as kernel_cases
import test_cuda_preprocess as preprocess_cases
from gpu_runner import GpuRunner
from onnx_network import FixedNetwork, OnnxNetwork
from torch_network import TorchNetwork

from edge_app.boxes import iou
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
FRAMES = max(10, CASES // 100)  # of the scene's ten seconds


@pytest.fixture
def runner(context, cubins):
    opened = GpuRunner(cubins)
    yield opened
    opened.close()


@pytest.fixture
def exact_detector(monkeypatch, cubins):
    """Function: settings of a model whose detector asks ONNX Runtime for the network's answer."""

    def settings_of(model, network=OnnxNetwork, **changes):
        files = cache.files_of(model)._replace(engine=model, cubins=cubins)
        monkeypatch.setattr(convert, "ensure", lambda *arguments: files)
        monkeypatch.setattr(convert, "import_tensorrt", lambda: np)  # for its name and version
        monkeypatch.setattr(cuda_detector, "Network", network)
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


def test_sanitized_kernels_of_post_processing(runner):
    """The short one, for compute-sanitizer: every kind, sizes around the tile and word limits."""
    random = np.random.RandomState(97)
    for kind in kernel_cases.KINDS:
        for count in (1, 65, 300):
            case = kernel_cases.Case(random, count, kind, capacity=129, max_faces=40)
            kernel_cases.assert_equal(runner, case)


def test_sanitized_kernels_of_preprocessing(runner):
    for size_wh in ((7, 5), (321, 319), (641, 643)):
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
        for number in range(0, 300, 300 // FRAMES):
            pixels = scene.render(number)
            for threshold in (0.95, 0.05):
                found, wanted = cuda.detect(pixels, threshold), cpu.detect(pixels, threshold)
                assert len(found) == len(wanted)
                np.testing.assert_allclose(found.boxes, wanted.boxes, atol=2e-2)
                np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
                compared += len(found)
    print("{} faces and candidates of {} frames are the same".format(compared, FRAMES))
    assert compared > 0


def test_a_frame_waits_once_and_allocates_nothing(exact_detector, tmp_path, gpu, ledger):
    settings = exact_detector(small_ssd.write(tmp_path), FixedNetwork)
    pixels = Scene((320, 180)).render(0)
    with CudaDetector(settings) as cuda:
        assert len(cuda.detect(pixels, 0.5)) > 0
        before = ledger.calls()
        for _ in range(100):
            cuda.detect(pixels, 0.5)
        spent = {name: count - before[name] for name, count in ledger.calls().items()}
    assert spent == {
        "allocations": 0,
        "waits": 100,
        "blocking copies": 0,
        "queued copies": 0 if gpu.integrated else 100,
        "launches": 600,  # one halving, one stretch, four kernels from scores to faces
    }


def open_and_close(settings, pixels, rounds):
    for _ in range(rounds):
        with CudaDetector(settings) as cuda:
            cuda.detect(pixels, 0.5)


def test_nothing_is_alive_after_opening_and_closing(exact_detector, tmp_path, ledger, held_context):
    settings = exact_detector(small_ssd.write(tmp_path))
    before = ledger.alive()
    open_and_close(settings, Scene((320, 180)).render(0), ROUNDS)
    assert ledger.alive() == before
    print("{} rounds, {} calls".format(ROUNDS, ledger.calls()))


def test_nothing_is_alive_after_opening_and_closing_the_context_too(
    exact_detector, tmp_path, ledger
):
    settings, before = exact_detector(small_ssd.write(tmp_path)), ledger.alive()
    open_and_close(settings, Scene((320, 180)).render(0), 10)
    assert ledger.alive() == before


def test_out_of_memory_at_any_allocation_frees_everything(
    exact_detector, tmp_path, ledger, held_context
):
    settings = exact_detector(small_ssd.write(tmp_path))
    pixels, before, failures = Scene((96, 96)).render(0), ledger.alive(), 0
    for nth in range(1, 40):
        ledger.fail_allocation(nth)
        try:
            open_and_close(settings, pixels, 1)
        except DetectorError as error:
            assert "out of memory" in str(error)
            failures += 1
            assert ledger.alive() == before
    ledger.fail_allocation(0)
    assert failures > 12
    open_and_close(settings, pixels, 1)


def fail(*arguments):
    raise DetectorError("planted")


@pytest.mark.parametrize("where", ["preprocess", "collect", "rank_and_decode", "suppress"])
def test_nothing_is_alive_after_failures(
    exact_detector, tmp_path, monkeypatch, ledger, held_context, where
):
    settings = exact_detector(small_ssd.write(tmp_path))
    pixels, before = Scene((320, 180)).render(0), ledger.alive()
    for _ in range(max(5, ROUNDS // 20)):
        with monkeypatch.context() as patch:
            patch.setattr(cuda_detector.Kernels, where, fail)
            with pytest.raises(DetectorError, match="planted"):
                open_and_close(settings, pixels, 1)
        assert ledger.alive() == before


def test_free_memory_is_back_when_alone(exact_detector, tmp_path, held_context):
    """Of the whole GPU, by its own count: only where nothing else runs on it."""
    settings = exact_detector(small_ssd.write(tmp_path))
    pixels, seen = Scene((320, 180)).render(0), []
    for rounds in (3, ROUNDS):
        open_and_close(settings, pixels, rounds)
        seen.append(free_bytes())
    assert seen[0] == seen[1]


def test_sanitized_rounds(exact_detector, tmp_path):
    """For compute-sanitizer's search for leaks."""
    settings = exact_detector(small_ssd.write(tmp_path))
    open_and_close(settings, Scene((320, 180)).render(0), 3)


@pytest.fixture(scope="module")
def engine_model(gpu, tmp_path_factory):
    """The repository's model with its FP16 engine, by TensorRT or TensorRT-RTX; its own words if it cannot."""
    try:
        convert.import_tensorrt()
    except DetectorError as error:
        pytest.skip("NOT TESTED: {}".format(error))
    model = model_of_the_repository(tmp_path_factory.mktemp("engine"))
    try:
        convert.build(model, progress=print)
    except DetectorError as error:
        if "is refused" in str(error):
            raise
        pytest.skip("NOT TESTED: TensorRT on {} sm_{} answered: {}".format(gpu.name, gpu.sm, error))
    return model


def test_the_half_precision_engine_passes_the_parity_gate(engine_model):
    record = cache.load_record(cache.files_of(engine_model).record)
    print(record)
    assert record.verified and record.half_layers / record.layers > 0.5


def unmatched(sure, others):
    """How many faces above 0.96 of one detector the other does not have at all (it was asked from 0.93)."""
    lacking = 0
    for box in sure.boxes[sure.scores > 0.96]:
        lacking += not (iou(box[None], others.boxes) > 0.9).any()
    return lacking


def assert_same_faces_on_the_scene(settings):
    scene, faces = Scene(), 0
    with CudaDetector(settings) as cuda, OnnxDetector(settings) as cpu:
        for number in range(0, 300, 300 // FRAMES):
            pixels = scene.render(number)
            found, wanted = cuda.detect(pixels, 0.93), cpu.detect(pixels, 0.93)
            assert unmatched(found, wanted) == unmatched(wanted, found) == 0, number
            faces += len(wanted)
    print("{} faces of {} frames, by {}".format(faces, FRAMES, cuda.description))


def test_the_detector_with_its_engine_finds_the_faces_of_the_cpu_detector(engine_model):
    assert_same_faces_on_the_scene(DetectorSettings(model=engine_model))


def test_the_detector_with_a_torch_engine_finds_the_faces_of_the_cpu_detector(
    exact_detector, tmp_path
):
    """Half precision on the GPU also where TensorRT-RTX does not take it."""
    pytest.importorskip("torch", reason="NOT TESTED: no torch")
    assert_same_faces_on_the_scene(
        exact_detector(model_of_the_repository(tmp_path), network=TorchNetwork)
    )


def test_free_memory_is_back_after_an_engine_when_alone(engine_model, held_context):
    settings, seen = DetectorSettings(model=engine_model), []
    for rounds in (3, 20):
        open_and_close(settings, Scene((320, 180)).render(0), rounds)
        seen.append(free_bytes())
    assert seen[0] == seen[1]
