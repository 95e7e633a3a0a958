"""Scripts that change a machine, run as root on this one with everything laid over that they change, so that nothing stays."""

import os
import pathlib
import subprocess

_LAID_OVER = """
set -e
mount -t overlay overlay -o lowerdir=/etc,upperdir={0}/upper,workdir={0}/work /etc
mount --bind {0}/bin /usr/local/sbin
[ ! -e {0}/meminfo ] || mount --bind {0}/meminfo /proc/meminfo
exec "$@"
"""


class Machine:
    """This machine with some programs in front of its own, and a folder ``root`` for scripts that take EDGE_APP_ROOT.

    What the programs note or read lies in ``state``; they find that by STAND_INS.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(str(folder))
        self.root = self.folder / "root"
        self.state = self.folder / "state"
        for place in ("upper", "work", "bin", "state", "root/run/lock", "root/etc/systemd/system"):
            (self.folder / place).mkdir(parents=True)

    def stand_in(self, name, text):
        """Put a program before the system's own."""
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def said(self, name):
        """Lines that the stand-ins have left under a name."""
        path = self.state / name
        return path.read_text().splitlines() if path.exists() else []

    def run(self, script, *arguments, **environment):
        """Run a script of shell; (exit status, what it said)."""
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
        command += [_LAID_OVER.format(self.folder), "sh", "sh", str(script)]
        more = dict(EDGE_APP_ROOT=str(self.root), STAND_INS=str(self.folder))
        more.update(TMPDIR=str(self.folder), **environment)
        done = subprocess.run(
            command + [str(argument) for argument in arguments],
            env=dict(os.environ, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        return done.returncode, done.stdout
