"""docs/troubleshooting.md has an entry for every message, and none for messages that are no more."""

import os
import re
import shlex

import pytest
from messages import ANY, ROOT, collect, says_something, template

from edge_app.arguments import parse
from edge_app.config import Settings, flatten

DOCUMENT = os.path.join(ROOT, "docs", "troubleshooting.md")
SYMPTOMS = ("The picture is not as it should be", "Heat and power")  # without a message
NOT_OURS = SYMPTOMS + ("Messages of others",)  # sections whose messages are not in our source
SECTIONS = Settings._fields
SWITCHES = ("--force", "--json", "--verbose")
NOT_OF_THE_PROGRAM = ("--shm-size=256m", "--system-site-packages")
ADVICE = """\
docs/troubleshooting.md has no entry for this message:

    {place}: {text}

Add to the section of its symptom (or, beside an entry of the same cause, to its line "Also:"):

### `{text}`
What has happened, in one sentence. **Cure:** `command to paste`
"""


class Entry:
    """A heading with a message, and what stands below it."""

    def __init__(self, section, heading, body):
        also = re.findall(r"^Also: ((?:.+\n)+)", body, re.MULTILINE)
        self.section = section
        self.heading = heading
        self.body = body
        self.patterns = [" ".join(one.split()) for one in _code(heading + "\n" + "\n".join(also))]


def _code(text):
    return re.findall(r"`([^`]+)`", text)


def entries():
    with open(DOCUMENT, encoding="utf-8") as file:
        text = file.read()
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        section, _, rest = part.partition("\n")
        introduction, *parts = re.split(r"^### ", rest, flags=re.MULTILINE)
        for one in parts:
            heading, _, body = one.partition("\n")
            yield Entry(section, heading, introduction + body)


def covers(pattern, text):
    """Whether a pattern is a part of a message; an ellipsis stands for anything, or for nothing."""
    parts = [re.escape(part) for part in pattern.strip(ANY).split(ANY)]
    return re.search(".*?".join(parts), text) is not None


def test_every_message_has_an_entry():
    patterns = [pattern for entry in entries() for pattern in entry.patterns]
    assert len(patterns) > 100
    missing = [
        ADVICE.format(place=message.place, text=message.text)
        for message in collect()
        if not any(covers(pattern, message.text) for pattern in patterns)
    ]
    assert not missing, "\n".join([""] + missing)


def test_no_entry_is_for_a_message_that_is_no_more():
    texts = [message.text for message in collect()]
    for entry in entries():
        for pattern in entry.patterns if entry.section not in NOT_OURS else ():
            gone = "no message is like `{}` any more: correct or remove it".format(pattern)
            assert any(covers(pattern, text) for text in texts), gone


def test_every_entry_says_what_to_do():
    for entry in entries():
        assert "**Cure:**" in entry.body, "no cure for " + entry.heading
        if entry.section not in SYMPTOMS:
            assert entry.patterns, "a heading without a message: " + entry.heading
        if entry.section not in NOT_OURS:
            assert all(says_something(pattern) for pattern in entry.patterns), entry.patterns


def cures():
    """Every piece of code that stands below a heading."""
    for entry in entries():
        for code in _code(re.sub(r"^Also: (?:.+\n)+", "", entry.body, flags=re.MULTILINE)):
            yield " ".join(code.split())


def _is_understood(command, words):
    try:
        parse([command] + words)
    except SystemExit:
        return False
    return True


def test_every_command_of_ours_that_it_tells_is_understood(capsys):
    for code in cures():
        words = shlex.split(code) or [""]
        if words[0] == "edge-app" and len(words) > 1:
            assert _is_understood(words[1], words[2:]), code
        elif words[0].startswith("--") and words[0] not in NOT_OF_THE_PROGRAM:
            commands = (("run", []), ("convert", ["m.onnx"]), ("detect", ["a.jpg"]), ("check", []))
            value = [] if len(words) > 1 or words[0] in SWITCHES else ["5"]
            known = [one for one, more in commands if _is_understood(one, more + words + value)]
            assert known, code


def test_every_setting_that_it_names_exists():
    known = dict(flatten(Settings()))
    named = [code.partition(":")[0] for code in cures()]
    settings = [
        name
        for name in named
        if re.match(r"[a-z]+\.[a-z_]+$", name) and name.split(".")[0] in SECTIONS
    ]
    assert len(settings) > 10
    for name in settings:
        assert name in known, "there is no setting {}".format(name)


@pytest.mark.parametrize(
    "source, text",
    [
        ("'{}: no frame for {:.1f} s'.format(a, b)", "…: no frame for … s"),
        ("'%s is %d' % (a, b)", "… is …"),
        ("f'{a} holds {b!r}'", "… holds …"),
        ("'a' + b + 'c'", "a…c"),
        ("KNOWN + 'c'", "the known c"),
        ("str(error)", "…"),
    ],
)
def test_what_differs_becomes_an_ellipsis(source, text):
    import ast

    assert template(ast.parse(source, mode="eval").body, {"KNOWN": "the known "}) == text


def test_messages_of_each_kind_are_found():
    places = {message.place.rsplit(":", 1)[0] for message in collect()}
    for path in (
        "edge_app/camera.py",
        "edge_app/cli.py",
        "edge_app/nvidia/half.py",
        "deploy/pycuda.sh",
    ):
        assert path in places, "no message found in {}".format(path)


def test_a_short_or_foreign_pattern_covers_nothing_it_should_not():
    assert covers("…: no frame for … s", "rtsp: no frame for … s. …")
    assert not covers("…: no frame for … s", "…: no picture for … s")
