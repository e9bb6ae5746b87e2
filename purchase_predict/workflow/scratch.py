"""Scratch folders: removed when their process ends, or by the next workflow if the process was killed.

All temporary files of a process are in one folder, including those of MLflow and other libraries. The file `.owner` in
this folder names the process, so that other processes can tell whether it still runs. An output file is written in its
final folder; while the file is incomplete, its name contains the name of the process.
"""

import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from purchase_predict.workflow.processes import ended_here, process_name

#: Start of the names of all scratch folders.
_PREFIX = "purchase-predict-"
#: The file in a process's folder with the name of the process.
_OWNER = ".owner"
#: A scratch folder without a process name in `_OWNER` is removed after this many seconds, if it holds no other file. A
#: process makes its folder and then writes `_OWNER`. Such a folder is left if the process is killed between the two.
_UNNAMED_SECONDS = 3600

#: The name of an incomplete file: the first `_NAME_START` characters of the complete file's name, then the name of the
#: process and `_DIGEST` characters of a digest of the complete file's name, then `_INCOMPLETE`. File systems limit the
#: whole name to 255 bytes.
_INCOMPLETE, _NAME_START, _DIGEST = ".partial", 40, 6

#: The folders that `process_folder` has made in this process.
_folders: list[str] = []


@contextmanager
def process_folder() -> Iterator[None]:
    """Makes a folder for all temporary files of this process, and removes it at the end of the block."""
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
    """Makes an empty folder, and removes it at the end of the block."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def remove_all() -> None:
    """Removes the folders of this process. Call this before `os._exit`, which runs no cleanup."""
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)


def remove_orphans() -> None:
    """Removes the scratch folders of this machine whose process was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder / _OWNER
        with suppress(OSError, ValueError):  # another user's folder, not a scratch folder, or removed meanwhile
            name = owner.read_text() if owner.exists() else ""
            if name and ended_here(name):
                shutil.rmtree(folder, ignore_errors=True)
            elif not name and time.time() - folder.stat().st_mtime > _UNNAMED_SECONDS:
                owner.unlink(missing_ok=True)
                folder.rmdir()  # fails if the folder holds anything else


def incomplete(target: Path) -> Path:
    """The path, in the folder of `target`, at which this process writes the file `target` until it is complete.

    Also removes incomplete files that killed processes of this machine left in this folder: those of `target`, and
    those of files whose names begin with the same `_NAME_START` characters.
    """
    start = f".{target.name[:_NAME_START]}."
    with suppress(OSError):  # a folder that cannot be read
        for file in list(target.parent.glob(f"{glob.escape(start)}*{_INCOMPLETE}")):
            if ended_here(unquote(file.name.removeprefix(start).removesuffix(_INCOMPLETE))):
                with suppress(OSError):  # another user's file, or removed meanwhile
                    file.unlink()
    # `ended_here` ignores the digest, because it is a further word after the name of the process.
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:_DIGEST]
    return target.with_name(f"{start}{quote(f'{process_name(os.getpid())} {digest}', safe='')}{_INCOMPLETE}")
