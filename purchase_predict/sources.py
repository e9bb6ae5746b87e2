"""Where data comes from: listing, and the fingerprint of what is there."""

import glob
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import click

SAMPLE = re.compile(r"sample(?::(?P<events>\d+))?")
SAMPLE_EVENTS = 200_000
_ENDINGS = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class Part:
    """One file of a source: its name relative to the source, bytes, and the SHA-256 of its content."""

    name: str
    size: int
    sha256: str
    path: Path


def sample_events(source: str) -> int | None:
    """How many events the built-in sample is asked for, or None where `source` is a place."""
    match = SAMPLE.fullmatch(source)
    return int(match["events"] or SAMPLE_EVENTS) if match else None


def parts(source: str) -> list[Part]:
    """The data files of a local file, folder or glob, in name order.

    Names that start with `_` or `.`, as `_SUCCESS`, are no data.

    Raises:
        click.ClickException: nothing is there, or nothing that is data.
    """
    root = Path(source.removeprefix("file://")).expanduser()
    if root.is_file():
        files = [(root.name, root)]
    elif root.is_dir():
        files = [(path.relative_to(root).as_posix(), path) for path in root.rglob("*")]
    elif glob.has_magic(str(root)):
        fixed = next(parent for parent in root.parents if not glob.has_magic(str(parent)))
        found = fixed.glob(str(root.relative_to(fixed)))
        files = [(path.relative_to(fixed).as_posix(), path) for path in found]
    elif "://" in source:
        raise click.ClickException(f"source {source}: must be sample, or a local file, folder or glob")
    else:
        hint = "" if root.is_absolute() else f" (looked for in {Path.cwd()}; an absolute path works from anywhere)"
        raise click.ClickException(f"source {source}: no such file or folder{hint}")
    files = [
        (name, path)
        for name, path in sorted(files)
        if path.is_file() and name.endswith(_ENDINGS) and not re.search(r"(^|/)[._]", name)
    ]
    if not files:
        raise click.ClickException(f"source {source}: holds no data file ({', '.join('*' + e for e in _ENDINGS)})")
    return [part(path, name) for name, path in files]


def part(path: Path, name: str) -> Part:
    """The file at `path` as a part of a source."""
    with path.open("rb") as file:
        return Part(name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest(), path)


def fingerprint(source: str) -> str:
    """The digest of the source's content as the store knows it: names, sizes, checksums, not the folder's own place."""
    events = sample_events(source)
    known = {"sample": events} if events is not None else [(p.name, p.size, p.sha256) for p in parts(source)]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
