"""CUDA C to a cubin, by nvcc or NVRTC, when an engine is made: a service has no nvcc on its PATH."""

import ctypes
import glob
import hashlib
import os
import subprocess
import sys
from typing import List, NamedTuple, Optional, Sequence, Tuple

from edge_app.errors import DetectorError

FOLDER = os.path.dirname(os.path.abspath(__file__))
SOURCES = ("preprocess", "nms")  # FOLDER/NAME.cu
STANDARD = "c++14"  # nvcc 10.2 of JetPack 4 knows no later one


class Compiler(NamedTuple):
    """What ``find_compiler`` found."""

    kind: str  # "nvcc" or "nvrtc"
    path: str  # of the program or the library
    version: str


def source_path(name: str) -> str:
    """Path of a kernel file of this package."""
    return os.path.join(FOLDER, name + ".cu")


def source_digest() -> str:
    """SHA-256 of all kernel files: cubins of another one are stale."""
    digest = hashlib.sha256()
    for name in SOURCES:
        with open(source_path(name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def cuda_folders() -> List[str]:
    """Where a CUDA toolkit may lie, most specific first."""
    named = [os.environ.get(variable, "") for variable in ("CUDA_ROOT", "CUDA_HOME", "CUDA_PATH")]
    return [folder for folder in named + ["/usr/local/cuda"] if folder]


def find_compiler() -> Compiler:
    """nvcc of a toolkit or of PATH, else the newest NVRTC that makes cubins (11.1 and later).

    One that does not run (damaged, or of another processor) is passed over.

    Raises:
        DetectorError: neither is there.
    """
    broken = []
    candidates = [os.path.join(folder, "bin", "nvcc") for folder in cuda_folders()]
    candidates += [os.path.join(f, "nvcc") for f in os.environ.get("PATH", "").split(os.pathsep)]
    for path in candidates:
        if os.access(path, os.X_OK):
            try:
                return Compiler("nvcc", path, _nvcc_release(path))
            except (OSError, subprocess.CalledProcessError) as error:
                broken.append("{}: {}".format(path, error))
    for path in _nvrtc_paths():
        try:
            nvrtc = Nvrtc(path)
        except OSError as error:
            broken.append("{}: {}".format(path, error))
            continue
        if nvrtc.makes_cubins:
            return Compiler("nvrtc", path, "NVRTC {}.{}".format(*nvrtc.version))
    raise DetectorError(
        "no CUDA compiler: neither nvcc (looked in {} and on PATH) nor NVRTC 11.1 or later{}. On a "
        "Jetson: sudo apt install cuda-nvcc-10-2 (or the version of your JetPack); elsewhere: pip "
        "install nvidia-cuda-nvrtc-cu12.".format(
            ", ".join(cuda_folders()), "; these do not run: " + "; ".join(broken) if broken else ""
        )
    )


def _nvcc_release(path: str) -> str:
    """What it says of itself."""
    command = [path, "--version"]
    text = subprocess.check_output(
        command, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    )
    release = [line for line in text.splitlines() if "release" in line] or [path]
    return release[0].strip()


def _nvrtc_paths() -> List[str]:
    folders = [os.path.join(folder, "lib64") for folder in cuda_folders()]
    folders += [
        os.path.join(entry, "nvidia", package, "lib")
        for entry in sys.path
        for package in ("cuda_nvrtc", "cu13", "cu12")
    ]
    found = []
    for folder in folders:
        names = glob.glob(os.path.join(folder, "libnvrtc.so*"))
        found += sorted((p for p in names if ".alt." not in p), key=len)[:1]
    return found


def compile_cubin(compiler: Compiler, cu: str, sm: int, cubin: str) -> None:
    """Compile one file for one GPU generation and write the cubin, whole or not at all.

    Args:
        cu: path of the source.
        sm: compute capability, 53 for 5.3.
        cubin: path to write.

    Raises:
        DetectorError: with the compiler's own words.
    """
    temporary = cubin + ".tmp"
    if compiler.kind == "nvcc":
        _run_nvcc(compiler, cu, sm, temporary)
    else:
        with open(cu, "rb") as file:
            source = file.read()
        options = ["--gpu-architecture=sm_{}".format(sm), "-std=" + STANDARD]
        data = Nvrtc(compiler.path).compile(source, os.path.basename(cu), options, "CUBIN")
        with open(temporary, "wb") as file:
            file.write(data)
    os.replace(temporary, cubin)


def _run_nvcc(compiler: Compiler, cu: str, sm: int, cubin: str) -> None:
    command = [compiler.path, "-cubin", "-O3", "-std=" + STANDARD]
    command += ["-arch=sm_{}".format(sm), "-o", cubin, cu]
    run = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",  # a service runs in the C locale, g++ quotes in UTF-8
        errors="replace",
    )
    if run.returncode:
        raise DetectorError(
            "{} failed on {} for sm_{}:\n{}".format(
                compiler.version, os.path.basename(cu), sm, run.stdout.strip()
            )
        )


class Nvrtc:
    """NVIDIA's run-time compiler, through ctypes; needs neither a GPU nor a driver.

    Args:
        path: of libnvrtc.so.N, with libnvrtc-builtins beside it.
    """

    def __init__(self, path: str) -> None:
        for builtins in glob.glob(os.path.join(os.path.dirname(path), "libnvrtc-builtins*")):
            if ".alt." not in builtins:
                ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(path)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    @property
    def makes_cubins(self) -> bool:
        """False before 11.1, which makes PTX only."""
        return hasattr(self._library, "nvrtcGetCUBIN")

    def compile(self, source: bytes, name: str, options: Sequence[str], kind: str) -> bytes:
        """Compile ``source``; ``kind`` is "PTX" or "CUBIN" (then for sm_NN, not compute_NN).

        Raises:
            DetectorError: with the compiler's log.
        """
        program = ctypes.c_void_p()
        self._library.nvrtcCreateProgram(
            ctypes.byref(program), source, name.encode(), 0, None, None
        )
        array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        try:
            if self._library.nvrtcCompileProgram(program, len(options), array):
                raise DetectorError(
                    "NVRTC {}.{} failed on {} ({}):\n{}".format(
                        self.version[0],
                        self.version[1],
                        name,
                        " ".join(options),
                        self._get("ProgramLog", program).rstrip(b"\0").decode().strip(),
                    )
                )
            return self._get(kind, program)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _get(self, kind: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        getattr(self._library, "nvrtcGet{}Size".format(kind))(program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        getattr(self._library, "nvrtcGet" + kind)(program, data)
        return data.raw


def compile_all(sm: int, prefix: str, compiler: Optional[Compiler] = None) -> Tuple[str, ...]:
    """Compile every kernel file to PREFIX.NAME.cubin; return the paths in the order of ``SOURCES``.

    Raises:
        DetectorError: no compiler, or it failed.
    """
    compiler = compiler or find_compiler()
    paths = cubin_paths(prefix)
    for name, path in zip(SOURCES, paths):
        compile_cubin(compiler, source_path(name), sm, path)
    return paths


def cubin_paths(prefix: str) -> Tuple[str, ...]:
    """Where ``compile_all`` writes."""
    return tuple("{}.{}.cubin".format(prefix, name) for name in SOURCES)
