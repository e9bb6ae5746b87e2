"""Where data comes from: local files, Cloud Storage, and the built-in sample; listing, fingerprint, fetching.

A folder is read as a Spark job leaves it: data files by their ending, in name order; names that start with `_` or `.`,
as `_SUCCESS`, are no data.
"""

import functools
import glob
import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click
import xxhash

SAMPLE = re.compile(r"sample(?::(?P<events>\d+))?")
SAMPLE_EVENTS = 200_000
CLOUD = "gs://"
ENDINGS = (".csv", ".csv.gz", ".parquet")
#: A name or a folder that starts with `_` or `.`, though `..` is a place.
_HIDDEN = re.compile(r"(^|/)(_|\.(?!\.?/))")


@dataclass(frozen=True)
class Part:
    """One file or object of a source.

    Attributes:
        name: its name relative to the source, as lists and errors show it. Never a path to write to.
        size: bytes.
        checksum: of its content, with the method in front: `xxh3_128:<hex>` or `crc32c:<base64>`.
        place: the path of a local file; bucket and object name of one in Cloud Storage.
        generation: Cloud Storage's number of this content of the object.
        gzipped: the object is stored compressed, whatever its name says.
    """

    name: str
    size: int
    checksum: str
    place: Path | tuple[str, str]
    generation: int | None = None
    gzipped: bool = False

    @property
    def ending(self) -> str:
        """What a local copy's name must end with."""
        ending = next(ending for ending in (".csv.gz", *ENDINGS) if self.name.lower().endswith(ending))
        return ".csv.gz" if self.gzipped and ending == ".csv" else ending

    def described(self) -> dict[str, Any]:
        """What the store knows of it, without its place: so a copy elsewhere is the same source."""
        known = {"name": self.name, "size": self.size, "checksum": self.checksum}
        return known if self.generation is None else known | {"generation": self.generation}


def sample_events(source: str) -> int | None:
    """How many events the built-in sample is asked for, or None where `source` is a place."""
    match = SAMPLE.fullmatch(source)
    return int(match["events"] or SAMPLE_EVENTS) if match else None


def is_data(name: str) -> bool:
    """Whether a file or object of this name, relative to its source, is data."""
    return name.lower().endswith(ENDINGS) and not _HIDDEN.search(name)


def parts(source: str, gcp_project: str = "") -> list[Part]:
    """The data files of a file, folder or glob, in name order; `gs://` is listed, not read.

    Args:
        gcp_project: the Google Cloud project to read as; empty: that of the credentials.

    Raises:
        click.ClickException: nothing is there, nothing that is data, or it may not be listed.
    """
    if source.startswith(CLOUD):
        from purchase_predict import cloud_storage

        found = cloud_storage.parts(source, gcp_project)
    else:
        found = _local_parts(source)
    if not found:
        raise click.ClickException(f"source {source}: holds no data file ({', '.join('*' + e for e in ENDINGS)})")
    return sorted(found, key=lambda part: part.name)


def fingerprint(source: str, gcp_project: str = "") -> str:
    """The digest of the source's content as the store knows it: names, sizes, checksums, not the folder's own place.

    Of Cloud Storage only the listing is read.
    """
    events = sample_events(source)
    known = {"sample": events} if events is not None else [part.described() for part in parts(source, gcp_project)]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def fetch(found: Sequence[Part], folder: Path, gcp_project: str = "") -> list[Path]:
    """Puts the parts into `folder` under names of our own: local files as links, objects as checked downloads.

    A file's or object's name decides nothing about where it is written, nor what a reader makes of it.

    Returns:
        The path of each part.

    Raises:
        click.ClickException: a part cannot be read, or differs from what the listing said.
    """
    paths = [folder / f"{number:06d}{part.ending}" for number, part in enumerate(found)]
    remote = [(part, path) for part, path in zip(found, paths, strict=True) if isinstance(part.place, tuple)]
    for part, path in zip(found, paths, strict=True):
        if isinstance(part.place, Path):
            path.symlink_to(part.place.resolve())
    if remote:
        from purchase_predict import cloud_storage

        cloud_storage.download(remote, gcp_project)
    return paths


def _local_parts(source: str) -> list[Part]:
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
    """The file at `path` as a part of a source."""
    try:
        status = path.stat()
        digest = _hashed(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError as error:
        raise click.ClickException(f"{name}: cannot be read: {error.strerror}: {path}") from error
    return Part(name, status.st_size, f"xxh3_128:{digest}", path)


@functools.lru_cache(maxsize=100_000)
def _hashed(path: Path, *_state: int) -> str:
    # A step asks twice: for its key and when it reads. A file that has changed in between has another state.
    # XXH3 has 128 bits that no two files share by chance, in a third of the time of SHA-256, which main and load would
    # pay of every local source, a reused one too.
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
