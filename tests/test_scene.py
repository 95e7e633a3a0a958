import cv2
import numpy as np
import pytest

from edge_app import scene as scenes
from edge_app.errors import DisplayError
from edge_app.scene import Scene, write_clip

SMALL = (320, 180)


@pytest.fixture(scope="module")
def scene():
    return Scene(SMALL)


@pytest.mark.parametrize("size_wh", [SMALL, (181, 133), (96, 128)])
def test_frames_have_the_size_asked_for(size_wh):
    frame = Scene(size_wh).render(17)
    assert frame.shape == (size_wh[1], size_wh[0], 3)
    assert frame.dtype == np.uint8 and frame.flags.c_contiguous and frame.flags.owndata


def test_a_frame_drawn_into_memory_that_was_used_before_is_the_same(scene):
    used = scene.render(3)
    assert scene.render(50, used) is used
    np.testing.assert_array_equal(used, scene.render(50))


def test_a_frame_depends_on_its_number_alone(scene):
    again = Scene(SMALL)
    again.render(3)
    np.testing.assert_array_equal(scene.render(50), again.render(50))
    assert np.any(scene.render(50) != scene.render(51))


def test_another_seed_is_another_walk(scene):
    assert np.any(Scene(SMALL, seed=2).render(0) != scene.render(0))


def test_rate_changes_the_pace_not_the_walk(scene):
    np.testing.assert_array_equal(Scene(SMALL, rate_hz=15.0).render(10), scene.render(20))


def test_without_people_there_are_no_faces():
    empty = Scene(SMALL, faces=0)
    assert empty.boxes(0).shape == (0, 4) and empty.faces(9) == []
    assert empty.render(0).std() > 5


def test_boxes_lie_in_the_picture_and_faces_come_and_go(scene):
    counts = set()
    for number in range(0, 900, 10):
        for face in scene.faces(number):
            x1, y1, x2, y2 = face.box
            assert 0 <= x1 < x2 <= SMALL[0] and 0 <= y1 < y2 <= SMALL[1]
            assert 0 < face.visible <= 1
        counts.add(len(scene.boxes(number)))
    assert min(counts) <= 2 and max(counts) >= 4
    assert any(face.visible < 0.3 for n in range(0, 900, 10) for face in scene.faces(n))


def test_faces_are_near_and_far(scene):
    heights = [box[3] - box[1] for n in range(0, 300, 10) for box in scene.boxes(n, 0.95)]
    assert max(heights) / min(heights) > 2.5
    assert max(heights) > 0.2 * SMALL[1]


def test_boxes_are_where_the_faces_are():
    """Searched for around a box that is said to be free, the portrait's face is found in that box."""
    portrait = cv2.imread(scenes.scenery.PORTRAIT, cv2.IMREAD_GRAYSCALE)
    x1, y1, x2, y2 = (int(side) for side in scenes.scenery.FACE)
    large = Scene((1280, 720))
    shifts = []
    for number in range(0, 300, 25):
        grey = cv2.cvtColor(large.render(number), cv2.COLOR_BGR2GRAY)
        for face in large.faces(number):
            left, top, right, bottom = face.box.round().astype(int)
            if face.visible > 0.97 and 20 < left and right < 1260:
                size_wh = (int(right - left), int(bottom - top))
                template = cv2.resize(portrait[y1:y2, x1:x2], size_wh)
                around = grey[max(0, top - 20) : bottom + 20, left - 20 : right + 20]
                matches = [
                    cv2.minMaxLoc(cv2.matchTemplate(around, face, cv2.TM_CCOEFF_NORMED))
                    for face in (template, template[:, ::-1].copy())
                ]
                place = max(matches, key=lambda match: match[1])[3]
                shifts.append(np.hypot(place[0] - 20, place[1] - min(20, top)) / size_wh[0])
    assert len(shifts) > 15
    assert max(shifts) < 0.12


def test_clip_holds_the_scene(tmp_path, scene):
    path = str(tmp_path / "clip.mp4")
    assert write_clip(path, 1.0, SMALL, 30.0) == 30
    clip = cv2.VideoCapture(path)
    done, first = clip.read()
    assert done and first.shape == (180, 320, 3)
    assert np.abs(first.astype(int) - scene.render(0)).mean() < 8
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 30
    clip.release()


def test_clip_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(DisplayError, match="cannot be written"):
        write_clip(str(tmp_path / "nowhere" / "clip.mp4"), 0.1, SMALL)


def test_command_line_writes_a_clip(tmp_path, capsys):
    path = str(tmp_path / "clip.mp4")
    assert scenes.main([path, "--seconds", "0.2", "--size", "160x96", "--rate", "10"]) == 0
    assert "2 frames" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        scenes.main([path, "--size", "large"])


def test_a_narrow_picture_goes_on_where_a_column_is_out_of_it():
    """4:3: the second column leaves the picture on its right; that ended the camera after 14 s."""
    scene = Scene((320, 240), 0, 10.0)
    for number in range(140, 205):
        assert scene.render(number).shape == (240, 320, 3)
