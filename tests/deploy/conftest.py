"""What the tests of deployment share: the project on the path, and a release that is built once."""

import os
import pathlib
import shutil
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
for _place in (ROOT, ROOT / "tests" / "box", ROOT / "tests" / "deploy"):
    if str(_place) not in sys.path:
        sys.path.insert(0, str(_place))

from needs import require  # noqa: E402

from deploy import release, wheels  # noqa: E402
from deploy.targets import TARGETS  # noqa: E402


def build_or_skip(target, folder, name):
    """A real release; without network and without kept wheels there is none."""
    try:
        return release.build(TARGETS[target], str(folder), name)
    except wheels.ReleaseError as error:
        require("download failed" not in str(error), "the wheels of {} ({})".format(target, error))
        raise


@pytest.fixture
def own_folder():
    """A folder into which other users may look, unlike those of pytest; the test must run as root."""
    require(os.geteuid() == 0, "root (devices are changed by root)")
    require(shutil.which("unshare") and shutil.which("useradd"), "unshare and useradd")
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield pathlib.Path(name)
