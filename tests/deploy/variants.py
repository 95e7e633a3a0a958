"""Releases for tests: a real one, and others made of it that differ in a line."""

import contextlib
import os
import tarfile
import zipfile

from deploy import archive, release
from deploy.targets import TARGETS


@contextlib.contextmanager
def unpacked(path, folder):
    """A release's files in a folder; ``path`` may be rewritten from it by ``repack``."""
    with tarfile.open(str(path)) as tar:
        for entry in tar:
            target = folder / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(tar.extractfile(entry).read())
    yield folder


def variant(source, name, folder, edits=()):
    """A release like ``source`` called ``name``; ``edits`` are (file of it or in our wheel, old text, new text)."""
    tree = folder / ("tree-" + name)
    read = archive.read_release(str(source))
    target = TARGETS[read.target]
    path = folder / "edge-app-{}-{}.tar".format(name, target.name)
    with unpacked(source, tree):
        for file, old, new in edits:
            if (tree / file).exists():
                text = (tree / file).read_text()
                assert old in text, "{} has no {!r}".format(file, old)
                (tree / file).write_text(text.replace(old, new, 1))
            else:
                edit_wheel(next((tree / "app").iterdir()), file, old, new)
        os.remove(str(tree / archive.CARD))
        os.remove(str(tree / archive.MANIFEST))
        release.write_card(str(tree), target, name)
        archive.write_archive(str(tree), str(path), 1577836800)
    return path


def edit_wheel(wheel, name, old, new):
    """Replace a piece of text in a file of a wheel."""
    with zipfile.ZipFile(str(wheel)) as source:
        contents = [(entry, source.read(entry)) for entry in source.infolist()]
    with zipfile.ZipFile(str(wheel), "w", zipfile.ZIP_DEFLATED) as target:
        for entry, data in contents:
            if entry.filename == name:
                assert old.encode() in data, "{} has no {!r}".format(name, old)
                data = data.replace(old.encode(), new.encode(), 1)
            target.writestr(entry, data)
