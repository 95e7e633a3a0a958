"""A device that is not there: a whole machine with a Cortex-A57, the Nano's core, emulated by qemu.

It boots from a file as a card, has a serial number as a Nano has it, answers ssh on a port of this machine's
loopback, and reaches nothing else. Its power can be cut: what it had not written is gone.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time

SERIAL = "1421019060714"
_QEMU = "qemu-system-aarch64 -machine virt -cpu cortex-a57 -m 2G -smp 2".split()


class MachineError(Exception):
    """The machine did not start or a command in it failed; the message holds its console or output."""


class Machine:
    """A machine from ``boot()`` to ``cut()`` or ``shut_down()``; ``with`` ends it in any case.

    Args:
        card: file that is its SD card; root is its first partition.
        boot_files: kernel, initrd and folder of modules, from ``trees.kernel``.
        key: private ssh key of ``user``.
        folder: for its console and device tree.

    Attributes:
        boot_s: seconds from power on to the first login of the last boot.
    """

    def __init__(self, card, boot_files, key, user, folder):
        self.card = card
        self.console = os.path.join(str(folder), "console.log")
        self.boot_s = 0.0
        self._kernel, self._initrd, _ = boot_files
        self._key = str(key)
        self._user = user
        self._tree = os.path.join(str(folder), "device-tree.dtb")
        self._control = os.path.join(str(folder), "ssh")
        self._port = 0
        self._process = None

    def __enter__(self):
        subprocess.run(
            _QEMU[:1] + ["-machine", "virt,dumpdtb=" + self._tree] + _QEMU[3:],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        subprocess.run(["fdtput", "-t", "s", self._tree, "/", "serial-number", SERIAL], check=True)
        return self

    def __exit__(self, *_):
        self.cut()

    def boot(self, timeout_s=3600.0):
        """Power on; returns when the user can log in.

        Raises:
            MachineError: it did not come so far.
        """
        started = time.monotonic()
        self._port = _free_port()
        network = "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{}-:22".format(self._port)
        line = "root=/dev/vda1 rw quiet net.ifnames=0 console=ttyAMA0"
        line += " audit=0 systemd.default_timeout_start_sec=900"
        command = ["nice", "-n", "10", "setpriv", "--pdeathsig", "KILL"] + _QEMU
        command += ["-accel", "tcg,thread=multi", "-dtb", self._tree, "-kernel", str(self._kernel)]
        command += ["-initrd", str(self._initrd), "-append", line]
        command += ["-drive", "file={},format=raw,if=virtio".format(self.card)]
        command += ["-netdev", network, "-device", "virtio-net-pci,netdev=net"]
        command += ["-device", "virtio-rng-pci", "-display", "none", "-monitor", "none"]
        command += ["-serial", "file:" + self.console]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = started + timeout_s
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._answers():
                self.boot_s = time.monotonic() - started
                return
            time.sleep(0.5)
        raise MachineError("nobody can log in:\n" + self.console_text()[-3000:])

    def _answers(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.run("true", check=False, timeout_s=300.0).returncode == 0
        return False

    def run(self, command, check=True, timeout_s=600.0):
        """Run a line of shell in it as the user; the result has ``stdout`` (stderr in it) and ``returncode``."""
        done = subprocess.run(
            self.ssh(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=timeout_s,
        )
        if check and done.returncode:
            raise MachineError("status {} of: {}\n{}".format(done.returncode, command, done.stdout))
        return done

    def ssh(self, command, *more):
        """The command that runs ``command`` in it, for those who want to read along."""
        options = "IdentitiesOnly=yes BatchMode=yes StrictHostKeyChecking=no ConnectTimeout=240"
        options += " UserKnownHostsFile=/dev/null LogLevel=ERROR GSSAPIAuthentication=no"
        # One connection for all commands of a boot: a login costs an emulated core many seconds.
        options += (
            " ControlMaster=auto ControlPersist=yes ControlPath={} ServerAliveInterval=15".format(
                self._control
            )
        )
        words = ["ssh", "-p", str(self._port), "-i", self._key]
        for option in options.split():
            words += ["-o", option]
        return words + list(more) + ["{}@127.0.0.1".format(self._user), command]

    def send(self, path, target, timeout_s=900.0):
        """Copy a file into it, onto its card."""
        with open(str(path), "rb") as file:
            subprocess.run(
                self.ssh("cat >{} && sync".format(target)),
                stdin=file,
                check=True,
                timeout=timeout_s,
            )

    def wait_for(self, command, timeout_s, every_s=5.0):
        """Seconds until a line of shell succeeds in it.

        Raises:
            MachineError: it did not within ``timeout_s``.
        """
        started = time.monotonic()
        while time.monotonic() < started + timeout_s:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self.run(command, check=False, timeout_s=120.0).returncode == 0:
                    return time.monotonic() - started
            time.sleep(every_s)
        log = self.run("sudo journalctl -b -n 60 --no-pager -o cat", check=False).stdout
        raise MachineError("not within {} s: {}\n{}".format(timeout_s, command, log))

    def console_text(self):
        """What it has written to its serial console since it was switched on."""
        with contextlib.suppress(FileNotFoundError):
            with open(self.console, errors="replace") as file:
                return file.read()
        return ""

    def cut(self):
        """Cut the power. Does nothing when it is off."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if os.path.exists(self._control):
            hang_up = self.ssh("", "-O", "exit")
            subprocess.run(hang_up, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def shut_down(self, timeout_s=300.0):
        """Ask it to power off and wait for it."""
        self.run("sudo systemctl poweroff", check=False)
        self._process.wait(timeout_s)
        self.cut()


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
