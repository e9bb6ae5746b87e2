"""Scratch folders: removed when their process ends, and by the next workflow if it was killed.

All temporary files of a process lie in one folder, those of MLflow and other libraries, too. The folder says whose it
is, so that another process can tell whether its owner still lives.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from purchase_predict.workflow.processes import ended_here, process_name

_PREFIX = "purchase-predict-"
#: The file in a process's folder with the name of the process.
_OWNER = ".owner"

#: The folders of this process.
_folders: list[str] = []


@contextmanager
def process_folder() -> Iterator[None]:
    """While the block runs, temporary files of this process go to a folder of its own, which is removed at the end."""
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
    """Removes the folders of this process, which must end at once."""
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
