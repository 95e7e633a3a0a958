"""Settings against random text, bytes and the tricks of YAML: a setting or a ConfigError, and soon.

The seed is fixed, so that a failure can be repeated; EDGE_APP_SEED takes another, EDGE_APP_ROUNDS more of it.
"""

import os
import random
import string

import pytest

from edge_app import config
from edge_app.errors import ConfigError

SEED = int(os.environ.get("EDGE_APP_SEED", "20261122"))
ROUNDS = int(os.environ.get("EDGE_APP_ROUNDS", "250"))
NAMES = [path for path, _ in config.flatten(config.Settings())]
SECTIONS = list(config.Settings._fields)
VALUES = [
    "1",
    "-1",
    "0",
    "1.5",
    "true",
    "~",
    "''",
    "text",
    ".nan",
    "-.inf",
    "1e999",
    "1_0",
    "0x1F",
    "012",
]
VALUES += ["12:30:45", "2001-99-99", "2001-01-01", "[1, 2]", "{a: 1}", "!!int ''", "!!bool maybe"]
VALUES += [
    "!!timestamp x",
    "!!float x",
    "!!binary '*'",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!pairs [1]",
]
VALUES += [
    "!!python/name:os.system",
    "!new tag",
    "!!null x",
    "*nobody",
    "&a [*a]",
    "&a {*a : 1}",
    "|\n  x",
]
VALUES += [
    "9" * 400,
    "9" * 5000,
    "'" + "x" * 5000 + "'",
    '"\\ud800"',
    '"\\x00"',
    "=",
    "<<",
    "- - -",
]
KEYS = [
    "? [a, b]\n",
    "? {a: b}\n",
    "? &k [*k]\n",
    "<<",
    "1",
    "~",
    "''",
    "a.b",
    "camera.width_px",
    "\u00fc",
    "...",
]


def checked(load):
    """Whether it is accepted; anything but settings or a ConfigError is an error here too."""
    try:
        loaded = config.resolve(load())
    except ConfigError as error:
        assert 0 < len(str(error)) < 50000
        return False
    assert isinstance(loaded.settings, config.Settings)
    return True


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "edge-app.yaml"

    def read_text(data):
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
        return checked(lambda: config.read_file(str(path)))

    return read_text


def sensible(chance):
    """A file with sections and values, some of them good."""
    lines = []
    for section in chance.sample(SECTIONS + KEYS[:4], chance.randrange(1, 5)):
        lines.append(section + ":")
        for _ in range(chance.randrange(4)):
            names = [name.split(".")[1] for name in NAMES if name.startswith(section + ".")]
            key = chance.choice(names * 3 + KEYS)
            lines.append("  {}: {}".format(key, chance.choice(VALUES)))
    return "\n".join(lines) + "\n"


def changed(chance, data):
    data = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            data[at : at + 1] = bytes(bytearray([chance.getrandbits(8)]))
        elif kind == 1:
            data[at:at] = chance.choice(
                [b":", b"- ", b"[", b"]", b"{", b"}", b"\n", b"'", b'"', b"\t", b"&a ", b"*a"]
            )
        elif kind == 2:
            del data[at : at + chance.randrange(8)]
        else:
            data[at:at] = data[: chance.randrange(20)]
    return bytes(data)


def test_files_that_are_nearly_right(read):
    chance = random.Random(SEED)
    accepted = sum(read(changed(chance, sensible(chance).encode("utf-8"))) for _ in range(ROUNDS))
    assert accepted < ROUNDS


def test_files_with_odd_values(read):
    chance = random.Random(SEED + 1)
    accepted = sum(read(sensible(chance)) for _ in range(ROUNDS))
    assert 0 < accepted < ROUNDS  # so that both ways are gone


@pytest.mark.parametrize("name", NAMES)
def test_every_odd_value_of_every_setting(read, name):
    section, key = name.split(".")
    for value in VALUES:
        read("{}:\n  {}: {}\n".format(section, key, value))


def test_bytes_of_all_kinds(read):
    chance = random.Random(SEED + 2)
    for _ in range(ROUNDS):
        read(bytes(bytearray(chance.getrandbits(8) for _ in range(chance.randrange(200)))))
        read("".join(chance.choice(string.printable) for _ in range(chance.randrange(200))))


@pytest.mark.parametrize("opening", ["[", "{", "{a: ", "- ", "? ", "[{a: ", "!!set {", "&a "])
@pytest.mark.parametrize("before", ["", "camera: ", "camera:\n  source: "])
def test_what_is_nested_without_end(read, before, opening):
    closing = {"[": "]", "{": "}", "{a: ": "}", "[{a: ": "}]", "!!set {": "}"}.get(opening, "")
    assert not read(before + opening * 50 + "1" + closing * 50)
    assert not read(before + opening * 600)


@pytest.mark.parametrize(
    "where", ["a: &x0 [1]\n{}camera: *x30\n", "camera:\n  source: &x0 [1]\n{}"]
)
def test_aliases_that_stand_for_more_than_a_disk_holds(read, where):
    indent = "  " if where.startswith("camera") else ""
    names = NAMES[:30] if indent else []
    lines = [
        "{}{}: &x{} [{}]\n".format(
            indent,
            names[n].split(".")[1] if indent else "k{}".format(n),
            n + 1,
            ", ".join(["*x%d" % n] * 9),
        )
        for n in range(30)
    ]
    assert not read(where.format("".join(lines)))


def test_a_key_made_of_aliases(read):
    lines = ["? &x0 [1]\n"] + [
        ": 1\n? &x%d [%s]\n" % (n + 1, ", ".join(["*x%d" % n] * 9)) for n in range(30)
    ]
    assert not read("".join(lines))
    assert not read("camera:\n  source:\n    &x0 [1]\n  ? [*x0, *x0]\n  : 1\n")


def test_a_file_that_is_far_too_large(read):
    assert not read(b"camera:\n  width_px: " + b"9" * (3 << 20))
    assert not read(b"# nothing\n" * (1 << 19))
    assert not read(b"camera: " + b"[" * (1 << 20))


def test_what_is_no_file(tmp_path):
    for path in (str(tmp_path), "\0", "", "/proc/self/mem", "x" * 5000, "\udcff"):
        assert not checked(lambda: config.read_file(path))


def test_assignments():
    chance = random.Random(SEED + 3)
    for _ in range(ROUNDS):
        name = chance.choice(NAMES + SECTIONS + KEYS + ["", ".", "a.b.c"])
        value = chance.choice(
            VALUES + ["[" * 300, "{a: " * 300, "- " * 5000, "\0", "9" * (1 << 18)]
        )
        text = chance.choice(["{}={}", "{} = {}", "{}{}", "{}=={}"]).format(name, value)
        checked(lambda: [config.from_assignment(text)])
    many = ["&x0 [1]"] + ["&x%d [%s]" % (n + 1, ", ".join(["*x%d" % n] * 9)) for n in range(30)]
    assert not checked(lambda: [config.from_assignment("camera.width_px=[" + ", ".join(many) + "]")])
