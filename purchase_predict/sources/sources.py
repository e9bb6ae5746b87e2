"""Where data comes from: local files, Cloud Storage, and the built-in sample; listing, fingerprint, fetching.

A folder is read as a Spark job leaves it: data files by their ending, in name order; names that start with `_` or `.`,
as `_SUCCESS`, are no data.
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
SAMPLE_EVENTS = 200_000


def sample_events(source: str) -> int | None:
    """How many events the built-in sample is asked for, or None where `source` is a place."""
    match = SAMPLE.fullmatch(source)
    return int(match["events"] or SAMPLE_EVENTS) if match else None


def parts(source: str, gcp_project: str = "") -> list[Part]:
    """The data files of a file, folder or glob, in name order; `gs://` is listed, not read.

    Args:
        gcp_project: the Google Cloud project to read as; empty: that of the credentials.

    Raises:
        click.ClickException: nothing is there, nothing that is data, or it may not be listed.
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
        from purchase_predict.sources import cloud_download

        cloud_download.download(remote, gcp_project)
    return paths
