"""One interface to all kinds of source: local files, Cloud Storage, file systems only Spark can reach, the sample.

In a folder, the files with a data ending (`names.ENDINGS`) are read in name order, except hidden files. `names` decides
which other files are left out, and which are an error because they may hold a table.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import click

from purchase_predict.errors import some_of
from purchase_predict.parameters import ON_HADOOP
from purchase_predict.sources.listing import Listing
from purchase_predict.sources.local import local_listing, reads
from purchase_predict.sources.part import CLOUD, Part

#: The names of the built-in sample as a source.
SAMPLE = re.compile(r"sample(?::(?P<events>[0-9]{1,15}))?")
#: The number of events of `sample`, and the largest number for `sample:<events>`. This number is limited because the
#: events are made in memory.
SAMPLE_EVENTS, _MOST_EVENTS = 200_000, 50_000_000


def sample_events(source: str) -> int | None:
    """The number of events if `source` is the built-in sample (`sample` or `sample:<events>`), else None.

    Raises:
        click.ClickException: the number is not between 1 and 50,000,000.
    """
    match = SAMPLE.fullmatch(source)
    if match is None:
        return None
    events = int(match["events"] or SAMPLE_EVENTS)
    if not 1 <= events <= _MOST_EVENTS:
        raise click.ClickException(f"source {source}: the built-in sample can have 1 to {_MOST_EVENTS:,} events")
    return events


def listing(source: str, gcp_project: str = "") -> Listing:
    """Lists a file, folder or glob. Local files are read for their checksum; no other files are read.

    Args:
        source: any source except the sample.
        gcp_project: the Google Cloud project to use; empty: that of the credentials.

    Raises:
        click.ClickException: the source is missing, cannot be read, has no data file, or has a table in a format that
            is not read.
    """
    if source.startswith(CLOUD):
        from purchase_predict.sources import cloud_storage

        return cloud_storage.listing(source, gcp_project)
    if ON_HADOOP.match(source):
        from purchase_predict.sources import hadoop

        return hadoop.listing(source)
    return local_listing(source)


def check_unchanged(source: str, before: Listing, gcp_project: str = "") -> None:
    """Checks that a source has not changed while its parts were read, by listing it again.

    Raises:
        click.ClickException: a part was added, removed or written to, so the rows that were read may be neither the old
            nor the new content; or the source can no longer be listed.
    """
    after = listing(source, gcp_project)
    if after.parts != before.parts:
        differing = sorted(part.name for part in set(before.parts) ^ set(after.parts))
        raise changed(source, some_of(list(dict.fromkeys(differing)), 3))


def refuse_output(source: str, output: Path) -> None:
    """Refuses an output file that is, or would become, part of the source from which the output is computed.

    Args:
        source: the source that is read.
        output: the absolute path of the local file to be written.

    Raises:
        click.ClickException: the output is, or would become, part of the source.
    """
    if (
        not source.startswith(CLOUD)
        and not ON_HADOOP.match(source)
        and sample_events(source) is None
        and reads(source, output)
    ):
        raise click.ClickException(
            f"output {output}: is part of the input {source}, or would become part of it; choose another place"
        )


def changed(source: str, what: str) -> click.ClickException:
    """The error for a source that somebody writes to while it is read."""
    return click.ClickException(
        f"source {source}: {what} changed while the source was read, so nothing is kept: try again when nobody writes "
        "to the source"
    )


def fingerprint(source: str, gcp_project: str = "") -> str:
    """SHA-256 of the description of a source's parts (`Part.described`), or of the sample's number of events.

    Local files are read for their checksum. Other sources are only listed.

    Raises:
        click.ClickException: the source cannot be listed (`listing`), or the sample's number of events is out of range
            (`sample_events`).
    """
    events = sample_events(source)
    return sample_digest(events) if events is not None else content_digest(listing(source, gcp_project))


def sample_digest(events: int) -> str:
    """The fingerprint of the built-in sample."""
    return _digest({"sample": events})


def content_digest(listed: Listing) -> str:
    """The fingerprint of a source that was listed."""
    return _digest([part.described() for part in listed.parts])


def _digest(known: object) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def fetch(found: Sequence[Part], folder: Path, gcp_project: str = "") -> list[Path]:
    """Puts the parts into `folder` under numbered names: local files as links, objects as checked downloads.

    The parts' own names are not used: they could lead out of the folder, or a reader could take them for a glob or a
    partition. Parts that only Spark can reach are not fetched.

    Returns:
        The path of each part.

    Raises:
        click.ClickException: an object cannot be downloaded, or differs from the listing.
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
