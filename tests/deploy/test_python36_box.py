"""A box whose program runs on Python 3.6, as on the original Nano; and the provisioning of machines."""

import glob
import os
import shutil
import subprocess

import pytest
from boxes import Box, base_tree, require_boxes
from conftest import ROOT, build_or_skip
from laptop import TOOLS, Laptop, current, result, sees_faces
from needs import require

APT = """#!/bin/sh
case "$*" in *update*) exit 0 ;; esac
echo E: Unable to locate package >&2
exit 100
"""
LAYER = ROOT / "build" / "boxes" / "python36"


def installation():
    """The folder of a Python 3.6 that can be copied: of PYTHON36, or below pyenv's."""
    found = sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.6.*/bin/python")))
    interpreter = os.environ.get("PYTHON36") or (found[-1] if found else None)
    if interpreter is None:
        return None
    command = [interpreter, "-c", "import sys; print(sys.base_prefix)"]
    folder = subprocess.check_output(command, universal_newlines=True).strip()
    return None if folder in ("/usr", "/usr/local") else folder


@pytest.fixture(scope="module")
def python36():
    """A layer for a box with a Python 3.6 below /opt, copied from one of this machine."""
    folder = installation()
    require(folder, "a Python 3.6 in a folder of its own: PYTHON36=.../bin/python, or pyenv's")
    if not LAYER.exists():
        work = LAYER.with_suffix(".partial")
        shutil.rmtree(str(work), ignore_errors=True)
        (work / "usr/local/bin").mkdir(parents=True)
        (work / "usr/lib").mkdir(parents=True)
        left_out = shutil.ignore_patterns("test", "*.a", "__pycache__", "site-packages")
        shutil.copytree(folder, str(work / "opt/python3.6"), symlinks=True, ignore=left_out)
        for library in glob.glob(folder + "/lib/libpython3.6m.so.1.0"):
            shutil.copy(library, str(work / "usr/lib"))
        os.symlink("/opt/python3.6/bin/python3.6", str(work / "usr/local/bin/python3.6"))
        work.rename(LAYER)
    return LAYER


@pytest.fixture(scope="module")
def box(python36):
    require(TOOLS.exists(), ".venv-deploy (sh deploy/tools.sh python3 .venv-deploy)")
    require_boxes()
    with Box("dep36", 70, base_tree(), layers=[python36]) as box:
        # There is no way out of a box; this apt has lists, in which nothing of what is missing stands.
        box.write("/usr/local/sbin/apt-get", APT, "755")
        yield box


@pytest.fixture(scope="module")
def deployed(box, tmp_path_factory):
    """(exit status, what was said) of the deploy of a release to the box."""
    folder = tmp_path_factory.mktemp("deployed")
    release = build_or_skip("cp36-x86_64", folder, "1.0.0")
    return Laptop([box], folder, target="cp36-x86_64").deploy(release, box)


@pytest.fixture
def somebody(box):
    """A user of the box who may log in and nothing else."""
    box.run(
        "useradd -m -s /bin/sh somebody && install -d -o somebody ~somebody/.ssh && "
        "install -o somebody -m 600 ~root/.ssh/authorized_keys ~somebody/.ssh/"
    )
    yield "somebody"
    box.run("rm -f /etc/sudoers.d/deploy; userdel -rf somebody", check=False)


@pytest.fixture
def nano(box):
    """The box with what NVIDIA brings stood in for: its two tools note how they were called."""
    tool = "#!/bin/sh\necho {0} $* >>/var/tmp/called\n[ $1 = -q ] && echo {1}\ntrue\n"
    box.write(
        "/usr/local/sbin/nvpmodel", tool.format("nvpmodel", "$(cat /var/tmp/mode || echo 1)"), "755"
    )
    box.write("/usr/local/sbin/jetson_clocks", "#!/bin/sh\necho clocks >>/var/tmp/called\n", "755")
    box.write(
        "/usr/local/cuda/bin/nvcc", "#!/bin/sh\necho Cuda compilation tools, release 10.2\n", "755"
    )
    box.write("/etc/nv_tegra_release", "# R32 (release), REVISION: 7.1, GCID: 1, BOARD: t210ref\n")
    version = box.run("python3 --version").stdout.strip()
    stamp = "Cuda compilation tools, release 10.2 {}\n".format(version)
    # Built before: there is no CUDA to build against.
    box.write("/opt/edge-app/pycuda/complete", stamp)
    box.copy(ROOT / "deploy" / "provision.sh", "/var/tmp/provision.sh")
    yield box
    box.run(
        "systemctl disable -q --now edge-app-clocks; "
        "rm -rf /etc/systemd/system/edge-app-clocks.service /etc/nv_tegra_release /usr/local/cuda "
        "/usr/local/sbin/nvpmodel /usr/local/sbin/jetson_clocks /opt/edge-app/pycuda "
        "/var/tmp/called /var/tmp/mode /var/tmp/provision.sh",
        check=False,
    )


def test_the_service_runs_on_python_3_6(box, deployed):
    status, output = deployed
    assert status == 0 and result(output, box) == "deployed", output
    assert current(box) == "1.0.0" and sees_faces(box)
    version = box.run("readlink -f /proc/$(systemctl show --value -p MainPID edge-app)/exe")
    assert version.stdout.strip() == "/opt/python3.6/bin/python3.6"
    imports = "cd / && /opt/edge-app/current/venv/bin/python -c 'import {}'"
    box.run(imports.format("aiohttp, paho.mqtt.client, prometheus_client, numpy, yaml, idna_ssl"))


def test_a_user_needs_root_without_a_password_and_is_told_how_to_get_it(
    box, deployed, somebody, tmp_path
):
    laptop = Laptop([box], tmp_path, user=somebody)
    status, output = laptop.do("status", box.name)
    assert status == 1 and result(output, box) == "refused" and "NOPASSWD" in output, output
    box.run("echo 'somebody ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/deploy")
    status, output = laptop.do("status", box.name)
    assert status == 0 and result(output, box) == "answered", output
    assert not box.run("find /var/tmp -name 'edge-app.*'").stdout, "something was left behind"


def test_provisioning_twice_changes_nothing_the_second_time(box, tmp_path):
    box.run("rm -f /etc/systemd/journald.conf.d/edge-app.conf")
    laptop = Laptop([box], tmp_path)
    status, output = laptop.do("provision", box.name)
    assert status == 0 and result(output, box) == "provisioned", output
    assert "200M" in box.run("cat /etc/systemd/journald.conf.d/edge-app.conf").stdout
    status, output = laptop.do("provision", box.name)
    assert status == 0 and result(output, box) == "unchanged", output


def test_provisioning_a_nano_sets_its_power_clocks_and_pycuda(nano):
    said = nano.run("SWAP_MB=0 sh /var/tmp/provision.sh").stdout
    assert "L4T 32.7.1" in said and "changed: power mode 0" in said, said
    assert nano.run("systemctl is-active edge-app-clocks").stdout.strip() == "active"
    assert nano.run("cat /var/tmp/called").stdout.split("\n")[:3] == [
        "nvpmodel -q",
        "nvpmodel -m 0",
        "clocks",
    ]
    nano.run("echo 0 >/var/tmp/mode")
    said = nano.run("SWAP_MB=0 sh /var/tmp/provision.sh").stdout
    assert "UNCHANGED" in said, said


def test_without_cuda_provisioning_a_jetson_says_what_to_install(nano):
    nano.run("rm /usr/local/cuda/bin/nvcc /opt/edge-app/pycuda/complete")
    said = nano.run("SWAP_MB=0 sh /var/tmp/provision.sh", check=False)
    assert said.returncode == 1 and "apt install nvidia-jetpack" in said.stdout


def test_the_script_that_makes_the_tools_refuses_an_old_python(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\n[ $1 = --version ] && echo Python 3.8.1 && exit 0\nexit 1\n")
    old.chmod(0o755)
    command = ["sh", "deploy/tools.sh", str(old), str(tmp_path / "venv")]
    done = subprocess.run(command, cwd=str(ROOT), stdout=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == 1 and "Python 3.10 or newer" in done.stdout
