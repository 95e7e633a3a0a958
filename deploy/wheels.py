"""Wheels of others: pinned with their sums in deploy/locks, fetched once, kept, checked every time."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Dict, List, NamedTuple, Optional

from deploy.archive import sha256_of
from deploy.targets import Target

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "build", "release")
LOCKS = os.path.join(ROOT, "deploy", "locks")
EPOCH = 1577836800  # of files whose date nobody tells
_CACHED = "\nThe wheels are kept in build/release/wheels: with them there, no network is needed."


class ReleaseError(Exception):
    """A release cannot be built; the message says why and what to do."""


class Pin(NamedTuple):
    """One line of a lock file."""

    name: str  # as pip normalises it
    version: str
    sha256: str


def fetch_wheels(target: Target) -> List[str]:
    """Paths of the wheels of a target, downloaded where they are not here yet, each checked against the lock."""
    folder = os.path.join(FOLDER, "wheels", target.name)
    os.makedirs(folder, exist_ok=True)
    wanted = read_lock(lock_path(target))
    found = _checked(folder, wanted)
    if len(found) < len(wanted):
        _download(target, folder)
        found = _checked(folder, wanted)
    lost = sorted(set(wanted) - set(found))
    if lost:
        raise ReleaseError(
            "{}: no wheel of {} with the right sum".format(target.name, ", ".join(lost))
        )
    return sorted(found.values()) + _built_wheels(target)


def lock_path(target: Target) -> str:
    """The lock file of a target."""
    return os.path.join(LOCKS, target.name + ".txt")


def read_lock(path: str) -> Dict[str, Pin]:
    """The pins of a lock file, by name."""
    pins = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            found = re.match(r"([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$", line.strip())
            if found:
                pins[found.group(1)] = Pin(*found.groups())
            elif line.strip() and not line.startswith("#"):
                raise ReleaseError("{}: not a line of a lock file: {}".format(path, line.strip()))
    return pins


def _checked(folder: str, wanted: Dict[str, Pin]) -> Dict[str, str]:
    """Wheels in a folder whose sums are in the lock, by name."""
    by_sum = {pin.sha256: name for name, pin in wanted.items()}
    found = {}
    for file in os.listdir(folder):
        path = os.path.join(folder, file)
        name = by_sum.get(sha256_of(path)) if file.endswith(".whl") else None
        if name:
            found[name] = path
    return found


def _download(target: Target, folder: str, lock: Optional[str] = None) -> None:
    options = ["--python-version", target.python, "--implementation", "cp", "--only-binary=:all:"]
    for abi in target.abis:
        options += ["--abi", abi]
    for platform in target.platforms:
        options += ["--platform", platform]
    hashes = [] if lock else ["--require-hashes"]
    run_pip(
        ["download", "--no-deps", "-d", folder, "-r", lock or lock_path(target)] + hashes + options
    )


def _built_wheels(target: Target) -> List[str]:
    """Wheels that nobody has published, built from pure-Python sources, the same bytes every time."""
    lock = os.path.join(LOCKS, "{}-sources.txt".format(target.name.split("-")[0]))
    if not os.path.exists(lock):
        return []
    wanted = read_lock(lock)
    stamp = sha256_of(lock)[:12]
    folder = os.path.join(FOLDER, "wheels", "built-" + stamp)
    if not os.path.isdir(folder) or len(os.listdir(folder)) != len(wanted):
        with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".built-") as work:
            environment = dict(os.environ, SOURCE_DATE_EPOCH=str(EPOCH), PYTHONHASHSEED="0")
            options = [
                "--no-deps",
                "--no-build-isolation",
                "--no-binary",
                ":all:",
                "--no-cache-dir",
            ]
            run_pip(["wheel", "--require-hashes", "-r", lock, "-w", work] + options, environment)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(work, folder)
    return sorted(os.path.join(folder, name) for name in os.listdir(folder))


def run_pip(arguments: List[str], environment: Optional[Dict[str, str]] = None) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"] + arguments
    done = subprocess.run(
        command, env=environment, umask=0o022, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        text = done.stdout.decode("utf-8", "replace").strip()[-2000:]
        hint = _CACHED if arguments[0] == "download" else ""
        raise ReleaseError("pip {} failed:\n{}{}".format(arguments[0], text, hint))


def relock(target: Target) -> None:
    """Write the sums of a lock file anew, after its versions were changed by hand."""
    path = lock_path(target)
    with open(path, encoding="utf-8") as file:
        lines = [line.split(" --hash")[0].strip() for line in file]
    with tempfile.TemporaryDirectory() as folder:
        versions = os.path.join(folder, "versions.txt")
        with open(versions, "w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
        _download(target, folder, versions)
        sums = {
            _pin_of(name): sha256_of(os.path.join(folder, name))
            for name in os.listdir(folder)
            if name.endswith(".whl")
        }
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(
                "{} --hash=sha256:{}\n".format(line, sums[line]) if line in sums else line + "\n"
            )


def _pin_of(wheel: str) -> str:
    name, version = wheel.split("-")[:2]
    return "{}=={}".format(re.sub(r"[-_.]+", "-", name).lower(), version)
