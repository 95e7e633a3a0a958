"""Settings: one clear line for every kind of error, and where each value came from."""

import pytest

from edge_app import config
from edge_app.config import Given, Settings, from_assignment, read_file, resolve
from edge_app.errors import ConfigError


def load(tmp_path, text, *assignments):
    path = tmp_path / "edge-app.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return resolve(read_file(str(path)) + [from_assignment(one) for one in assignments])


def test_no_file_gives_the_defaults():
    assert resolve([]).settings == Settings()


def test_the_defaults_keep_their_own_rules():
    resolve([Given(path, value, "default") for path, value in config.flatten(Settings())])


def test_an_empty_file_gives_the_defaults(tmp_path):
    assert load(tmp_path, "").settings == Settings()
    assert load(tmp_path, "camera:\n").settings == Settings()


def test_file_over_default_and_command_line_over_file(tmp_path):
    loaded = load(tmp_path, "camera:\n  width_px: 640\n  height_px: 480\n", "camera.width_px=320")
    assert loaded.settings.camera.width_px == 320
    assert loaded.settings.camera.height_px == 480
    assert loaded.origins["camera.width_px"] == "--set"
    assert loaded.origins["camera.height_px"].endswith("edge-app.yaml, line 3")
    assert "camera.rate_hz" not in loaded.origins


def test_a_whole_number_will_do_for_a_number(tmp_path):
    rate = load(tmp_path, "camera: {rate_hz: 25}").settings.camera.rate_hz
    assert rate == 25.0 and isinstance(rate, float)


def test_a_lower_threshold_takes_the_lower_bound_down_with_it():
    assert resolve([Given("faces.show", 0.5, "--threshold")]).settings.faces.keep == 0.5


@pytest.mark.parametrize(
    "text, words",
    [
        ("camera:\n  widht_px: 3", ["camera.widht_px", "line 2", "did you mean camera.width_px?"]),
        ("camera:\n  port: 3", ["camera.port", "did you mean web.port?"]),
        ("camera:\n  colour: red", ["camera.colour", "no such setting", "'edge-app config'"]),
        ("camara:\n  rate_hz: 3", ["camara", "line 1", "did you mean camera?"]),
        ("rate_hz: 3", ["rate_hz", "no such section", "did you mean camera.rate_hz?"]),
        ("camera:\n  rate_hz: fast", ["camera.rate_hz", "'fast' is a text", "expected a number"]),
        ("camera:\n  rate_hz: true", ["camera.rate_hz", "True is true or false"]),
        ("camera:\n  width_px: 3.5", ["camera.width_px", "3.5 is a number", "a whole number"]),
        ("camera:\n  width_px: '640'", ["camera.width_px", "'640' is a text"]),
        ("camera:\n  width_px: [1, 2]", ["camera.width_px", "is a list"]),
        ("camera:\n  width_px: {a: 1}", ["camera.width_px", "is a section"]),
        ("camera:\n  width_px:", ["camera.width_px", "is empty"]),
        ("camera:\n  width_px: -1", ["camera.width_px", "-1 is impossible", "from 16 to 8192"]),
        ("camera:\n  rate_hz: .inf", ["camera.rate_hz", "inf is impossible"]),
        ("camera:\n  rate_hz: .nan", ["camera.rate_hz", "nan is impossible"]),
        ("camera:\n  flip: rotat-180", ["camera.flip", "did you mean rotate-180?"]),
        ("camera:\n  source: ''", ["camera.source", "not an empty text"]),
        ("faces:\n  show: 95", ["faces.show", "95.0 is impossible", "from 0 to 1"]),
        ("faces:\n  show: 0.9\n  keep: 0.95", ["faces.keep", "above faces.show"]),
        ("faces:\n  show: 0.9\n  show: 0.8", ["faces.show", "given twice", "lines 2 and 3"]),
        ("display:\n  figures: 1", ["display.figures", "expected true or false"]),
        ("camera: 3", ["camera", "must hold 'key: value' lines"]),
        ("[1, 2]", ["edge-app.yaml", "must hold 'key: value' lines"]),
        ("camera: {rate_hz: 3", ["edge-app.yaml", "not valid YAML"]),
        ("a: b: c", ["edge-app.yaml", "not valid YAML"]),
        ("camera:\n  width_px: 2001-99-99", ["edge-app.yaml, line 2"]),
        ("camera:\n  source: !!python/object:os.system x", ["edge-app.yaml, line 2"]),
        (b"\xff\xfe\x00camera", ["edge-app.yaml"]),
    ],
)
def test_every_kind_of_error_is_one_clear_line(tmp_path, text, words):
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message, message


def test_every_wrong_setting_has_a_line_of_its_own(tmp_path):
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, "camera:\n  rate_hz: x\n  width_px: x\nfaces:\n  show: 2\n")
    assert [line.split()[0] for line in str(raised.value).splitlines()] == [
        "camera.rate_hz",
        "camera.width_px",
        "faces.show",
    ]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="none.yaml: No such file"):
        read_file(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("text", ["camera", "camera.width_px", "=3", "width_px=3"])
def test_an_assignment_that_is_none(text):
    with pytest.raises(ConfigError, match="expected section.key=value"):
        from_assignment(text)


@pytest.mark.parametrize(
    "words, kind",
    [
        ("web,rtsp:", "web,rtsp:"),
        ("rtsp:", "rtsp:"),
        (" web , file:a b.mp4 ", "web , file:a b.mp4"),
        ("'rtsp:'", "rtsp:"),
        ('"a\\tb"', "a\tb"),
        ("17", "17"),
        ("true", "true"),
        ("[x", "[x"),
        ("@home #1", "@home #1"),
    ],
)
def test_a_text_on_the_command_line_needs_no_quotes(words, kind):
    assert from_assignment("display.kind=" + words) == Given("display.kind", kind, "--set")


def test_a_text_with_signs_that_cannot_be_shown_is_refused():
    for sign in ("\x07", "\udcff"):
        with pytest.raises(ConfigError, match="--set display.kind: not valid YAML"):
            from_assignment("display.kind=web" + sign)
