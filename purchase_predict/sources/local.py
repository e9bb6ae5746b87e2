"""Local files, folders and globs as the parts of a source."""

import functools
import glob
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click
import xxhash

from purchase_predict.sources.part import Part, is_data


def local_parts(source: str) -> list[Part]:
    """The data files of a local file, folder or glob, in any order.

    Raises:
        click.ClickException: nothing is there, or a file cannot be read.
    """
    root = Path(source)
    if source.startswith("file://"):
        root = Path(url2pathname(urlsplit(source).path))
    root = root.expanduser()
    if root.is_file():
        files = [(root.name, root)]
    elif root.is_dir():
        files = [(path.relative_to(root).as_posix(), path) for path in root.rglob("*")]
    elif glob.has_magic(str(root)):
        fixed = next(parent for parent in root.parents if not glob.has_magic(str(parent)))
        matched = fixed.glob(str(root.relative_to(fixed)))
        files = [(path.relative_to(fixed).as_posix(), path) for path in matched]
    elif "://" in source:
        raise click.ClickException(f"source {source}: must be sample, gs://, or a local file, folder or glob")
    else:
        hint = "" if root.is_absolute() else f" (looked for in {Path.cwd()}; an absolute path works from anywhere)"
        raise click.ClickException(f"source {source}: no such file or folder{hint}")
    data = [(path, name) for name, path in files if path.is_file() and is_data(name)]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda file: local_part(*file), data))


def local_part(path: Path, name: str) -> Part:
    """The file at `path` as a part of a source, called `name` in lists and errors.

    Raises:
        click.ClickException: the file cannot be read.
    """
    try:
        status = path.stat()
        digest = _hashed(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError as error:
        raise click.ClickException(f"{name}: cannot be read: {error.strerror}: {path}") from error
    return Part(name, status.st_size, f"xxh3_128:{digest}", path)


@functools.lru_cache(maxsize=100_000)
def _hashed(path: Path, *_state: int) -> str:
    # Cached, because a step needs the digest twice: for its key, and when it reads. A changed file has another state
    # (size, time, inode), and so is hashed again.
    # XXH3 takes a third of SHA-256's time, which every run would spend on a local source, even when all steps are
    # reused. Its 128 bits are enough against chance.
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
