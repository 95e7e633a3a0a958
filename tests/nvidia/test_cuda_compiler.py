"""The kernels as NVIDIA's own compilers see them: NVRTC 11.8, ptxas, and C++14 of g++."""

import glob
import os
import re
import subprocess

import pytest
import standins

from edge_app.errors import DetectorError
from edge_app.nvidia import compiler

ARCHITECTURES = (53, 62, 72, 87, 90)
NVRTC = compiler.Compiler("nvrtc", "", "NVRTC 11.8")


@pytest.fixture(scope="module")
def nvrtc_path(toolkit):
    paths = glob.glob(os.path.join(toolkit, "nvidia", "cuda_nvrtc", "lib", "libnvrtc.so*"))
    return min(paths, key=len)


@pytest.mark.parametrize("name", compiler.SOURCES)
@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_nvrtc_makes_a_cubin(nvrtc_path, tmp_path, name, sm):
    cubin = str(tmp_path / "out.cubin")
    nvrtc = NVRTC._replace(path=nvrtc_path)
    compiler.compile_cubin(nvrtc, compiler.source_path(name), sm, cubin)
    with open(cubin, "rb") as file:
        assert file.read(4) == b"\x7fELF"
    assert os.listdir(str(tmp_path)) == ["out.cubin"]


@pytest.mark.parametrize("name", compiler.SOURCES)
@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_nothing_spills_and_everything_fits(nvrtc_path, toolkit, tmp_path, name, sm):
    with open(compiler.source_path(name), "rb") as file:
        options = ["--gpu-architecture=compute_{}".format(sm), "-std=c++14"]
        ptx = compiler.Nvrtc(nvrtc_path).compile(file.read(), name, options, "PTX").rstrip(b"\0")
    (tmp_path / "in.ptx").write_bytes(ptx)
    command = [os.path.join(toolkit, "nvidia", "cuda_nvcc", "bin", "ptxas"), "-v"]
    command += ["-arch=sm_{}".format(sm), "-o", str(tmp_path / "out"), str(tmp_path / "in.ptx")]
    report = subprocess.check_output(command, stderr=subprocess.STDOUT, universal_newlines=True)
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert spills and set(spills) == {("0", "0")}, report
    assert max(int(n) for n in re.findall(r"Used (\d+) registers", report)) <= 64, report
    assert all(int(n) <= 24576 for n in re.findall(r"(\d+) bytes smem", report)), report


def test_float_operations_stay_apart(nvrtc_path):
    """Not one product and sum of nms.cu outside expf may be contracted: NumPy rounds between them."""
    with open(compiler.source_path("nms"), "rb") as file:
        source = file.read()
    options = ["--gpu-architecture=compute_53", "-std=c++14"]
    ptx = compiler.Nvrtc(nvrtc_path).compile(source, "nms.cu", options, "PTX").decode()
    inside = {}
    for body in ptx.split(".entry ")[1:]:
        inside[body[: body.index("(")]] = len(re.findall(r"\bfma\.rn\.f32", body))
    assert inside["overlap_mask"] == inside["collect"] == inside["suppress"] == 0
    assert inside["rank_and_decode"] == 2 * inside_expf(nvrtc_path)  # one for each side


def inside_expf(nvrtc_path):
    source = b'extern "C" __global__ void e(float* x) { *x = expf(*x); }'
    options = ["--gpu-architecture=compute_53", "-std=c++14"]
    ptx = compiler.Nvrtc(nvrtc_path).compile(source, "e.cu", options, "PTX").decode()
    return len(re.findall(r"\bfma\.rn\.f32", ptx))


@pytest.mark.parametrize("name", compiler.SOURCES)
def test_the_source_is_plain_cpp14(name, tmp_path):
    with open(compiler.source_path(name), encoding="utf-8") as file:
        text, _ = standins.cuda_cpu.host_source(file.read(), name + ".cu")
    host = tmp_path / "host.cpp"
    host.write_text(text)
    command = ["g++", "-fsyntax-only", "-Werror", "-pedantic-errors"]
    subprocess.check_call(command + list(standins.cuda_cpu.FLAGS) + [str(host)])


def test_a_mistake_gives_the_compiler_s_own_words(nvrtc_path, tmp_path):
    broken = tmp_path / "broken.cu"
    broken.write_text('extern "C" __global__ void k(int* x) { *x = nonsense; }\n')
    with pytest.raises(DetectorError, match=r'broken.cu.*\n.*identifier "nonsense" is undefined'):
        nvrtc = NVRTC._replace(path=nvrtc_path)
        compiler.compile_cubin(nvrtc, str(broken), 53, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_nvcc_of_the_toolkit_is_found_and_its_errors_are_told(nvcc, tmp_path):
    found = compiler.find_compiler()
    assert found.kind == "nvcc" and found.path == str(nvcc / "bin" / "nvcc")
    assert "V10.2.300" in found.version
    assert compiler.compile_all(53, str(tmp_path / "net")) == compiler.cubin_paths(
        str(tmp_path / "net")
    )
    broken = tmp_path / "broken.cu"
    broken.write_text('extern "C" __global__ void k(int* x) { *x = nonsense; }\n')
    with pytest.raises(DetectorError, match="failed on broken.cu for sm_53:(.|\n)*nonsense"):
        compiler.compile_cubin(found, str(broken), 53, str(tmp_path / "out"))


def test_without_nvcc_nvrtc_is_taken(monkeypatch, nvrtc_path, toolkit, tmp_path):
    for variable in ("CUDA_ROOT", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compiler, "cuda_folders", lambda: [str(tmp_path)])
    monkeypatch.syspath_prepend(toolkit)
    assert compiler.find_compiler() == ("nvrtc", nvrtc_path, "NVRTC 11.8")


BROKEN = {
    "fails": b"#!/bin/sh\necho broken >&2\nexit 1\n",
    "of another processor": b"\x7fELF\x02\x01\x01" + bytes(60),
    "a text": b"not a program\n",
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_an_nvcc_that_does_not_run_is_passed_over(
    monkeypatch, nvrtc_path, toolkit, tmp_path, kind
):
    lib = tmp_path / "lib64"
    (tmp_path / "bin").mkdir()
    lib.mkdir()
    (tmp_path / "bin" / "nvcc").write_bytes(BROKEN[kind])
    (tmp_path / "bin" / "nvcc").chmod(0o755)
    (lib / "libnvrtc.so").write_bytes(b"x")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # without an nvcc
    monkeypatch.setattr(compiler, "cuda_folders", lambda: [str(tmp_path)])
    nowhere = [path for path in compiler.sys.path if "nvidia" not in path]
    with monkeypatch.context() as patch:
        patch.setattr(compiler.sys, "path", nowhere)
        with pytest.raises(DetectorError, match="no CUDA compiler.*bin/nvcc: .*libnvrtc.so: "):
            compiler.find_compiler()
    monkeypatch.syspath_prepend(toolkit)
    assert compiler.find_compiler() == ("nvrtc", nvrtc_path, "NVRTC 11.8")


def test_without_any_compiler_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compiler, "cuda_folders", lambda: [str(tmp_path)])
    monkeypatch.setattr(compiler.sys, "path", [str(tmp_path)])
    with pytest.raises(DetectorError, match="apt install cuda-nvcc-10-2"):
        compiler.find_compiler()
