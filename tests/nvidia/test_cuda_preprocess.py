"""preprocess.cu, run on the CPU, against cv2 and the CPU detector's own Stretch."""

import cv2
import numpy as np
import pytest

from edge_app.card import ModelInput, halvings
from edge_app.detector import Stretch, halved
from edge_app.nvidia import kernels

MEAN, SCALE = (123.675, 116.28, 103.53), (0.0171, 0.0175, 0.0174)
LSB = max(SCALE) * 1.0001
SIZES = [
    (1280, 720),
    (640, 480),
    (320, 320),
    (321, 319),
    (300, 300),
    (7, 5),
    (1, 1),
    (2, 1),
    (1920, 1080),
    (641, 643),
    (2563, 1281),
]


def halve(runner, source, pixel_format, size_wh, pitch, order=0):
    """(H // 2, W // 2, 3) uint8 BGR of a picture in memory."""
    width, height = size_wh[0] // 2, size_wh[1] // 2
    half = np.full((height, width, 3), 77, np.uint8)
    arguments = [np.ascontiguousarray(source), kernels.PIXEL_FORMATS[pixel_format]]
    arguments += [size_wh[1], pitch, half, width, height]
    runner.launch("halve", ((width + 31) // 32, (height + 7) // 8), (32, 8), arguments, order=order)
    return half


def stretch(runner, source, pixel_format, size_wh, spec, pitch=None, order=0):
    """(3, h, w) float32 of a picture in memory."""
    width, height = spec.size_wh
    tensor = np.full((3, height, width), np.nan, np.float32)
    pitch = pitch or size_wh[0] * kernels.BYTES_A_PIXEL[pixel_format]
    for _ in range(halvings(size_wh, spec.size_wh)):
        source = halve(runner, source, pixel_format, size_wh, pitch, order)
        size_wh, pixel_format, pitch = source.shape[1::-1], "BGR", 3 * source.shape[1]
    tables = [
        kernels.stretch_table(size_wh[0], width, False),
        kernels.stretch_table(size_wh[1], height, True),
    ]
    arguments = [np.ascontiguousarray(source), kernels.PIXEL_FORMATS[pixel_format]]
    arguments += [size_wh[1], pitch] + tables + [tensor, width, height]
    arguments += [int(spec.order == "RGB")] + [float(s) for s in spec.scale]
    arguments += [float(-m * s) for m, s in zip(spec.mean, spec.scale)]
    grid = ((width + 31) // 32, (height + 7) // 8)
    runner.launch("preprocess", grid, (32, 8), arguments, order=order)
    return tensor


def picture(size_wh, seed=0):
    """Noise on a gradient, every value used."""
    width, height = size_wh
    noise = np.random.RandomState(seed).randint(0, 256, (height, width, 3))
    ramp = np.linspace(0, 255, width)[None, :, None]
    return ((noise + ramp) / 2).astype(np.uint8)


def spec_of(size_wh=(320, 320), order="RGB"):
    return ModelInput("image", size_wh[0], size_wh[1], order, MEAN, SCALE)


@pytest.mark.parametrize("size_wh", SIZES)
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_bgr_is_what_the_cpu_detector_makes(preprocess_kernels, size_wh, order):
    pixels, spec = picture(size_wh), spec_of(order=order)
    got = stretch(preprocess_kernels, pixels, "BGR", size_wh, spec)
    want = Stretch(spec)(pixels)[0]
    assert np.abs(got - want).max() <= LSB
    if cv2.__version__.startswith(
        ("4.6", "5.0")
    ):  # where it was seen; elsewhere a vector unit may round
        assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("size_wh", [(2, 2), (3, 5), (64, 16), (65, 17), (640, 361)])
def test_a_half_is_the_cpu_s(preprocess_kernels, size_wh):
    pixels = picture(size_wh)
    for order in (0, 1, 7):
        half = halve(preprocess_kernels, pixels, "BGR", size_wh, 3 * size_wh[0], order)
        assert half.tobytes() == halved(pixels).tobytes()


def test_a_picture_of_the_network_s_size_is_only_normalised(preprocess_kernels):
    pixels, spec = picture((320, 320)), spec_of()
    got = stretch(preprocess_kernels, pixels, "BGR", (320, 320), spec)
    assert got.tobytes() == Stretch(spec)(pixels)[0].tobytes()


@pytest.mark.parametrize("target", [(320, 320), (300, 300), (321, 17), (1, 1), (31, 9)])
def test_any_network_size_and_every_thread_order(preprocess_kernels, target):
    pixels, spec = picture((640, 360), 3), spec_of(target)
    got = [stretch(preprocess_kernels, pixels, "BGR", (640, 360), spec, order=k) for k in (0, 1, 7)]
    assert np.abs(got[0] - Stretch(spec)(pixels)[0]).max() <= LSB
    assert got[0].tobytes() == got[1].tobytes() == got[2].tobytes()


@pytest.mark.parametrize(
    "pixel_format,code",
    [
        ("RGB", cv2.COLOR_BGR2RGB),
        ("BGRx", cv2.COLOR_BGR2BGRA),
        ("RGBA", cv2.COLOR_BGR2RGBA),
    ],
)
def test_other_colour_orders_give_the_same(preprocess_kernels, pixel_format, code):
    pixels, spec = picture((641, 643)), spec_of()
    want = stretch(preprocess_kernels, pixels, "BGR", (641, 643), spec)
    other = cv2.cvtColor(pixels, code)
    assert (
        stretch(preprocess_kernels, other, pixel_format, (641, 643), spec).tobytes()
        == want.tobytes()
    )


@pytest.mark.parametrize("target", [(320, 320), (32, 32)])  # not halved, and once
def test_rows_may_be_further_apart_than_they_are_long(preprocess_kernels, target):
    pixels, spec = picture((100, 60)), spec_of(target)
    padded = np.full((60, 128 * 3), 255, np.uint8)
    padded[:, :300] = pixels.reshape(60, 300)
    want = stretch(preprocess_kernels, pixels, "BGR", (100, 60), spec)
    got = stretch(preprocess_kernels, padded, "BGR", (100, 60), spec, pitch=128 * 3)
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("size_wh", [(1280, 720), (64, 48), (2, 2), (320, 320)])
def test_nv12_is_converted_as_cv2_does(preprocess_kernels, size_wh):
    width, height = size_wh
    planes = np.random.RandomState(5).randint(0, 256, (height * 3 // 2, width)).astype(np.uint8)
    spec = spec_of()
    got = stretch(preprocess_kernels, planes, "NV12", size_wh, spec)
    want = Stretch(spec)(cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_NV12))[0]
    assert np.abs(got - want).max() <= LSB


def test_source_bytes():
    assert kernels.source_bytes("BGR", (10, 4)) == 120
    assert kernels.source_bytes("RGBA", (10, 4)) == 160
    assert kernels.source_bytes("NV12", (10, 4)) == 60
