"""The releases of all kinds of device: what is in them fits that kind, and wants nothing that is not there.

Needs the wheels of all targets, which come from PyPI the first time (0.6 GB) and are kept.
"""

import email
import re
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from deploy import archive, release
from deploy.targets import TARGETS
from variants import unpacked

pytestmark = pytest.mark.slow
# JetPack's own, or apt's, on a device that gets no other: their versions are the device's matter.
BROUGHT = {
    "cp36-aarch64": {"opencv-python"},
    "cp38-aarch64": {"opencv-python", "numpy"},
    "cp310-aarch64": {"opencv-python", "numpy"},
}
# ONNX Runtime asks for what only its tools need (quantisation, converters); running a network does without.
TOOLS_ONLY = {"flatbuffers", "protobuf", "coloredlogs", "sympy", "packaging"}
# 1.19.5 ends with an illegal instruction on a Nano's cores; ONNX Runtime uses nothing that 1.19.4 lacks.
OLDER = {("cp36-aarch64", "numpy"): "1.19.4"}
# On a screen or without one, the module is the same.
SAME = {"opencv-python-headless": "opencv-python"}


@pytest.fixture(scope="module", params=sorted(TARGETS))
def built(request, tmp_path_factory):
    """A target, its archive, and the archive's files in a folder."""
    target = TARGETS[request.param]
    folder = tmp_path_factory.mktemp(target.name)
    path = release.build(target, str(folder), "1.0.0")
    (folder / "tree").mkdir()
    with unpacked(path, folder / "tree") as tree:
        yield target, path, tree


def wheels_of(tree):
    """The wheels of an unpacked release, ours among them: name to (version, tags, requirements)."""
    found = {}
    for path in list(tree.glob("wheels/*.whl")) + list(tree.glob("app/*.whl")):
        name, version, _, tags = parse_wheel_filename(path.name)
        with zipfile.ZipFile(str(path)) as wheel:
            entry = next(
                entry for entry in wheel.namelist() if re.match(r"[^/]+\.dist-info/METADATA$", entry)
            )
            metadata = email.message_from_string(wheel.read(entry).decode())
        found[SAME.get(name, name)] = version, tags, metadata.get_all("Requires-Dist") or []
    return found


def test_every_file_is_what_the_manifest_says(built):
    target, path, _ = built
    read = archive.read_release(path)
    assert read.target == target.name and len(read.sums) > 20


def test_every_wheel_loads_on_its_python_and_machine(built):
    target, _, tree = built
    number = target.python.replace(".", "")
    pythons = {"py3", "py" + number, "cp" + number}
    for name, (_, tags, _) in wheels_of(tree).items():
        fitting = [
            tag
            for tag in tags
            if (tag.interpreter in pythons or tag.abi == "abi3")
            and tag.abi in target.abis
            and tag.platform in ["any"] + target.platforms
        ]
        assert fitting, "{}: {} is for {}".format(target.name, name, sorted(map(str, tags)))


def test_every_requirement_is_there_in_a_version_that_will_do(built):
    target, _, tree = built
    wheels, brought = wheels_of(tree), BROUGHT.get(target.name, set())
    machine = {
        "python_version": target.python,
        "python_full_version": target.python + ".9",
        "platform_machine": target.machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }
    for name, (_, _, requirements) in wheels.items():
        for line in requirements:
            wanted = Requirement(line)
            if wanted.marker is not None and not wanted.marker.evaluate(machine):
                continue
            needed = canonicalize_name(wanted.name)
            needed = SAME.get(needed, needed)
            if needed in brought or (name == "onnxruntime" and needed in TOOLS_ONLY):
                continue
            said = "{}: {} needs {}".format(target.name, name, line)
            assert needed in wheels, said
            version = wheels[needed][0]
            if str(version) != OLDER.get((target.name, needed)):
                assert wanted.specifier.contains(version, prereleases=True), said


def test_built_again_it_has_the_same_bytes(built, tmp_path):
    target, path, _ = built
    again = release.build(target, str(tmp_path), "1.0.0")
    assert archive.sha256_of(again) == archive.sha256_of(path)
