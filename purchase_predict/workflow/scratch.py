"""Scratch folders: removed when their process ends, or by the next workflow if the process was killed.

All temporary files of a process are in one folder, including those of MLflow and other libraries. A file in it names
the owner, so that another process can tell whether the owner still runs. An incomplete file that has to be beside the
complete one has its owner in its name.
"""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from purchase_predict.workflow.processes import ended_here, process_name

_PREFIX = "purchase-predict-"
#: The file in a process's folder with the name of the process.
_OWNER = ".owner"

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
    for owner in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        try:
            orphan = ended_here(owner.read_text())
        except (OSError, ValueError):  # another user's, or removed meanwhile
            continue
        if orphan:
            shutil.rmtree(owner.parent, ignore_errors=True)


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
