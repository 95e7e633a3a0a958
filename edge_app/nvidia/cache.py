"""Which engine lies in the cache, whether it is the right one, and how another takes its place."""

import fcntl
import json
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

from edge_app.card import sha256_of
from edge_app.nvidia.compiler import SOURCES, cubin_paths, source_digest

CONVERTER = 1  # raised when engines of an earlier converter must be built again
ANY_GPU = ""  # in a fingerprint made without a GPU
_BUILD = ".build-"  # how the folder of a build under way begins


class EngineFiles(NamedTuple):
    """Paths of everything that belongs to one engine."""

    engine: str
    record: str
    timing_cache: str
    cubins: Tuple[str, ...]  # in the order of compiler.SOURCES
    refusal: str  # why the latest build was refused, and of what; only where it was


class Fingerprint(NamedTuple):
    """What an engine depends on: it is stale as soon as one of these differs."""

    onnx_sha256: str
    tensorrt: str  # module and full version
    gpu: str
    sm: int
    l4t: str  # release of a Jetson's system, "" elsewhere
    precision: str
    converter: int


class Record(NamedTuple):
    """What ``convert`` writes beside an engine."""

    fingerprint: Fingerprint
    engine_sha256: str
    engine_bytes: int
    half_layers: int  # of ``layers`` with a floating-point answer
    layers: int
    proof: str  # how these were counted, see builder.Report
    workspace_mib: int
    verified: bool  # the parity gate has run, on a GPU, and passed or was overridden
    parity: Dict[str, Any]  # its figures
    kernels: Dict[str, Any]  # "sm", "sources" (digest), "files" (name: sha256)


def files_of(onnx_path: str, folder: Optional[str] = None) -> EngineFiles:
    """Where the engine of an ONNX file lies; ``folder`` defaults to that of the ONNX."""
    stem = os.path.splitext(os.path.basename(onnx_path))[0]
    if folder is None:
        folder = os.path.dirname(os.path.abspath(onnx_path))
    prefix = os.path.join(folder, stem)
    return EngineFiles(
        prefix + ".engine",
        prefix + ".fingerprint.json",
        prefix + ".timing.cache",
        cubin_paths(prefix),
        prefix + ".refused.json",
    )


def l4t_release(path: str = "/etc/nv_tegra_release") -> str:
    """ "32.7.1" on a Jetson, "" elsewhere."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            words = file.readline().replace(",", " ").split()
    except OSError:
        return ""
    try:  # "# R32 (release), REVISION: 7.1, GCID: ..."
        return "{}.{}".format(words[1].lstrip("R"), words[words.index("REVISION:") + 1])
    except (ValueError, IndexError):
        return "unknown"


def save_record(record: Record, path: str) -> None:
    """Write it, whole or not at all."""
    _save_json(dict(record._asdict(), fingerprint=dict(record.fingerprint._asdict())), path)


def _save_json(tree: Dict[str, Any], path: str) -> None:
    temporary = path + ".tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(tree, file, indent=1)
        file.write("\n")
    publish(temporary, path)


def load_record(path: str) -> Record:
    """Read it.

    Raises:
        ValueError: it is missing or not a record; the message says which.
    """
    try:
        with open(path, encoding="utf-8") as file:
            tree = json.load(file)
        return Record(**dict(tree, fingerprint=Fingerprint(**tree["fingerprint"])))
    except OSError as error:
        raise ValueError("there is no fingerprint {} ({})".format(path, error.strerror)) from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError("{} is not an engine's fingerprint".format(path)) from error


def save_refusal(files: EngineFiles, fingerprint: Fingerprint, reason: str) -> None:
    """Remember that a build was refused, so that no start tries the same for minutes again."""
    tree = {"fingerprint": dict(fingerprint._asdict()), "reason": reason}
    _save_json(tree, files.refusal)


def load_refusal(files: EngineFiles, wanted: Fingerprint) -> str:
    """Why the wanted engine was refused when it was built last; "" when it was not, or was another."""
    try:
        with open(files.refusal, encoding="utf-8") as file:
            tree = json.load(file)
        return str(tree["reason"]) if Fingerprint(**tree["fingerprint"]) == wanted else ""
    except (OSError, ValueError, TypeError, KeyError):
        return ""


@contextmanager
def build_folder(parent: str) -> Iterator[str]:
    """A folder in ``parent`` for one build, gone afterwards; first those go that a killed build has left.

    Who builds holds a lock on his folder, which the kernel lets go of with the process; a lock on
    ``parent`` keeps others from a folder that is made and not yet locked.
    """
    with _locked(parent):
        for name in os.listdir(parent):
            if name.startswith(_BUILD):
                with suppress(OSError), _locked(os.path.join(parent, name), fcntl.LOCK_NB):
                    shutil.rmtree(os.path.join(parent, name))
        folder = tempfile.mkdtemp(dir=parent, prefix=_BUILD)
        descriptor = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def _locked(folder: str, how: int = 0) -> Iterator[None]:
    descriptor = _lock(folder, how)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: str, how: int = 0) -> int:
    """A descriptor whose closing lets go again.

    Args:
        how: LOCK_NB raises OSError where somebody else holds it; else that is waited for, and a file
            system without locks (NFS) has to do without: nothing is cleared away there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
    except OSError:
        if how:
            os.close(descriptor)
            raise
    return descriptor


def publish(temporary: str, path: str) -> None:
    """Put a finished file in its place: a power cut leaves the old or the new one, never half."""
    _sync(temporary)
    os.replace(temporary, path)
    _sync(os.path.dirname(os.path.abspath(path)))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def why_stale(files: EngineFiles, wanted: Fingerprint) -> str:
    """Why the engine must be built (again), in words; "" when it is the wanted one and whole."""
    if not os.path.exists(files.engine):
        return "there is no engine {}".format(files.engine)
    try:
        record = load_record(files.record)
    except ValueError as error:
        return str(error)
    size = os.path.getsize(files.engine)
    if size != record.engine_bytes:
        return "the engine has {} of {} bytes: it is truncated or another one".format(
            size, record.engine_bytes
        )
    if sha256_of(files.engine) != record.engine_sha256:
        return "the engine's bytes are not those that were written"
    found = record.fingerprint
    if found.gpu == ANY_GPU and found.sm in (0, wanted.sm):
        found = found._replace(gpu=wanted.gpu, sm=wanted.sm, l4t=wanted.l4t)
    differences = [
        "{} {!r}, not {!r}".format(name, old, new)
        for name, old, new in zip(Fingerprint._fields, found, wanted)
        if old != new
    ]
    return "it was built for " + "; ".join(differences) if differences else ""


def kernels_entry(files: EngineFiles, sm: int) -> Dict[str, Any]:
    """What ``Record.kernels`` says of the cubins on disk."""
    digests = {name: sha256_of(path) for name, path in zip(SOURCES, files.cubins)}
    return {"sm": sm, "sources": source_digest(), "files": digests}


def why_kernels_stale(files: EngineFiles, record: Record, sm: int) -> str:
    """Why the kernels must be compiled (again); "" when they are the wanted ones and whole."""
    known = record.kernels
    if known.get("sm") != sm:
        return "they are compiled for sm_{}, not sm_{}".format(known.get("sm", "none"), sm)
    if known.get("sources") != source_digest():
        return "their source has changed"
    for name, path in zip(SOURCES, files.cubins):
        if not os.path.exists(path) or sha256_of(path) != known["files"].get(name):
            return "{} is missing or damaged".format(path)
    return ""
