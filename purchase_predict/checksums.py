"""Checksums of files, and the error for a file that is missing or has changed."""

import hashlib
import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

import click
import xxhash

#: Bytes of a file that are read at once.
_BLOCK_BYTES = 2**20
#: Matches the name of a Python byte-code file (`.pyc`), and of the temporary file (`.pyc.<number>`) that Python writes
#: first. Case is ignored, because some file systems ignore it.
_BYTE_CODE = re.compile(r"\.pyc(\.\d+)?$", re.IGNORECASE)
#: The file in which MLflow describes a model, and the file that MLflow adds to the same folder when it loads a
#: registered version.
_MODEL, _VERSION = "MLmodel", "registered_model_meta"


class Damaged(click.ClickException):
    """A stored file is missing, or has changed since it was written."""


def checksum(path: Path) -> str:
    """XXH3 of a file's content, 128 bits as hexadecimal digits.

    XXH3 takes a third of SHA-256's time. It detects accidental changes, but not changes by an attacker.

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
    """CRC-32 of each file below a folder, by the file's path relative to the folder.

    Raises:
        OSError: a file cannot be read.
    """
    return {file.relative_to(folder).as_posix(): crc32(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def difference(place: Path, expected: Mapping[str, str], verb: str, known: Collection[str] = ()) -> str | None:
    """Describes the first file that is missing, has changed or was added; None if there is no such file.

    Args:
        place: a folder, or one file.
        expected: the checksum of each file, by its path in the folder.
        verb: what was done with the files, for the text: "written" or "logged".
        known: paths of further files that belong to the folder, without a known checksum. If both `expected` and
            `known` are empty, nothing is checked.
    """
    for name, recorded in expected.items():
        file = place if place.is_file() else place / name
        if not file.is_file() or checksum(file) != recorded:
            return f"{name} is missing or has changed since it was {verb}"
    if not (expected or known) or place.is_file():
        return None
    present = [file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()]
    more = added(present, {*expected, *known})
    return f"{more} was added later: it is not among the files that were {verb}" if more else None


def is_byte_code(name: str) -> bool:
    """Whether a file is Python's byte code, judged by its name.

    Loading a model can leave byte code among the model's files; `models/packaging.py` never runs it.
    """
    return bool(_BYTE_CODE.search(name))


def added(present: Iterable[str], known: Collection[str]) -> str | None:
    """The first path, in alphabetical order, that was not recorded; None if all were recorded.

    A file that was not recorded was added later. Code that reads the folder would take the file for data.

    Args:
        present: paths in a folder. Byte code is ignored, and so is the file that MLflow adds when a model is loaded.
        known: the paths that were recorded.
    """
    for name in sorted(set(present).difference(known)):
        path = PurePosixPath(name)
        if not is_byte_code(name) and not (path.name == _VERSION and str(path.with_name(_MODEL)) in known):
            return name
    return None
