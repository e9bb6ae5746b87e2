"""Scratch folders: removed when their process ends, or by the next workflow if the process was killed.

All temporary files of a process are in one folder, including those of MLflow and other libraries. A file in it names
the owner, so that another process can tell whether the owner still runs. An incomplete file that has to be beside the
complete one has its owner in its name.
"""

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from purchase_predict.workflow.processes import ended_here, process_name

_PREFIX = "purchase-predict-"
#: The file in a process's folder with the name of the process.
_OWNER = ".owner"
#: An empty folder without the name of its process is removed after this many seconds: the process was killed between
#: making the folder and writing the name, which takes far less.
_UNNAMED_SECONDS = 3600

#: The end of the name of an incomplete file, and how many characters of the complete file's name it starts with: with
#: the owner, the name must fit in 255 bytes.
_INCOMPLETE, _NAME_START = ".partial", 40

#: The folders of this process.
_folders: list[str] = []


@contextmanager
def process_folder() -> Iterator[None]:
    """Puts temporary files of this process into a folder of its own while the block runs, then removes the folder."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        _folders.append(folder)
        (Path(folder) / _OWNER).write_text(process_name(os.getpid()))
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new empty folder, removed at the end of the block or of the process."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def remove_all() -> None:
    """Removes the folders of this process, for an exit that skips cleanup."""
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)


def remove_orphans() -> None:
    """Removes the folders of processes of this machine that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder / _OWNER
        with suppress(OSError, ValueError):  # another user's, no folder of ours, or removed meanwhile
            name = owner.read_text() if owner.exists() else ""
            if name and ended_here(name):
                shutil.rmtree(folder, ignore_errors=True)
            elif not name and time.time() - folder.stat().st_mtime > _UNNAMED_SECONDS:
                owner.unlink(missing_ok=True)
                folder.rmdir()  # fails if there is anything else in it


def incomplete(target: Path) -> Path:
    """The path beside `target` where this process writes it until it is complete.

    Removes the incomplete files of `target` that processes of this machine left when they were killed.
    """
    start = f".{target.name[:_NAME_START]}."
    with suppress(OSError):  # a folder that cannot be read
        for file in list(target.parent.glob(f"{glob.escape(start)}*{_INCOMPLETE}")):
            if ended_here(unquote(file.name.removeprefix(start).removesuffix(_INCOMPLETE))):
                with suppress(OSError):  # another user's, or removed meanwhile
                    file.unlink()
    return target.with_name(f"{start}{quote(process_name(os.getpid()), safe='')}{_INCOMPLETE}")
