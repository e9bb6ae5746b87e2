"""The three kinds of source behind one interface: local files, Cloud Storage, and the built-in sample.

In a folder, the data files are those with a data ending, in name order. Names that start with `_` or `.` are skipped,
such as Spark's `_SUCCESS`.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import click

from purchase_predict.sources.local import local_parts
from purchase_predict.sources.part import CLOUD, ENDINGS, Part

SAMPLE = re.compile(r"sample(?::(?P<events>\d+))?")
#: Events of the source `sample`.
SAMPLE_EVENTS = 200_000


def sample_events(source: str) -> int | None:
    """The number of events if `source` is the built-in sample (`sample` or `sample:<events>`), else None."""
    match = SAMPLE.fullmatch(source)
    return int(match["events"] or SAMPLE_EVENTS) if match else None


def parts(source: str, gcp_project: str = "") -> list[Part]:
    """The data files of a file, folder or glob, in name order; objects in `gs://` are listed, not read.

    Args:
        gcp_project: the Google Cloud project to read as; empty: that of the credentials.

    Raises:
        click.ClickException: the source is missing, holds no data file, or may not be listed.
    """
    if source.startswith(CLOUD):
        from purchase_predict.sources import cloud_storage

        found = cloud_storage.parts(source, gcp_project)
    else:
        found = local_parts(source)
    if not found:
        raise click.ClickException(f"source {source}: holds no data file ({', '.join('*' + e for e in ENDINGS)})")
    return sorted(found, key=lambda part: part.name)


def fingerprint(source: str, gcp_project: str = "") -> str:
    """SHA-256 of the source's content: the parts' names, sizes and checksums, whatever the folder's own place.

    Local files are hashed; Cloud Storage already knows its checksums, so only the listing is read.
    """
    events = sample_events(source)
    known = {"sample": events} if events is not None else [part.described() for part in parts(source, gcp_project)]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def fetch(found: Sequence[Part], folder: Path, gcp_project: str = "") -> list[Path]:
    """Puts the parts into `folder` under numbered names: local files as links, objects as checked downloads.

    The parts' own names could lead out of the folder, or mean a glob or a partition to a reader.

    Returns:
        The path of each part.

    Raises:
        click.ClickException: a part cannot be read, or differs from the listing.
    """
    paths = [folder / f"{number:06d}{part.ending}" for number, part in enumerate(found)]
    remote = [(part, path) for part, path in zip(found, paths, strict=True) if isinstance(part.place, tuple)]
    for part, path in zip(found, paths, strict=True):
        if isinstance(part.place, Path):
            path.symlink_to(part.place.resolve())
    if remote:
        from purchase_predict.sources import cloud_download

        cloud_download.download(remote, gcp_project)
    return paths
