"""Boxes: small Debian machines with real systemd as PID 1, for tests of the service and of deployment.

A box is an overlay on a tree that is built once (`base_tree`), booted by systemd-nspawn, reached by ssh over a veth
pair whose both ends are set from here; it has no route to anywhere else. Mounts live in the box's own mount
namespace and its processes die with the test's process, so a run that was killed leaves only files, which the next
run of that box removes.

    with Box("camera", 30, base_tree()) as box:
        print(box.run("systemctl is-system-running --wait", check=False).stdout)
        box.reboot()

Needs root, Debian's package sources in apt, and a working folder that is not on overlayfs. Everything made here
lies in build/boxes; remove that folder to begin anew.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from needs import require

HERE = pathlib.Path(__file__).resolve().parent
WORK = HERE.parent.parent / "build" / "boxes"
NETWORK = "10.77"  # box INDEX is 10.77.INDEX.2, this end of its cable 10.77.INDEX.1
# What a device has besides our program: systemd, sshd, Python, GStreamer.
PACKAGES = (
    "systemd systemd-sysv dbus udev openssh-server python3 python3-venv rsync sudo procps iproute2 netbase "
    "libgomp1 python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good gstreamer1.0-tools"
).split()
_LEFT_OUT = ("man", "doc", "locale")  # of /usr/share
_BOOT_S = 60.0
_STOP_S = 15.0


def require_boxes():
    """Skip the test (or fail it, under EDGE_APP_CI=1) where boxes cannot be booted."""
    require(os.geteuid() == 0, "root (boxes with systemd are booted by root)")
    programs = "systemd-nspawn mmdebstrap ssh ssh-keygen rsync ip nsenter unshare setpriv".split()
    missing = [name for name in programs if shutil.which(name) is None]
    packages = "systemd-container mmdebstrap openssh-client rsync iproute2"
    require(not missing, "{} (apt install {})".format(" ".join(missing), packages))


def base_tree(packages=tuple(PACKAGES)):
    """The root tree of a box, built by mmdebstrap at the first call (one to two minutes); read only, please."""
    require_boxes()
    sources = apt_sources()
    require(sources, "Debian's package sources in apt (boxes are made of Debian packages)")
    suite = suite_here()
    recipe = "\n".join([suite, "1"] + sorted(packages))
    tree = WORK / "trees" / hashlib.sha256(recipe.encode()).hexdigest()[:12]
    with locked(tree.with_suffix(".lock")):
        if not tree.exists():
            _build_tree(tree, suite, sources, packages)
    return tree


def _build_tree(tree, suite, sources, packages):
    half_done, log = tree.with_suffix(".partial"), tree.with_suffix(".log")
    shutil.rmtree(str(half_done), ignore_errors=True)
    command = ["unshare", "--mount", "--propagation", "private", "mmdebstrap"]
    command += ["--variant=minbase", "--mode=root", "--include=" + ",".join(packages)]
    command += ['--aptopt=Acquire::Languages "none"']
    command += ["--dpkgopt=path-exclude=/usr/share/{}/*".format(name) for name in _LEFT_OUT]
    command += [suite, str(half_done)] + sources
    with open(str(log), "wb") as output:
        status = subprocess.call(command, stdout=output, stderr=subprocess.STDOUT)
    if status:
        raise RuntimeError("no tree for boxes: {}".format(log.read_text()[-2000:]))
    (half_done / "etc/resolv.conf").write_text("")  # a box has no way out
    half_done.rename(tree)


def suite_here():
    with open("/etc/os-release") as file:
        facts = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    return facts.get("VERSION_CODENAME", "").strip('"')


def apt_sources():
    """The package sources of this machine, as lines of a sources.list."""
    line = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    wanted = ["--format", line, "Created-By: Packages", "Origin: Debian"]
    found = subprocess.run(["apt-get", "indextargets"] + wanted, stdout=subprocess.PIPE)
    return sorted(set(found.stdout.decode().splitlines()))


@contextlib.contextmanager
def locked(path, wait=True):
    """Hold a lock file; BlockingIOError when another process has it and ``wait`` is not set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(str(path), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


class BoxError(Exception):
    """A box did not boot, or a command in it failed; the message holds its output."""


class Box:
    """A machine with systemd, booted by ``with`` and gone without a trace afterwards.

    Args:
        name: of the box, its host name too; at most 12 characters.
        index: of its network, 1 to 254; no two boxes that run at once share it.
        tree: from ``base_tree``.
        layers: folders laid over the tree, the first on top; they stay as they are, whatever the box writes.
        limits: boot it with cgroup controllers of its own, so that MemoryMax= and CPUQuota= of its units take
            effect. systemd-nspawn gives it read-only ones where the machine has cgroup v1; such a box is booted by
            unshare instead, with fewer walls between it and this machine.

    Attributes:
        address: of the box.
        gateway: this machine, as the box sees it.
        key: the private key that opens it (user root).
        boot_s: seconds its last boot took, up to a listening sshd.
    """

    def __init__(self, name, index, tree, layers=(), limits=False):
        if len(name) > 12:
            raise ValueError("{}: a name of a box has at most 12 characters".format(name))
        self.name = name
        self.address = "{}.{}.2".format(NETWORK, index)
        self.gateway = "{}.{}.1".format(NETWORK, index)
        self.key = WORK / "id_ed25519"
        self.boot_s = 0.0
        self._index = index
        self._layers = [pathlib.Path(layer) for layer in layers] + [pathlib.Path(tree)]
        self._limits = limits
        self._folder = WORK / "boxes" / name
        self._process = None
        self._connection = None  # one login that all others share: they then take no time
        self._shared = ""
        self._leader = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        require_boxes()
        if self._limits:
            has_v1 = os.path.isdir("/sys/fs/cgroup/memory")
            require(has_v1, "cgroup v1 controllers (limits of units are tested by them)")
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._network())
            sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="box-"))
            self._shared = os.path.join(sockets, "ssh")  # in build/ its name might be too long
            stack.callback(self._clean)
            self._clean()
            for name in ("upper", "work", "root"):
                (self._folder / name).mkdir(parents=True)
            self._make_key()
            self._boot()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        self.close()

    def close(self):
        """Power it off and remove everything it was. Idempotent."""
        self._stack.close()

    @property
    def ssh(self):
        """The ssh command and its options, for programs that take one (rsync -e)."""
        options = (
            "IdentitiesOnly=yes BatchMode=yes StrictHostKeyChecking=no UserKnownHostsFile=/dev/null"
        )
        options += " ConnectTimeout=5 LogLevel=ERROR GSSAPIAuthentication=no"
        command = ["ssh", "-i", str(self.key), "-S", self._shared]
        for option in options.split():
            command += ["-o", option]
        return command

    def run(self, command, timeout_s=60.0, check=True, user="root", stdin=""):
        """Run a line of shell in the box; the result has ``stdout`` (with stderr in it) and ``returncode``.

        Raises:
            BoxError: it failed and ``check`` is set.
            subprocess.TimeoutExpired: it took too long.
        """
        done = subprocess.run(
            self.ssh + ["{}@{}".format(user, self.address), command],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=timeout_s,
        )
        if check and done.returncode:
            raise BoxError(
                "{}: status {} of: {}\n{}".format(self.name, done.returncode, command, done.stdout)
            )
        return done

    def copy(self, source, target, timeout_s=120.0):
        """Copy a file or folder into the box, by rsync's rules (``source/`` is what is in it)."""
        shell = " ".join(shlex.quote(word) for word in self.ssh)
        command = ["rsync", "-a", "--chown=root:root", "-e", shell]
        command += [str(source), "root@{}:{}".format(self.address, target)]
        subprocess.run(command, check=True, timeout=timeout_s)

    def write(self, path, text, mode="644"):
        """Write a text file into the box, and the folders on the way to it."""
        where = shlex.quote(str(path))
        line = "mkdir -p $(dirname {0}) && cat >{0} && chmod {1} {0}".format(where, mode)
        self.run(line, stdin=text)

    def reboot(self, hard=False):
        """Off and on again; what is on its disk stays. ``hard``: the power is cut, nobody is told."""
        if hard:
            os.kill(self._leader, signal.SIGKILL)
        self._power_off()
        self._boot()

    @contextlib.contextmanager
    def _network(self):
        """Hold this box's network, so that a run beside this one fails with a reason."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(
                    locked(WORK / "network-{}.lock".format(self._index), wait=False)
                )
            except BlockingIOError as error:
                raise BoxError(
                    "another run uses {}; wait for its end".format(self.address)
                ) from error
            yield

    def _make_key(self):
        with locked(WORK / "key.lock"):
            if not self.key.exists():
                command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "boxes"]
                subprocess.run(command + ["-f", str(self.key)], check=True)

    def _boot(self):
        started = time.monotonic()
        script = "unshared.sh" if self._limits else "nspawn.sh"
        environment = dict(
            os.environ,
            BOX=self.name,
            ROOT=str(self._folder / "root"),
            LAYERS=":".join(str(layer) for layer in self._layers),
            UPPER=str(self._folder / "upper"),
            OVERLAY=str(self._folder / "work"),
            KEY=str(self.key) + ".pub",
        )
        # setpriv: if this process is killed, the box goes too, and with it its mounts and its network.
        command = ["setpriv", "--pdeathsig", "KILL", "sh", str(HERE / script)]
        with open(str(self._folder / "console.log"), "ab") as console:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._note_process()
        self._leader = self._wait("its systemd", self._find_leader)
        self._wire()
        self._wait("its sshd", self._answers)
        self.boot_s = time.monotonic() - started
        self._connect()

    def _wait(self, what, attempt):
        """The first true value of ``attempt()``, or BoxError with what the console said."""
        deadline = time.monotonic() + _BOOT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            value = attempt()
            if value:
                return value
            time.sleep(0.05)
        console = (self._folder / "console.log").read_text(errors="replace")[-2000:]
        raise BoxError("{}: {} did not come up:\n{}".format(self.name, what, console))

    def _find_leader(self):
        """The process that is PID 1 of the box: the first below ours in another network, named systemd."""
        own = os.readlink("/proc/self/ns/net")
        pid = self._process.pid
        for child in _children(pid):
            with contextlib.suppress(OSError):
                name = pathlib.Path("/proc/{}/comm".format(child)).read_text().strip()
                elsewhere = os.readlink("/proc/{}/ns/net".format(child)) != own
                if elsewhere and name == "systemd":
                    return child
        return 0

    def _wire(self):
        """A cable between here and the box; both ends get their addresses from here."""
        outer, leader = "ve-" + self.name, str(self._leader)
        pair = [
            "ip",
            "link",
            "add",
            outer,
            "type",
            "veth",
            "peer",
            "name",
            "host0",
            "netns",
            leader,
        ]
        within = ["nsenter", "-t", leader, "-n", "ip"]
        for command in (
            pair,
            ["ip", "addr", "add", self.gateway + "/24", "dev", outer],
            ["ip", "link", "set", outer, "up"],
            within + ["link", "set", "lo", "up"],
            within + ["addr", "add", self.address + "/24", "dev", "host0"],
            within + ["link", "set", "host0", "up"],
        ):
            subprocess.run(command, check=True)

    def _answers(self):
        try:
            with socket.create_connection((self.address, 22), 1.0) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _connect(self):
        command = (
            ["setpriv", "--pdeathsig", "KILL"] + self.ssh + ["-M", "-N", "root@" + self.address]
        )
        self._connection = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._wait("a login", lambda: os.path.exists(self._shared))

    def _power_off(self):
        """Ask its systemd to end; then no longer ask."""
        if self._connection is not None:
            self._connection.kill()
            self._connection.wait()
            self._connection = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._shared)
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._leader:
                os.kill(self._leader, signal.SIGRTMIN + 4)
        try:
            self._process.wait(_STOP_S if self._leader else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process, self._leader = None, 0
        _remove_link("ve-" + self.name)

    def _clean(self):
        """Remove what this run, or one that was killed, has left."""
        self._power_off()
        self._kill_noted()
        _remove_link("ve-" + self.name)
        _remove_cgroups(self.name)
        shutil.rmtree(str(self._folder), ignore_errors=True)

    def _note_process(self):
        text = "{} {}".format(self._process.pid, _started_at(self._process.pid))
        (self._folder / "process").write_text(text)

    def _kill_noted(self):
        """End the box of a run that was killed so that even its last signal did not arrive."""
        with contextlib.suppress(OSError, ValueError):
            pid, started_at = (self._folder / "process").read_text().split()
            if _started_at(int(pid)) == started_at:
                os.kill(int(pid), signal.SIGKILL)
                time.sleep(0.5)


def _children(pid):
    """Processes below ``pid``, nearest first."""
    with contextlib.suppress(OSError):
        path = "/proc/{0}/task/{0}/children".format(pid)
        direct = [int(word) for word in pathlib.Path(path).read_text().split()]
        return direct + [deeper for child in direct for deeper in _children(child)]
    return []


def _started_at(pid):
    """When a process began, in the kernel's own units; it tells a process from a later one of that number."""
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/{}/stat".format(pid)).read_text().rsplit(")", 1)[1].split()[19]
    return ""


def _remove_link(name):
    if os.path.exists("/sys/class/net/" + name):
        subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL)


def _remove_cgroups(name):
    for top in pathlib.Path("/sys/fs/cgroup").glob("*/" + name):
        for folder, _, _ in os.walk(str(top), topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
