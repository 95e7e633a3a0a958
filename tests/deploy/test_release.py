"""Releases: the same bytes twice, complete, and refused when a bit is wrong."""

import os
import re
import shutil
import subprocess
import tarfile
import zipfile

import pytest
from conftest import ROOT
from variants import edit_wheel, variant

from deploy import archive, release, wheels
from deploy.targets import TARGETS, Target, find_target

NO_WHEELS = Target("cp399-" + os.uname().machine, "3.99", os.uname().machine, 36, "a test")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, without git: nobody works on it meanwhile."""
    folder = tmp_path_factory.mktemp("project")
    for name in release.known_files(*release.PLACES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(ROOT / name), str(folder / name))
    patch = pytest.MonkeyPatch()
    patch.setattr(release, "ROOT", str(folder))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def small(project, tmp_path_factory):
    """A release without the wheels of others."""
    return release.build(NO_WHEELS, str(tmp_path_factory.mktemp("small")), "1.0.0", ())


def test_a_release_built_twice_has_the_same_bytes(small, tmp_path):
    umask = os.umask(0o077)  # and with another umask
    try:
        again = release.build(NO_WHEELS, str(tmp_path), "1.0.0", ())
    finally:
        os.umask(umask)
    assert archive.sha256_of(again) == archive.sha256_of(small)


def test_a_release_holds_what_a_device_needs(small):
    names = set(archive.read_release(small).sums)
    wanted = "activate.sh rehearse.py release config/edge-app.yaml engines/ssd_mobilenet_v2.onnx "
    wanted += "engines/ssd_mobilenet_v2.json systemd/edge-app.service"
    assert set(wanted.split()) <= names
    assert not [name for name in names if name.endswith((".pyc", ".engine"))]


def test_our_wheel_holds_everything_the_program_reads(small, tmp_path):
    with tarfile.open(small) as tar:
        name = next(name for name in tar.getnames() if name.startswith("app/"))
        tar.extract(name, str(tmp_path))
    packed = set(zipfile.ZipFile(str(tmp_path / name)).namelist())
    known = release.known_files("edge_app")
    assert {path for path in known if not path.endswith("README.md")} <= packed


def test_the_manifest_is_what_sha256sum_says(small, tmp_path):
    with tarfile.open(small) as tar:
        tar.extractall(str(tmp_path))
    command = ["sha256sum", "-c", "--strict", "--quiet", "manifest"]
    subprocess.run(command, cwd=str(tmp_path), check=True)


def test_nothing_in_a_release_tells_who_built_it_or_when(small):
    with tarfile.open(small) as tar:
        entries = tar.getmembers()
    assert {(entry.uid, entry.gid, entry.uname, entry.gname) for entry in entries} == {
        (0, 0, "", "")
    }
    assert len({entry.mtime for entry in entries}) == 1


def test_a_release_with_one_wrong_bit_is_refused(small, tmp_path):
    data = bytearray(open(small, "rb").read())
    with tarfile.open(small) as tar:
        data[tar.getmember("engines/ssd_mobilenet_v2.onnx").offset_data + 1000] ^= 1
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(bytes(data))
    with pytest.raises(archive.ArchiveError, match="engines/ssd_mobilenet_v2.onnx is not what"):
        archive.read_release(str(damaged))


def test_half_a_release_is_refused(small, tmp_path):
    half = tmp_path / "half.tar"
    half.write_bytes(open(small, "rb").read()[: os.path.getsize(small) // 2])
    with pytest.raises(archive.ArchiveError):
        archive.read_release(str(half))


def test_a_file_that_the_manifest_does_not_name_is_refused(small, tmp_path):
    more = tmp_path / "more.tar"
    more.write_bytes(open(small, "rb").read())
    with tarfile.open(str(more), "a") as tar:
        tar.add(__file__, "extra.py")
    with pytest.raises(archive.ArchiveError, match="extra.py"):
        archive.read_release(str(more))


def test_the_name_changes_with_what_is_in_the_working_tree(monkeypatch):
    assert re.match(r"\d+\.\d+\.\d+-(r\d{5}-g[0-9a-f]{8}|d[0-9a-f]{8})", release.release_name())
    monkeypatch.setattr(release, "_git", lambda *_: "")
    assert re.match(r"\d+\.\d+\.\d+-d[0-9a-f]{8}$", release.release_name())


def test_a_wheel_with_another_sum_than_the_lock_says_is_not_taken(monkeypatch, tmp_path):
    target = TARGETS["cp311-x86_64"]
    (tmp_path / "wheels" / target.name).mkdir(parents=True)
    (tmp_path / "wheels" / target.name / "idna-3.20-py3-none-any.whl").write_bytes(b"not it")
    monkeypatch.setattr(wheels, "FOLDER", str(tmp_path))
    monkeypatch.setattr(wheels, "_download", lambda *_: None)
    with pytest.raises(wheels.ReleaseError, match="idna"):
        wheels.fetch_wheels(target)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_target_locks_what_the_program_needs(name):
    target = TARGETS[name]
    lists = ["jetson-py36.txt" if target.python == "3.6" else "jetson.txt"]
    locked = set(wheels.read_lock(wheels.lock_path(target)))
    sources = os.path.join(wheels.LOCKS, name.split("-")[0] + "-sources.txt")
    if os.path.exists(sources):
        locked |= set(wheels.read_lock(sources))
    for line in open(str(ROOT / "deploy" / "requirements" / lists[0])):
        wanted = re.match(r"[A-Za-z0-9_-]+", line)
        if wanted and wanted.group().lower() != "numpy":  # JetPack's own, where it is new enough
            assert wanted.group().lower().replace("_", "-") in locked
    assert "pip" in locked


@pytest.mark.parametrize(
    "machine, pythons, name",
    [
        ("aarch64", ["3.6"], "cp36-aarch64"),
        ("aarch64", ["3.10"], "cp310-aarch64"),
        ("x86_64", ["3.13", "3.11"], "cp311-x86_64"),
    ],
)
def test_a_device_gets_the_release_of_its_kind(machine, pythons, name):
    assert find_target(machine, pythons).name == name


def test_a_device_of_no_known_kind_gets_none():
    assert find_target("riscv64", ["3.11"]) is None
    assert find_target("aarch64", ["2.7"]) is None


# --- the device's own script, as far as it runs in a folder ---------------------------------------------------------


def activate(root, *arguments):
    command = ["sh", str(ROOT / "deploy" / "activate.sh")] + [
        str(argument) for argument in arguments
    ]
    environment = dict(os.environ, EDGE_APP_ROOT=str(root))
    return subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )


@pytest.fixture
def fitting(small, tmp_path):
    """A release for the Python that runs here, in an archive; and a folder to be the device."""
    tree = tmp_path / "tree"
    with tarfile.open(small) as tar:
        tar.extractall(str(tree))
    card = (tree / "release").read_text()
    here = subprocess.check_output(
        ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    )
    (tree / "release").write_text(card.replace("python=3.99", "python=" + here.decode().strip()))
    path = tmp_path / "fitting.tar"
    archive.write_archive(str(tree), str(path), 0)
    root = tmp_path / "device"
    (root / "run" / "lock").mkdir(parents=True)
    return path, tree, root


def test_everything_is_missing_on_a_new_device(fitting):
    path, tree, root = fitting
    said = activate(root, "missing", tree / "manifest", tree / "release")
    assert said.returncode == 0
    assert sorted(said.stdout.split()) == sorted(
        set(archive.read_release(str(path)).sums) - {"manifest"}
    )


def test_what_another_release_has_does_not_travel(fitting):
    _, tree, root = fitting
    other = root / "opt/edge-app/releases/0.9.0"
    (other / "engines").mkdir(parents=True)
    for name in ("manifest", "engines/ssd_mobilenet_v2.onnx"):
        (other / name).write_bytes((tree / name).read_bytes())
    (other / "complete").touch()
    said = activate(root, "missing", tree / "manifest", tree / "release")
    assert "engines/ssd_mobilenet_v2.onnx" not in said.stdout.split()
    assert "engines/ssd_mobilenet_v2.json" in said.stdout.split()


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("machine", "riscv64", "is for riscv64"),
        ("python", "3.5", "needs Python 3.5"),
        ("name", "../../etc", "not a release"),
        ("kib", "99999999999", "the disk is too full"),
    ],
)
def test_a_release_that_does_not_fit_the_device_is_refused_before_it_travels(
    fitting, key, value, words
):
    _, tree, root = fitting
    lines = (tree / "release").read_text().splitlines()
    lines = [key + "=" + value if line.startswith(key + "=") else line for line in lines]
    (tree / "release").write_text("\n".join(lines) + "\n")
    said = activate(root, "missing", tree / "manifest", tree / "release")
    assert said.returncode == 2 and words in said.stdout


def test_the_device_refuses_a_damaged_archive_and_changes_nothing(fitting):
    path, tree, root = fitting
    (tree / "rehearse.py").write_text("import os")  # after the manifest was written
    with tarfile.open(str(path), "w") as tar:
        tar.add(str(tree), ".")
        for name in archive.files_below(str(tree)):
            tar.add(str(tree / name), name)
    said = activate(root, "_install", path)
    assert said.returncode == 2 and "the release is damaged: rehearse.py" in said.stdout
    assert not (root / "opt/edge-app/current").exists()
    assert not list((root / "opt/edge-app/releases").glob("[!.]*"))


def test_the_device_refuses_a_file_that_the_manifest_does_not_name(fitting):
    path, tree, root = fitting
    with tarfile.open(str(path), "a") as tar:
        tar.add(__file__, "wheels/extra.whl")
    said = activate(root, "_install", path)
    assert said.returncode == 2 and "wheels/extra.whl" in said.stdout


def test_a_second_deploy_is_told_that_one_is_at_work(fitting):
    path, _, root = fitting
    lock = root / "run/lock/edge-app-deploy"
    lock.write_text("since 12:00:00, process 1")
    with open(str(lock)) as held:
        subprocess.run(["flock", "-n", str(held.fileno())], pass_fds=[held.fileno()], check=True)
        said = activate(root, "_install", path)
    assert said.returncode == 75 and "since 12:00:00" in said.stdout


def test_status_of_a_device_that_has_nothing_yet(fitting):
    said = activate(fitting[2], "status")
    assert said.returncode == 0 and "release=\n" in said.stdout


def test_a_variant_differs_only_where_it_should(small, monkeypatch, tmp_path):
    monkeypatch.setitem(TARGETS, NO_WHEELS.name, NO_WHEELS)
    path = variant(small, "1.1.0", tmp_path, [("edge_app/__init__.py", "0.1.0", "9.9.9")])
    one, other = archive.read_release(small), archive.read_release(str(path))
    changed = {name for name in one.sums if one.sums[name] != other.sums[name]}
    assert changed == {
        "manifest",
        "release",
        next(name for name in one.sums if name.startswith("app/")),
    }
    with pytest.raises(AssertionError):
        edit_wheel(
            next((tmp_path / "tree-1.1.0" / "app").iterdir()),
            "edge_app/__init__.py",
            "nothing",
            "x",
        )
