"""Build releases: everything a device needs, in one archive that comes out the same bytes every time.

    python3 -m deploy.release                        # for the usual kinds of device
    python3 -m deploy.release cp36-aarch64 ...       # for these
    python3 -m deploy.release lock cp36-aarch64 ...  # after a version in deploy/locks was changed

A release holds our wheel, the wheels it needs for that Python and architecture, the networks and their cards, the
units, the default configuration and the script that runs on the device. The device needs no internet.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from typing import List, Optional, Sequence

from deploy.archive import CARD, files_below, sha256_of, write_archive
from deploy.targets import TARGETS, USUAL, Target
from deploy.wheels import EPOCH, FOLDER, ROOT, ReleaseError, fetch_wheels, relock, run_pip

_OURS = ("edge_app", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
# Where the rest of a release comes from; a folder is taken with everything git knows in it.
_PARTS = {
    "deploy/activate.sh": "activate.sh",
    "deploy/rehearse.py": "rehearse.py",
    "deploy/edge-app.yaml": "config/edge-app.yaml",
    "engines": "engines",
    "systemd": "systemd",
}
PLACES = _OURS + tuple(_PARTS) + ("deploy/locks",)  # of everything that makes a release what it is


def build(
    target: Target, folder: str = FOLDER, name: str = "", wheels: Optional[Sequence[str]] = None
) -> str:
    """Build the release of one target; its path.

    Args:
        folder: gets the archive; wheels are kept in ``wheels/`` below the project's own.
        name: of the release; by default the version and where git is.
        wheels: paths of those it needs; by default those of the lock file.

    Raises:
        ReleaseError: something it needs is missing or is not what the lock file says.
    """
    wheels = fetch_wheels(target) if wheels is None else wheels
    name = name or release_name()
    epoch = source_date()
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as work:
        tree = os.path.join(work, "tree")
        _copy_parts(tree)
        build_wheel(os.path.join(tree, "app"), epoch)
        os.mkdir(os.path.join(tree, "wheels"))
        for wheel in wheels:
            shutil.copy(wheel, os.path.join(tree, "wheels"))
        write_card(tree, target, name)
        path = os.path.join(folder, "edge-app-{}-{}.tar".format(name, target.name))
        write_archive(tree, path, epoch)
    return path


def write_card(tree: str, target: Target, name: str) -> None:
    """Write what a release is, and how much room it takes, beside its files."""
    paths = [os.path.join(tree, path) for path in files_below(tree)]
    wheels = [path for path in paths if os.path.basename(os.path.dirname(path)) == "wheels"]
    digest = hashlib.sha256("".join(sha256_of(wheel) for wheel in wheels).encode()).hexdigest()
    lines = {
        "name": name,
        "target": target.name,
        "python": target.python,
        "machine": target.machine,
        "packages": digest[:16],
        "kib": sum(os.path.getsize(path) for path in paths) // 1024,
        "packages_kib": sum(_unpacked_bytes(wheel) for wheel in wheels) // 1024,
    }
    with open(os.path.join(tree, CARD), "w", encoding="utf-8") as file:
        file.writelines("{}={}\n".format(key, value) for key, value in lines.items())


def _unpacked_bytes(wheel: str) -> int:
    with zipfile.ZipFile(wheel) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _copy_parts(tree: str) -> None:
    for source, target in _PARTS.items():
        path = os.path.join(ROOT, source)
        if not os.path.exists(path):
            raise ReleaseError("{} is missing; a release needs it".format(source))
        for file in known_files(source):
            place = os.path.join(tree, target + file[len(source) :])
            os.makedirs(os.path.dirname(place), exist_ok=True)
            shutil.copy(os.path.join(ROOT, file), place)


def known_files(*places: str) -> List[str]:
    """Files at these places that git knows or would take, relative to the project; without git, all."""
    command = ["git", "-C", ROOT, "ls-files", "-z", "-c", "-o", "--exclude-standard", "--"]
    try:
        listed = subprocess.run(command + list(places), stdout=subprocess.PIPE, check=True).stdout
        names = sorted(set(listed.decode().split("\0")) - {""})
        return [name for name in names if os.path.isfile(os.path.join(ROOT, name))]
    except (OSError, subprocess.CalledProcessError):
        return sorted(_without_git(places))


def _without_git(places: Sequence[str]) -> List[str]:
    found = []
    for place in places:
        if os.path.isfile(os.path.join(ROOT, place)):
            found.append(place)
        for path in files_below(os.path.join(ROOT, place)):
            if not path.endswith(".pyc") and not path.endswith(".engine"):
                found.append("{}/{}".format(place, path))
    return found


def build_wheel(folder: str, epoch: int) -> str:
    """Build our own wheel into a folder, from a copy in which every file has the same mode; its path."""
    with tempfile.TemporaryDirectory() as copy:
        for name in known_files(*_OURS):
            place = os.path.join(copy, name)
            os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
            shutil.copyfile(os.path.join(ROOT, name), place)
            os.chmod(place, 0o644)
        environment = dict(os.environ, SOURCE_DATE_EPOCH=str(epoch), PYTHONHASHSEED="0")
        run_pip(
            ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, copy],
            environment,
        )
    names = os.listdir(folder)
    if len(names) != 1:
        raise ReleaseError("expected one wheel of ours, got {}".format(names))
    return os.path.join(folder, names[0])


def release_name() -> str:
    """``0.1.0-r123-gabcdef0``: version, number and hash of the commit; ``-d...`` when files differ from it.

    Names of one branch sort by age.
    """
    with open(os.path.join(ROOT, "edge_app", "__init__.py"), encoding="utf-8") as file:
        found = re.search(r'__version__ = "([^"]+)"', file.read())
    if found is None:
        raise ReleaseError("edge_app/__init__.py has no __version__")
    number, commit = _git("rev-list", "--count", "HEAD"), _git("rev-parse", "--short=8", "HEAD")
    if not commit:
        return "{}-d{}".format(found.group(1), _digest_of(PLACES))
    name = "{}-r{:05d}-g{}".format(found.group(1), int(number or "0"), commit)
    changed = _git("status", "--porcelain", "--", *PLACES)
    return "{}-d{}".format(name, _digest_of(PLACES)) if changed else name


def _digest_of(places: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in known_files(*places):
        digest.update("{} {}\n".format(name, sha256_of(os.path.join(ROOT, name))).encode())
    return digest.hexdigest()[:8]


def source_date() -> int:
    """The date of every file in a release, in seconds since 1970."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or EPOCH)


def _git(*arguments: str) -> str:
    """What git says, or nothing where there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", ROOT] + list(arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return ""
    return done.stdout.decode().strip() if done.returncode == 0 else ""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="deploy.release", description="Build releases of edge-app."
    )
    parser.add_argument(
        "what", nargs="*", metavar="TARGET", help="[lock] and any of: " + ", ".join(TARGETS)
    )
    parser.add_argument("--name", default="", help="of the release; default: version and commit")
    parser.add_argument(
        "--out", default=FOLDER, help="folder of the archives (default: build/release)"
    )
    options = parser.parse_args(arguments)
    locking = options.what[:1] == ["lock"]
    names = options.what[int(locking) :] or list(USUAL)
    unknown = sorted(set(names) - set(TARGETS))
    if unknown:
        parser.error("no target {}; known are {}".format(", ".join(unknown), ", ".join(TARGETS)))
    try:
        for name in names:
            if locking:
                relock(TARGETS[name])
                continue
            path = build(TARGETS[name], options.out, options.name)
            size = os.path.getsize(path) / 1e6
            print("{}  {:.1f} MB  sha256 {}".format(os.path.relpath(path), size, sha256_of(path)))
    except ReleaseError as error:
        print("release: {}".format(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
