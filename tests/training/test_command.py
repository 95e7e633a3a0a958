"""Commands of training: an expected error is one line with its own exit status."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from edge_app.errors import ConfigError
from training import command

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_an_expected_error_is_a_line_and_another_is_not_hidden(capsys):
    def refuse():
        raise ConfigError("--data: nothing there.")

    with pytest.raises(SystemExit) as ended:
        command.run("training.some", refuse)
    assert ended.value.code == 78
    assert capsys.readouterr().err == "training.some: --data: nothing there.\n"
    with pytest.raises(ZeroDivisionError):
        command.run("training.some", lambda: 1 // 0)


def test_a_wrong_folder_is_one_line_at_the_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "training.pack", str(tmp_path), str(tmp_path / "out.tar")],
        cwd=str(ROOT), env=dict(os.environ, PYTHONWARNINGS="ignore"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 78 and "Traceback" not in done.stderr
    assert re.search("^training.pack: .*--data must be", done.stderr, re.MULTILINE)
    assert os.listdir(str(tmp_path)) == []


def test_every_command_leaves_that_way():
    texts = {
        path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "training").glob("*.py")
    }
    commands = [name for name, text in texts.items() if "__main__" in text]
    assert len(commands) > 5
    for name in commands:
        assert 'command.run("training.{}", main)'.format(name) in texts[name]
