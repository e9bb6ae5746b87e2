"""Writes files that others see only once they are complete, and removes the unfinished files of killed processes.

Until a file is complete, its name is `.<random>.unfinished`. Globs such as `*.parquet` and `*/*.parquet` do not match
this name, and readers of whole folders skip names that begin with a dot. The process that writes the file locks it. The
operating system removes the lock when the process ends. So an unfinished file without a lock was left by a process that
was killed.
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
        folder: the folder of the unfinished file; on the same file system as `target`.
        target: the path of the complete file; its folder exists.
        content: the file's content.

    Raises:
        OSError: the file cannot be written. The unfinished file is removed.
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
    """Creates an unfinished file; returns its path and the file, open and locked."""
    while True:
        part = folder / f".{uuid.uuid4().hex}{_ENDING}"
        file = part.open("xb")
        with contextlib.suppress(OSError):  # on a file system without locks, `remove_left` removes nothing
            fcntl.flock(file, fcntl.LOCK_EX)
        if part.exists():
            return part, file
        file.close()  # another server has removed the file before it was locked


def remove_left(folder: Path) -> None:
    """Removes unfinished files whose process has ended.

    Raises:
        OSError: the folder cannot be listed.
    """
    for part in folder.glob(f".*{_ENDING}"):
        with contextlib.suppress(OSError), part.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises OSError while a process writes the file
            part.unlink()
