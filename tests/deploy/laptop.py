"""The laptop of a test: an inventory of boxes, their host keys, and the commands of deploy.fleet."""

import json
import re
import subprocess
import time

from conftest import ROOT

TOOLS = ROOT / ".venv-deploy" / "bin" / "python"
# One thread and ten small pictures a second: services and tests share two cores.
SETTINGS = {
    "camera.source": "test://?faces=2",
    "camera.width_px": 640,
    "camera.height_px": 360,
    "camera.rate_hz": 10,
    "detector.threads": 1,
    "display.kind": "web",
}
_PAGE = "import urllib.request as u;print(u.urlopen('http://127.0.0.1:8080/api/status').read().decode())"


class Laptop:
    """Deploys to some boxes.

    Args:
        folder: for its files.
        more: of the inventory: values of all hosts.
    """

    def __init__(self, boxes, folder, **more):
        self.boxes = boxes
        self.inventory = folder / "fleet.yaml"
        self.known_hosts = folder / "known_hosts"
        hosts = {box.name: {"address": box.address} for box in boxes}
        # Nobody has this address, and the cable it would be at is ours.
        hosts["gone"] = {"address": boxes[0].address[:-1] + "99"}
        defaults = {
            "user": "root",
            "key": str(boxes[0].key),
            "known_hosts": str(self.known_hosts),
            "health_s": 7,
            "start_s": 60,
            "rate_hz": 0.5,
            "settings": SETTINGS,
        }
        tree = {"defaults": dict(defaults, **more), "hosts": hosts}
        self.inventory.write_text(json.dumps(tree))  # JSON is YAML
        self.accept_host_keys()

    def accept_host_keys(self):
        """What ``ssh`` does when it is answered yes."""
        scan = ["ssh-keyscan", "-t", "ed25519"] + [box.address for box in self.boxes]
        keys = subprocess.run(scan, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        self.known_hosts.write_bytes(keys.stdout)

    def start(self, command, *arguments):
        """Begin a command; a process whose output is a pipe."""
        line = [str(TOOLS), "-m", "deploy.fleet", command, "--inventory", str(self.inventory)]
        return subprocess.Popen(
            line + [str(argument) for argument in arguments],
            cwd=str(ROOT),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            start_new_session=True,
        )

    def do(self, command, *arguments, timeout_s=300):
        """Run a command to its end; (exit status, what it said)."""
        process = self.start(command, *arguments)
        output = process.communicate(timeout=timeout_s)[0]
        return process.returncode, output

    def deploy(self, release, *boxes):
        """Deploy an archive to some boxes, all at once; (exit status, what was said)."""
        names = [getattr(box, "name", box) for box in boxes]
        return self.do("deploy", "--canary", 0, "--release", release, *names)


def current(box):
    """The release that a box runs."""
    return box.run("readlink /opt/edge-app/current").stdout.strip().replace("releases/", "")


def show(box, name):
    """A property of the service in a box."""
    return box.run("systemctl show --value -p {} edge-app".format(name)).stdout.strip()


def result(output, box):
    """The word of the table's line of a box: deployed, unchanged, ..."""
    lines = [
        line for line in output.splitlines() if re.match(re.escape(box.name) + r"\s{2,}", line)
    ]
    return re.split(r"\s{2,}", lines[-1])[1]


def sees_faces(box):
    """Whether the service in a box finds faces within ten seconds or so, as its own page tells."""
    for _ in range(20):
        said = box.run('python3 -c "{}"'.format(_PAGE), check=False)
        if said.returncode == 0 and json.loads(said.stdout)["faces"]:
            return True
        time.sleep(0.5)
    return False


def wait_until(condition, timeout_s=60.0):
    """Until something is true; a failed test when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen within {} s".format(timeout_s)
        time.sleep(0.2)
