"""What a large fleet costs the laptop: make deploy to many simulated devices, measured.

    .venv/bin/python tests/deploy/fleet_figures.py build/release/edge-app-...-cp36-aarch64.tar 100 [AT A TIME [FILES]]

Every device is a connection of its own to one sshd in a box, with a folder of its own. It takes the whole release, as an
empty device would, and writes it to disk; what a device then does by itself (unpacking, rehearsing, watching) is a wait of
ACTIVATE_S. So the figures are those of the laptop and of the network, not of devices. With FILES (app/) only such files are missing
there, as in an upgrade.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "box")]

from boxes import Box, base_tree  # noqa: E402

PORT = 2222
ACTIVATE_S = 20
# What the far end runs in place of a login shell: everything as sent, but what needs a machine of its own.
_DEVICE = """#!/bin/sh
folder=$(echo "$SSH_ORIGINAL_COMMAND" | grep -o '/var/tmp/edge-app[.][A-Za-z0-9]*' | head -n 1)
case $SSH_ORIGINAL_COMMAND in
*sftp-server* | '') exec /usr/lib/openssh/sftp-server ;;
*'activate.sh missing'*) sed 's/^[0-9a-f]*  //' "$folder/manifest" | grep '{}'; echo 'edge-app exit status 0' ;;
*'activate.sh install'*) sleep {}
  echo 'DEPLOYED: 1.0.0 looks at 29.9 frames a second'; echo 'edge-app exit status 0' ;;
*) exec sh -c "$SSH_ORIGINAL_COMMAND" ;;
esac
"""
_SSHD = """Port {}
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd-figures.pid
ForceCommand /usr/local/bin/device
Subsystem sftp /usr/lib/openssh/sftp-server
MaxStartups 1000
UsePAM no
"""


def main(release: str, number: int, parallel: int, files: str) -> None:
    """Deploy to so many simulated devices and print what it took."""
    with Box("figures", 71, base_tree()) as box, tempfile.TemporaryDirectory() as name:
        box.write("/usr/local/bin/device", _DEVICE.format(files, ACTIVATE_S), "755")
        box.write("/etc/ssh/figures", _SSHD.format(PORT))
        box.run("systemd-run -q --unit figures /usr/sbin/sshd -D -f /etc/ssh/figures")
        key = box.run("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").stdout.strip()
        folder = pathlib.Path(name)
        (folder / "known_hosts").write_text("[{}]:{} {}\n".format(box.address, PORT, key))
        inventory = _inventory(folder, box, release, number)
        _measure(inventory, release, number, parallel)


def _inventory(folder: pathlib.Path, box: Box, release: str, number: int) -> pathlib.Path:
    target = "-".join(pathlib.Path(release).stem.split("-")[-2:])
    values = {"address": box.address, "port": PORT, "user": "root", "target": target}
    values.update(key=str(box.key), known_hosts=str(folder / "known_hosts"))
    hosts = {"device-{:03d}".format(index): {} for index in range(number)}
    path = folder / "fleet.yaml"
    path.write_text(json.dumps({"defaults": values, "hosts": hosts}))  # JSON is YAML
    return path


def _measure(inventory: pathlib.Path, release: str, number: int, parallel: int) -> None:
    command = [str(ROOT / ".venv-deploy" / "bin" / "python"), "-m", "deploy.fleet", "deploy"]
    command += ["--inventory", str(inventory), "--release", os.path.abspath(release)]
    command += ["--wave", "100%", "--parallel", str(parallel)]
    started = time.monotonic()
    with open(str(inventory.parent / "said"), "wb") as said:
        process = subprocess.Popen(command, cwd=str(ROOT), stdout=said, stderr=subprocess.STDOUT)
        _, process.returncode, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    cpu_s = used.ru_utime + used.ru_stime
    output = (inventory.parent / "said").read_text()
    rows = [line.split() for line in output.splitlines() if " deployed " in line]
    deployed, sent_mb = len(rows), float(rows[-1][-1])
    print(
        "{} of {} devices, {} at a time, {:.1f} MB each".format(deployed, number, parallel, sent_mb)
    )
    line = "{:.0f} s, {:.1f} MB/s together; the laptop: {:.2f} s of CPU a device, {:.0f} MB of memory at most"
    print(line.format(seconds, number * sent_mb / seconds, cpu_s / number, used.ru_maxrss / 1024))


if __name__ == "__main__":
    words = sys.argv[1:] + ["32", ""][len(sys.argv) - 3 :]
    main(words[0], int(words[1]), int(words[2]), words[3])
