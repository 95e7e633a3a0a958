"""What lies where in an image of a disk: its GPT and the file systems in it (UEFI specification 2.10, 5.3)."""

import struct
import zlib
from typing import List, NamedTuple

SECTOR_BYTES = 512
_HEADER = struct.Struct("<8s4sII4xQQQQ16sQIII")
_EXT_MAGIC_AT = 1024 + 56


class LayoutError(Exception):
    """The disk is not laid out as expected; the message says what was seen."""


class Partition(NamedTuple):
    """One entry of the table."""

    number: int
    name: str
    offset_bytes: int
    size_bytes: int


def read_partitions(path: str) -> List[Partition]:
    """The partitions of a disk image, by number.

    Raises:
        LayoutError: there is no GPT, or a damaged one.
    """
    with open(path, "rb") as disk:
        start = disk.read(2 * SECTOR_BYTES)
        if start[SECTOR_BYTES : SECTOR_BYTES + 8] != b"EFI PART":
            kind = (
                "a DOS partition table" if start[510:512] == b"\x55\xaa" else "no partition table"
            )
            raise LayoutError("{} has no GPT but {}".format(path, kind))
        header = start[SECTOR_BYTES : SECTOR_BYTES + _HEADER.size]
        fields = _HEADER.unpack(header)
        header_bytes, header_sum, table_at, count, entry_bytes, table_sum = (
            fields[2],
            fields[3],
            fields[9],
            fields[10],
            fields[11],
            fields[12],
        )
        disk.seek(SECTOR_BYTES)
        whole = disk.read(min(header_bytes, SECTOR_BYTES))
        if zlib.crc32(whole[:16] + b"\0\0\0\0" + whole[20:]) != header_sum or count > 1024:
            raise LayoutError("{}: the header of its GPT is damaged".format(path))
        disk.seek(table_at * SECTOR_BYTES)
        table = disk.read(count * entry_bytes)
    if zlib.crc32(table) != table_sum:
        raise LayoutError("{}: its GPT is damaged".format(path))
    entries = [table[at : at + entry_bytes] for at in range(0, len(table), entry_bytes)]
    found = [_partition(number, entry) for number, entry in enumerate(entries, start=1)]
    return [partition for partition in found if partition.size_bytes]


def _partition(number, entry):
    first, last = struct.unpack_from("<QQ", entry, 32)
    used = entry[:16] != bytes(16)
    name = entry[56:128].decode("utf-16-le", "replace").split("\0")[0]
    size = (last - first + 1) * SECTOR_BYTES if used else 0
    return Partition(number, name, first * SECTOR_BYTES, size)


def holds_ext4(path: str, partition: Partition) -> bool:
    """Whether a partition has the mark of ext2, 3 or 4."""
    with open(path, "rb") as disk:
        disk.seek(partition.offset_bytes + _EXT_MAGIC_AT)
        return disk.read(2) == b"\x53\xef"
