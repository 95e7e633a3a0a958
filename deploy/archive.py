"""Release archives: a manifest of sums, and a tar whose bytes depend on nothing but its content."""

import hashlib
import os
import tarfile
from typing import Dict, Iterable, List, NamedTuple

MANIFEST = "manifest"
CARD = "release"  # key=value lines: what this release is
_CHUNK = 1 << 20


class Release(NamedTuple):
    """An archive on this machine, read and found whole."""

    path: str
    name: str
    target: str
    manifest: bytes
    sums: Dict[str, str]  # by path within the archive
    sizes: Dict[str, int]  # bytes, likewise


class ArchiveError(Exception):
    """An archive is damaged, incomplete or holds what it should not; the message names the file."""


def sha256_of(path: str) -> str:
    """The sum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def files_below(folder: str) -> List[str]:
    """Paths of all files in a folder, relative to it, with forward slashes, sorted."""
    found = []
    for top, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(top, name), folder) for name in names]
    return sorted(path.replace(os.sep, "/") for path in found)


def manifest_of(folder: str) -> bytes:
    """What ``sha256sum`` would say of every file but the manifest itself, sorted by path."""
    paths = [path for path in files_below(folder) if path != MANIFEST]
    lines = ["{}  {}\n".format(sha256_of(os.path.join(folder, path)), path) for path in paths]
    return "".join(lines).encode()


def write_archive(folder: str, path: str, epoch: int) -> None:
    """Write a folder as a tar: sorted, owned by root, of one date; the same content gives the same bytes.

    Args:
        epoch: date of every file in it, in seconds since 1970.
    """
    with open(os.path.join(folder, MANIFEST), "wb") as file:
        file.write(manifest_of(folder))
    first = [MANIFEST, CARD]  # so that they can be read without the rest
    rest = [name for name in files_below(folder) if name not in first]
    write_files(folder, first + rest, path, epoch)


def write_files(folder: str, names: Iterable[str], path: str, epoch: int) -> None:
    """Write some files of a folder as a tar, whole or not at all."""
    temporary = "{}.{}".format(path, os.getpid())
    with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in names:
            source = os.path.join(folder, name)
            entry = tarfile.TarInfo(name)
            entry.size = os.path.getsize(source)
            entry.mtime = epoch
            entry.mode = 0o755 if name.endswith(".sh") else 0o644
            with open(source, "rb") as file:
                tar.addfile(entry, file)
    os.replace(temporary, path)


def read_release(path: str) -> Release:
    """Read an archive and check every file in it against the manifest.

    Raises:
        ArchiveError: it is not such an archive, or not what was written.
    """
    sums, sizes, texts = {}, {}, {}
    try:
        with tarfile.open(path) as tar:
            for entry in tar:
                data = _content(tar, entry, path)
                sums[entry.name] = hashlib.sha256(data).hexdigest()
                sizes[entry.name] = entry.size
                if entry.name in (MANIFEST, CARD):
                    texts[entry.name] = data
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ArchiveError("{} is not a release: {}".format(path, error)) from error
    if MANIFEST not in texts or CARD not in texts:
        raise ArchiveError("{} is not a release: it has no manifest".format(path))
    _compare(path, dict(sums), texts[MANIFEST])
    card = dict(line.split("=", 1) for line in texts[CARD].decode().splitlines() if "=" in line)
    return Release(path, card["name"], card["target"], texts[MANIFEST], sums, sizes)


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: str) -> bytes:
    file = tar.extractfile(entry) if entry.isfile() else None
    if file is None:
        raise ArchiveError("{}: {} is not a plain file".format(path, entry.name))
    return file.read()


def _compare(path: str, sums: Dict[str, str], manifest: bytes) -> None:
    del sums[MANIFEST]
    wanted = {}
    for line in manifest.decode().splitlines():
        digest, _, name = line.partition("  ")
        wanted[name] = digest
    for name in sorted(set(wanted) | set(sums)):
        if sums.get(name) != wanted.get(name):
            state = "is missing" if name not in sums else "is not what the manifest says"
            raise ArchiveError("{}: {} {}; build the release again".format(path, name, state))
