"""An image of a whole disk, plain (.img) or packed (.img.xz, .img.gz, .zip as NVIDIA gives it), read in pieces."""

import gzip
import lzma
import os
import zipfile
import zlib

PIECE_BYTES = 4 << 20
# RuntimeError: a zip with a password, or packed in a way this Python does not know.
BROKEN = (OSError, EOFError, RuntimeError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)


class ImageError(Exception):
    """The image cannot be read or is none; the message says which file and what to do."""


class ImageFile:
    """A disk image. Use with ``with``.

    Args:
        path: its file; the ending decides how it is packed, any other than .xz, .gz, .zip means plain.
    """

    def __init__(self, path):
        self.path = path
        self._archive = None

    def __enter__(self):
        if not os.path.exists(self.path):
            raise ImageError("{}: there is no such image.".format(self.path))
        if not os.path.isfile(self.path):
            raise ImageError("{} is not a file: name the image.".format(self.path))
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Close the archive, where it is one; may be called twice."""
        archive, self._archive = self._archive, None
        if archive is not None:
            archive.close()

    @property
    def packed(self):
        """Whether the bytes of the disk must be unpacked from the file."""
        return self.path.endswith((".xz", ".gz", ".zip"))

    def measure(self, progress=None):
        """Size of the disk in bytes. A packed file is unpacked once for it, which proves that it is whole.

        Args:
            progress: called with the number of bytes seen so far.
        """
        if not self.packed:
            size = os.path.getsize(self.path)
            self._check_start(next(self.pieces(), b""))
            return size
        size = 0
        for piece in self.pieces():
            if size == 0:
                self._check_start(piece)
            size += len(piece)
            if progress is not None:
                progress(size)
        if size == 0:
            self._check_start(b"")
        return size

    def pieces(self):
        """The disk from its first byte to its last, in pieces of ``PIECE_BYTES``; the last may be shorter."""
        try:
            with self._open() as stream:
                while True:
                    piece = _read_full(stream, PIECE_BYTES)
                    if not piece:
                        return
                    yield piece
        except BROKEN as error:
            raise ImageError(
                "{} is damaged or cut short ({}): download or make it again.".format(
                    self.path, error
                )
            ) from error

    def _open(self):
        if self.path.endswith(".xz"):
            return lzma.open(self.path)
        if self.path.endswith(".gz"):
            return gzip.open(self.path)
        if self.path.endswith(".zip"):
            return self._open_member()
        return open(self.path, "rb")

    def _open_member(self):
        self.close()
        self._archive = zipfile.ZipFile(self.path)
        images = [name for name in self._archive.namelist() if name.endswith(".img")]
        if len(images) != 1:
            raise ImageError(
                "{} should hold one .img and holds {}: {}.".format(
                    self.path, len(images), ", ".join(self._archive.namelist()[:5]) or "nothing"
                )
            )
        return self._archive.open(images[0])

    def _check_start(self, piece):
        """A disk with partitions has 55 AA at the end of its first sector, also where the table is a GPT."""
        if len(piece) < 512 or piece[510:512] != b"\x55\xaa":
            raise ImageError(
                "{} is no image of a disk: it has no partition table. Give the .img, or the .img.xz, .img.gz or "
                ".zip that holds it.".format(self.path)
            )


def _read_full(stream, size):
    """``size`` bytes, or what is left of the stream: a packed stream may give less than asked for."""
    parts, missing = [], size
    while missing:
        part = stream.read(missing)
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
