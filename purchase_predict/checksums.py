"""Checksums of files, and the error for a file that is no longer what was written."""

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import click
import xxhash

#: Bytes of a file that are read at once.
_BLOCK_BYTES = 2**20


class Damaged(click.ClickException):
    """A stored file is missing, or is not what was written."""


def checksum(path: Path) -> str:
    """XXH3 of a file's content, 128 bits as hexadecimal digits.

    It takes a third of SHA-256's time, and guards against chance, not against an attacker.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def crc32(path: Path) -> int:
    """CRC-32 of a file's content: a checksum that Spark's SQL can compute as well.

    Raises:
        OSError: the file cannot be read.
    """
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found = zlib.crc32(block, found)
    return found


def crc32_below(folder: Path) -> dict[str, int]:
    """CRC-32 of each file below a folder, by its path in there.

    Raises:
        OSError: a file cannot be read.
    """
    return {file.relative_to(folder).as_posix(): crc32(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def differing(place: Path, expected: Mapping[str, str]) -> str | None:
    """The first file that is missing or has another checksum than expected; None if there is none.

    Args:
        place: a folder, or one file.
        expected: the checksum of each file, by its path in the folder. Files that are not named do not matter.
    """
    for name, known in expected.items():
        file = place if place.is_file() else place / name
        if not file.is_file() or checksum(file) != known:
            return name
    return None
