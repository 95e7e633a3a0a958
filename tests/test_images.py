import base64
import os
import struct
import tempfile
import zlib

import cv2
import numpy as np
import pytest

from edge_app.errors import ImageError
from edge_app.images import list_images, read_image

# 16x16, left half red, right half blue: a JPEG in four inks as photo editors write it (Adobe marker)
CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAGBAUGBQQGBgUGBwcGCAoQCgoJCQoUDg8MEBcUGBgXFBYWGh0lHxobIxwW"
    "FiAsICMmJykqKRkfLTAtKDAlKCko/8AAFAgAEAAQBEMRAE0RAFkRAEsRAP/EABYAAQEBAAAAAAAAAAAAAAAAAAAJ"
    "CP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAOBEMATQBZAEsAAD8A1Syoyo1SlWKqCqglWJViqg//2Q=="
)
BLUE, GREEN, RED = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(path, pixels, *options):
    """Write through memory, since cv2.imwrite knows no unicode names on every system."""
    with open(str(path), "wb") as file:
        file.write(cv2.imencode(path.suffix, pixels, *options)[1].tobytes())
    return str(path)


def halves(height=24, width=32):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = RED
    pixels[:, width // 2 :] = BLUE
    return pixels


def png(width, height, rows):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_colours_come_as_bgr(tmp_path, ending):
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if ending == ".webp" else []  # lossless
    pixels = read_image(save(tmp_path / ("a" + ending), halves(), options))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, halves())


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    pixels = read_image(save(tmp_path / "grey.png", grey))
    np.testing.assert_array_equal(pixels, np.dstack([grey, grey, grey]))


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    deep = (halves().astype(np.uint16) // 255) * 0x8000
    pixels = read_image(save(tmp_path / "deep.png", deep))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, halves() // 255 * 128)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_transparency_is_dropped_and_colours_stay(tmp_path, depth):
    full = np.iinfo(depth).max
    pixels = np.zeros((5, 7, 4), depth)
    pixels[..., 1] = full
    pixels[:, 3:, 3] = full
    pixels = read_image(save(tmp_path / "see-through.png", pixels))
    np.testing.assert_array_equal(pixels, np.full((5, 7, 3), GREEN, np.uint8))


def test_four_inks_become_colours(tmp_path):
    path = tmp_path / "print.jpg"
    path.write_bytes(CMYK_JPEG)
    pixels = read_image(str(path)).astype(int)
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels[:, 2:6] - RED).max() < 40
    assert np.abs(pixels[:, 10:14] - BLUE).max() < 40


@pytest.mark.parametrize("orientation, at_left", [(1, RED), (3, BLUE)])
def test_exif_turns_by_half(tmp_path, orientation, at_left):
    pixels = read_image(exif_jpeg(tmp_path, orientation)).astype(int)
    assert pixels.shape == (24, 32, 3)
    assert np.abs(pixels[4:-4, 2:10] - at_left).max() < 40


@pytest.mark.parametrize("orientation, on_top", [(6, RED), (8, BLUE)])
def test_exif_turns_upright(tmp_path, orientation, on_top):
    pixels = read_image(exif_jpeg(tmp_path, orientation)).astype(int)
    assert pixels.shape == (32, 24, 3)
    assert np.abs(pixels[2:10, 4:-4] - on_top).max() < 40


def exif_jpeg(folder, orientation):
    data = cv2.imencode(".jpg", halves())[1].tobytes()
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    head = b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    path = folder / "turned.jpg"
    path.write_bytes(data[:2] + head + data[2:])
    return str(path)


def test_one_pixel_is_an_image(tmp_path):
    pixels = read_image(save(tmp_path / "dot.png", np.full((1, 1, 3), 7, np.uint8)))
    np.testing.assert_array_equal(pixels, [[[7, 7, 7]]])


def test_names_may_be_in_any_script(tmp_path):
    path = save(tmp_path / "Gesicht größer 人脸 😀.png", halves())
    assert read_image(path).shape == (24, 32, 3)


def test_own_png_is_read(tmp_path):
    path = tmp_path / "own.png"
    path.write_bytes(png(2, 1, b"\0" + b"\xff\0\0" + b"\0\0\xff"))
    np.testing.assert_array_equal(read_image(str(path)), [[RED, BLUE]])


def noise():
    return np.random.RandomState(3).randint(0, 255, (64, 64, 3)).astype(np.uint8)


def whole_jpeg():
    return cv2.imencode(".jpg", noise())[1].tobytes()


def with_preview(data):
    """The JPEG with a whole small JPEG inside its EXIF segment, as cameras write it."""
    preview = cv2.imencode(".jpg", halves())[1].tobytes()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(preview) + 2) + preview + data[2:]


def test_preview_inside_a_whole_jpeg_does_no_harm(tmp_path):
    path = tmp_path / "preview.jpg"
    path.write_bytes(with_preview(whole_jpeg()) + b"trailer of a telephone")
    assert read_image(str(path)).shape == (64, 64, 3)


BROKEN = {
    "empty.jpg": (b"", "is empty"),
    "text.jpg": (b"These are words.\n" * 40, "not an image"),
    "truncated.jpg": (whole_jpeg()[:-900], "ends too early"),
    # Every pixel may be there, but OpenCV does not give them: 5.0 nothing, 4.6 all but the last rows.
    "no-end-marker.jpg": (whole_jpeg()[:-2], "ends too early"),
    "truncated-preview.jpg": (with_preview(whole_jpeg())[:-900], "ends too early"),
    "head-only.jpg": (whole_jpeg()[:2], "ends too early"),
    "truncated.png": (png(8, 8, bytes(8 * 25))[:-14], "ends too early"),
    "no-size.png": (png(0, 0, b""), "not an image"),
    "no-rows.png": (png(8, 8, b"")[:30] + b"IEND", "not an image"),
    "no-size.bmp": (b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, 0, 0, 1, 24) + bytes(24), ""),
    "truncated.webp": (cv2.imencode(".webp", noise())[1].tobytes()[:-90], "ends too early"),
    "truncated.tif": (cv2.imencode(".tif", halves(200, 200))[1].tobytes()[:60], "not an image"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_files_are_refused_in_one_line(tmp_path, name, capfd):
    data, reason = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_image(str(path))
    message = str(caught.value)
    assert message.startswith(str(path)) and reason in message and "\n" not in message


def test_folder_is_no_image(tmp_path):
    with pytest.raises(ImageError, match="a folder, not an image"):
        read_image(str(tmp_path))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match="gone.jpg: cannot be read"):
        read_image(str(tmp_path / "gone.jpg"))


def test_unreadable_file_is_named(as_nobody):
    path = save(as_nobody / "secret.png", halves())
    os.chmod(path, 0)
    with pytest.raises(ImageError, match="secret.png: cannot be read"):
        read_image(path)


def test_folders_are_listed_sorted_and_files_stay_where_they_were_given(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "deep/c.jpg", ".cache/d.jpg"):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    last = tmp_path / "0-first-by-name.dat"
    last.write_bytes(b"x")
    album = str(tmp_path / "album")
    found = list_images([album, str(last)])
    names = [os.path.relpath(path, album) for path in found[:-1]]
    assert names == ["a.PNG", "b.jpg", os.path.join("deep", "c.jpg")]
    assert found[-1] == str(last)


def test_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ImageError, match="no images there; known endings are .bmp"):
        list_images([str(tmp_path)])


def test_missing_path_is_refused(tmp_path):
    with pytest.raises(ImageError, match="nowhere: no such file or folder"):
        list_images([str(tmp_path / "nowhere")])


def test_a_folder_that_is_closed_is_not_passed_over():
    with tempfile.TemporaryDirectory() as album:
        os.chmod(album, 0o755)
        closed = os.path.join(album, "closed")
        os.mkdir(closed, 0)
        cv2.imwrite(os.path.join(album, "a.png"), np.zeros((9, 9, 3), np.uint8))
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may look everywhere
        try:
            with pytest.raises(ImageError, match="closed: the folder cannot be read .Permission"):
                list_images([album])
        finally:
            os.seteuid(user)
