"""deploy/provision.sh on machines that reach Debian's packages and PyPI: apt, and pycuda compiled against real headers.

make test runs it in a box without a way out; this needs the network and minutes.
"""

import glob
import os
import re
import shutil
import subprocess
import sys

import pytest
from boxes import Box, base_tree, require_boxes
from factory import ROOT
from laptop import TOOLS, Laptop, current, result, sees_faces
from needs import require
from proxy import proxy
from trees import WORK

from deploy import release
from deploy.targets import TARGETS

pytestmark = pytest.mark.slow
# A machine as its installer leaves it, with sshd and Python.
PACKAGES = (
    "systemd systemd-sysv dbus udev openssh-server python3 procps iproute2 netbase ca-certificates"
).split()
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# What a Jetson has in /usr/local/cuda, from NVIDIA's wheels. (Headers and libraries; the compiler only says its name.)
TOOLKIT = "nvidia-cuda-runtime-cu11==11.8.89 nvidia-cuda-nvcc-cu11==11.8.89 nvidia-curand-cu11==10.3.0.86"
TOOLKIT += " nvidia-cuda-profiler-api-cu11==11.8.86"
NVCC = "#!/bin/sh\necho Cuda compilation tools, release 11.8\n"


@pytest.fixture(scope="module")
def fresh_tree():
    require_boxes()
    require(TOOLS.exists(), ".venv-deploy (sh deploy/tools.sh python3 .venv-deploy)")
    return base_tree(tuple(PACKAGES))


def connected(box, url):
    """Let apt and pip in a box use the proxy, and trust whom this machine trusts (it may itself be behind one)."""
    box.write("/etc/apt/apt.conf.d/80proxy", 'Acquire::http::Proxy "{}";\n'.format(url))
    box.write("/etc/pip.conf", "[global]\nproxy = {}\ncert = {}\n".format(url, CERTIFICATES))
    with open(CERTIFICATES) as file:
        box.write(CERTIFICATES, file.read())


def test_a_debian_machine_becomes_a_device(fresh_tree, figures, tmp_path):
    with Box("bare", 80, fresh_tree) as box, proxy(box.gateway) as url:
        connected(box, url)
        laptop = Laptop([box], tmp_path)
        status, output = figures.timed("make provision, Debian", laptop.do, "provision", box.name)
        assert status == 0 and result(output, box) == "provisioned", output
        status, output = figures.timed("and again", laptop.do, "provision", box.name)
        assert status == 0 and result(output, box) == "unchanged", output
        path = release.build(TARGETS["cp311-x86_64"], str(tmp_path), "1.0.0")
        status, output = figures.timed("make deploy, Debian", laptop.deploy, path, box)
        assert status == 0 and result(output, box) == "deployed", output
        assert current(box) == "1.0.0" and sees_faces(box)
        box.run(
            "cd / && /opt/edge-app/current/venv/bin/python -c \"import gi; "
            "gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0'); "
            "from gi.repository import Gst, GstRtspServer\""
        )


@pytest.fixture(scope="module")
def cuda():
    """A layer for a box: CUDA's headers and libraries, and a driver's library in which every function says no."""
    layer = WORK / "cuda"
    if not layer.exists():
        half_made = layer.with_suffix(".partial")
        shutil.rmtree(str(half_made), ignore_errors=True)
        packages, root = half_made / "packages", half_made / "usr/local/cuda"
        command = [sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--target", packages]
        subprocess.run(command + TOOLKIT.split(), check=True)
        for part, name in (("include", "include"), ("lib", "lib64")):
            for folder in packages.glob("nvidia/*/{}".format(part)):
                shutil.copytree(str(folder), str(root / name), dirs_exist_ok=True)
        for path in list((root / "lib64").glob("lib*.so.*")):
            (root / "lib64" / re.sub(r"\.so\..*", ".so", path.name)).symlink_to(path.name)
        _make_driver(root)
        (root / "bin").mkdir()
        (root / "bin/nvcc").write_text(NVCC)
        (root / "bin/nvcc").chmod(0o755)
        (half_made / "etc/ld.so.conf.d").mkdir(parents=True)
        (half_made / "etc/ld.so.conf.d/cuda.conf").write_text("/usr/local/cuda/lib64\n")
        shutil.rmtree(str(packages))
        half_made.rename(layer)
    return layer


def _make_driver(root):
    """libcuda.so.1 with everything that CUDA's headers name, so that what was linked with it can be loaded."""
    names = set()
    for path in (root / "include").glob("cuda*.h"):
        names |= set(re.findall(r"\bcu[A-Z]\w+", path.read_text(errors="replace")))
    source = "".join("int {}(void) {{ return 100; }}\n".format(name) for name in sorted(names))
    library = root / "lib64/libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-x", "c", "-", "-o"]
    subprocess.run(command + [str(library)], input=source.encode(), check=True)
    (root / "lib64/libcuda.so").symlink_to("libcuda.so.1")


@pytest.fixture(scope="module")
def python36():
    """A layer for a box with a Python 3.6 of this machine, in the same place there."""
    usual = sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.6.*/bin/python")))
    interpreter = os.environ.get("PYTHON36") or (usual[-1] if usual else None)
    require(interpreter, "a Python 3.6: PYTHON36=.../bin/python, or pyenv's")
    command = [interpreter, "-c", "import sys; print(sys.base_prefix)"]
    folder = subprocess.check_output(command, universal_newlines=True).strip()
    require(folder not in ("/usr", "/usr/local"), "a Python 3.6 in a folder of its own")
    layer = WORK / "python36"
    if not layer.exists():
        half_made = layer.with_suffix(".partial")
        shutil.rmtree(str(half_made), ignore_errors=True)
        left_out = shutil.ignore_patterns("test", "*.a", "__pycache__", "site-packages")
        shutil.copytree(folder, str(half_made) + folder, symlinks=True, ignore=left_out)
        (half_made / "usr/local/bin").mkdir(parents=True)
        (half_made / "usr/local/bin/python3").symlink_to(folder + "/bin/python3.6")
        half_made.rename(layer)
    return layer


JETSONS = {
    "36.4": "# R36 (release), REVISION: 4.0, GCID: 1, BOARD: generic, EABI: aarch64\n",
    "32.7": "# R32 (release), REVISION: 7.1, GCID: 1, BOARD: t210ref, EABI: aarch64\n",
}
PYCUDA = "cd / && PYTHONPATH=/opt/edge-app/pycuda python3 -c '{}'"


def test_pycuda_is_built_against_the_devices_cuda(fresh_tree, cuda, figures):
    """By the system's Python, as on JetPack 5 and 6."""
    with Box("orin", 81, fresh_tree, layers=[cuda]) as box, proxy(box.gateway) as url:
        connected(box, url)
        said = provision(box, JETSONS["36.4"], figures, "pycuda for Python 3.11 (all of provisioning)")
        assert "changed: built pycuda<2025 against /usr/local/cuda" in said, said
        assert "python3-libnvinfer" in said.split("not to be had here:")[1].splitlines()[0]
        check_pycuda(box, "2024.1")


def test_pycuda_is_built_for_python_3_6(fresh_tree, cuda, python36, figures):
    """The versions that a Nano needs; its numpy comes from apt there, and from PyPI here."""
    with Box("nano", 82, fresh_tree, layers=[cuda, python36]) as box, proxy(box.gateway) as url:
        connected(box, url)
        box.run("python3 -m venv /var/tmp/pip && /var/tmp/pip/bin/pip -q install pip==21.3.1", 300)
        site = box.run("python3 -c 'import site; print(site.getsitepackages()[0])'").stdout.strip()
        box.run("/var/tmp/pip/bin/pip -q install --target {} numpy==1.13.3".format(site), 300)
        said = provision(box, JETSONS["32.7"], figures, "pycuda for Python 3.6 (all of provisioning)")
        assert "changed: built pycuda==2022.1 against /usr/local/cuda" in said, said
        check_pycuda(box, "2022.1")


def provision(box, l4t, figures, what):
    """Run the script in a box that calls itself a Jetson; what it said, of the first of two runs."""
    box.write("/etc/nv_tegra_release", l4t)
    box.run("ldconfig")
    box.write("/var/tmp/provision.sh", (ROOT / "deploy/provision.sh").read_text())
    # Unoptimised: a third of the time. Nothing is computed in it.
    line = "CFLAGS='-O0 -w' SWAP_MB=0 sh /var/tmp/provision.sh"
    said = figures.timed(what, box.run, line, 1800.0).stdout
    again = box.run(line, 300.0).stdout
    assert "changed: built" not in again, again
    return said


def check_pycuda(box, version):
    """It is of that version, loads, and was compiled against the CUDA of the box."""
    said = box.run(PYCUDA.format("import pycuda; print(pycuda.VERSION_TEXT)")).stdout
    assert said.startswith(version), said
    program = "import pycuda.driver as driver; print(driver.get_version())"
    assert box.run(PYCUDA.format(program)).stdout.strip() == "(11, 8, 0)"
