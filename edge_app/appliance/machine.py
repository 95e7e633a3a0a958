"""What /proc, /sys and /etc tell about this machine; under another root, about a made-up one."""

import os
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from edge_app.camera import is_jetson
from edge_app.nvidia.cache import l4t_release

SERVICE = "edge-app.service"
SERVICE_USER = "edge-app"
CONFIG = "etc/edge-app/edge-app.yaml"  # of the service
STATE = "var/lib/edge-app"

_LISTENING = "0A"  # state of a socket in /proc/net/tcp


class Process(NamedTuple):
    """A running program."""

    number: int  # its PID
    name: str  # at most 15 characters, as the kernel keeps it
    state: str  # R running, S sleeping, D in the kernel, T stopped, Z dead and not yet buried
    user: int
    is_service: bool  # ours, under systemd

    def __str__(self) -> str:
        ours = "edge-app.service, " if self.is_service else ""
        return "{} ({}PID {})".format(self.name, ours, self.number)


class User(NamedTuple):
    """An account of this machine."""

    name: str
    number: int
    group: int  # the primary one


class Machine:
    """A machine, by its files.

    Args:
        root: where its file system begins.
    """

    def __init__(self, root: str = "/") -> None:
        self.root = root
        self.is_jetson = is_jetson(root)
        self.l4t = l4t_release(self.path("etc/nv_tegra_release"))

    def path(self, name: str) -> str:
        """Where an absolute path of the machine lies for us."""
        return os.path.join(self.root, name.lstrip("/"))

    def read(self, name: str) -> str:
        """A small file's text without surrounding space and NUL; "" where it cannot be read."""
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read().strip().strip("\0")
        except (OSError, ValueError):
            return ""

    def number(self, name: str) -> Optional[int]:
        """A file that holds a whole number; None where it does not."""
        try:
            return int(self.read(name))
        except ValueError:
            return None

    def names(self, folder: str) -> List[str]:
        """What lies in a folder, sorted; nothing where it cannot be read."""
        try:
            return sorted(os.listdir(self.path(folder)))
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return os.path.exists(self.path(name))

    def processes(self) -> List[Process]:
        """What runs, in the order of the numbers."""
        found = []
        for name in self.names("proc"):
            process = self._process(int(name)) if name.isdigit() else None
            if process is not None:
                found.append(process)
        return sorted(found)

    def _process(self, number: int) -> Optional[Process]:
        folder = "proc/{}".format(number)
        match = re.match(r"\d+ \((.*)\) (\S)", self.read(folder + "/stat"), re.DOTALL)
        if match is None:
            return None
        uid = re.search(r"^Uid:\s+(\d+)", self.read(folder + "/status"), re.MULTILINE)
        is_service = SERVICE in self.read(folder + "/cgroup")
        user = int(uid.group(1)) if uid else -1
        words = self.read(folder + "/cmdline").split("\0")
        is_program = "edge_app" in words or any(word.endswith("/edge-app") for word in words)
        name = "edge-app" if is_program else match.group(1)  # not just "python3"
        return Process(number, name, match.group(2), user, is_service)

    def opened(self, process: Process) -> Optional[List[str]]:
        """What its file descriptors lead to; None where we may not look."""
        folder = self.path("proc/{}/fd".format(process.number))
        try:
            names = os.listdir(folder)
        except OSError:
            return None
        return [target for target in (_link(os.path.join(folder, n)) for n in names) if target]

    def maps(self, process: Process, library: str) -> bool:
        """Whether it has loaded a library whose path holds these words."""
        return library in self.read("proc/{}/maps".format(process.number))

    def listeners(self, port: int) -> List[int]:
        """Inodes of the TCP sockets that wait for connections on this port, at any address."""
        found = []
        for table in ("proc/net/tcp", "proc/net/tcp6"):
            for line in self.read(table).splitlines()[1:]:
                words = line.split()
                is_port = words[1].endswith(":{:04X}".format(port))
                if is_port and words[3] == _LISTENING:
                    found.append(int(words[9]))
        return found

    def owners(self, inodes: Sequence[int]) -> List[Process]:
        """Who has these sockets open, of those we may look at."""
        links = {"socket:[{}]".format(inode) for inode in inodes}
        return [p for p in self.processes() if links & set(self.opened(p) or ())]

    def is_ours(self, port: int) -> bool:
        """Whether a program of ours listens there: the service's, or one of this user."""
        inodes = self.listeners(port)
        owners = self.owners(inodes)
        if not owners:  # those of another user are not shown to us
            return bool(inodes) and any(process.is_service for process in self.processes())
        return all(owner.is_service or owner.user == os.geteuid() for owner in owners)

    def users(self) -> Dict[str, User]:
        """The accounts, by name."""
        found = {}
        for line in self.read("etc/passwd").splitlines():
            words = line.split(":")
            if len(words) > 3 and words[2].isdigit() and words[3].isdigit():
                found[words[0]] = User(words[0], int(words[2]), int(words[3]))
        return found

    def group(self, name: str) -> Tuple[Optional[int], Sequence[str]]:
        """A group's number and the members that are written down for it."""
        for line in self.read("etc/group").splitlines():
            words = line.split(":")
            if len(words) > 3 and words[0] == name and words[2].isdigit():
                return int(words[2]), [member for member in words[3].split(",") if member]
        return None, ()

    def allows(self, user: User, name: str, right: int) -> bool:
        """Whether somebody else has a right to a path, by owner, group and mode of it and its folders.

        Args:
            right: ``os.R_OK``, ``os.W_OK`` or ``os.X_OK``.
        """
        folder = os.path.dirname(name.rstrip("/"))
        if folder not in ("", "/") and not self.allows(user, folder, os.X_OK):
            return False
        try:
            facts = os.stat(self.path(name))
        except OSError:
            return False
        if facts.st_uid == user.number:
            return bool(facts.st_mode & right << 6)
        if facts.st_gid in self._groups(user):
            return bool(facts.st_mode & right << 3)
        return bool(facts.st_mode & right)

    def _groups(self, user: User) -> List[int]:
        """Numbers of the groups that somebody is in."""
        lines = [line.split(":") for line in self.read("etc/group").splitlines()]
        joined = [words[2] for words in lines if user.name in words[-1].split(",")]
        return [user.group] + [int(number) for number in joined if number.isdigit()]

    def memory(self) -> Dict[str, int]:
        """/proc/meminfo, in bytes."""
        lines = re.findall(r"^(\w+):\s+(\d+) kB", self.read("proc/meminfo"), re.MULTILINE)
        return {name: int(number) << 10 for name, number in lines}


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
