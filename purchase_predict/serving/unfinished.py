"""Writes whole files into a folder that others read meanwhile, and removes what a killed process left there.

A file has a name that readers do not match, `.<random>.unfinished`, until it is complete: globs such as `*.parquet` and
`*/*.parquet` lack it, and readers of whole folders leave out names that begin with a point. Its process locks it. The
operating system removes the lock when the process ends, so what is not locked was left by a process that was killed.
"""

import contextlib
import fcntl
import uuid
from pathlib import Path
from typing import IO

_ENDING = ".unfinished"


def write(folder: Path, target: Path, content: bytes) -> None:
    """Writes a file that appears under its name only once it is complete.

    Args:
        folder: where it is until then; on the same file system as `target`.
        target: the file to make; its folder exists.
        content: what it holds.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    part, file = _begun(folder)
    with file:
        try:
            file.write(content)
            file.flush()
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _begun(folder: Path) -> tuple[Path, IO[bytes]]:
    """A new unfinished file, open and locked."""
    while True:
        part = folder / f".{uuid.uuid4().hex}{_ENDING}"
        file = part.open("xb")
        with contextlib.suppress(OSError):  # on a file system without locks, nobody takes the file for left behind
            fcntl.flock(file, fcntl.LOCK_EX)
        if part.exists():
            return part, file
        file.close()  # another server has removed it before it was locked


def remove_left(folder: Path) -> None:
    """Removes unfinished files whose process has ended.

    Raises:
        OSError: the folder cannot be listed.
    """
    for part in folder.glob(f".*{_ENDING}"):
        with contextlib.suppress(OSError), part.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if a process is writing it
            part.unlink()
