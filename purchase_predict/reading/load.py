"""Reads a source into Parquet. Every row is either loaded, or refused with its file, line and reason.

Up to three ways of reading are tried, the quickest first (`ways`). Afterwards, rows read and rows refused must add up
to the rows in the files.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import duckdb

from purchase_predict.checksums import crc32_below
from purchase_predict.database import connect, quoted, table_digest
from purchase_predict.errors import print_line, some_of
from purchase_predict.parameters import ON_HADOOP
from purchase_predict.progress import phase
from purchase_predict.reading import manifest, partitions, rejects, scan, ways
from purchase_predict.reading.files import File, common_table, open_file
from purchase_predict.reading.manifest import Account
from purchase_predict.reading.scan import Copied, Reading
from purchase_predict.schema import TABLES, Column
from purchase_predict.sources import local, sample, sources
from purchase_predict.sources.listing import Listing
from purchase_predict.sources.part import Part

#: Events in a bucket, roughly; more if `_MAX_BUCKETS` is reached. In `process`, each thread holds one bucket in memory.
_BUCKET_ROWS = 1_000_000
_MAX_BUCKETS = 64
#: Bytes of an event, roughly: in a CSV file, and in a packed file. Gzipped CSV has about 20 and Parquet about 30 bytes
#: per event; 20 is used for both.
_CSV_EVENT, _PACKED_EVENT = 130, 20
#: The largest number of ignored columns, or of skipped files, that a message names.
_NAMED = 20


@dataclass(frozen=True)
class Loaded:
    """What was loaded.

    Attributes:
        table: the table's name.
        rows: the number of rows read.
        rejected: the number of rows refused.
        digest: the digest of the rows read.
        source_digest: the fingerprint of the files that were read (see `sources.fingerprint`). `==` ignores this field,
            because the same rows may come from other files.
    """

    table: str
    rows: int
    rejected: int
    digest: str
    source_digest: str = field(compare=False)


def load_source(
    source: str,
    target: Path,
    scratch: Path,
    max_reject_ratio: float,
    memory_limit: str = "",
    gcp_project: str = "",
    tables: Mapping[str, tuple[Column, ...]] = TABLES,
    may_be_empty: bool = False,
) -> Loaded:
    """Loads a source as Parquet: `target/events/bucket=*/` or `target/primary/`, with manifest and rejects beside it.

    Args:
        source: `sample`, `sample:<events>`, `gs://...`, or a local file, folder or glob.
        target: an empty folder; gets `events` or `primary`, `source.json`, and `rejects.csv` if rows were refused.
        scratch: an empty folder for temporary files.
        max_reject_ratio: the share of refused rows, 0 to 1, above which nothing is loaded.
        memory_limit: DuckDB's memory, such as `2GB`; empty: a quarter of the machine's memory.
        gcp_project: the Google Cloud project to use; empty: that of the credentials.
        tables: the tables that the source may hold, and the columns to read of each.
        may_be_empty: whether a source with a header but no rows is loaded as an empty table; otherwise such a source is
            an error.

    Raises:
        click.ClickException: the source cannot be read, changed while it was read, holds none of the tables, has no
            rows, or has too many malformed rows.
    """
    if ON_HADOOP.match(source):
        raise click.ClickException(
            f"source {source}: only the step load with engine=spark reads this address; use gs:// or a local copy"
        )
    events = sources.sample_events(source)
    folder = scratch / "parts"
    folder.mkdir()
    if events is not None:
        with phase(f"making {events:,} events"):
            sample.write(folder / "sample.parquet", events)
        listed = Listing((local.local_part(folder / "sample.parquet", "sample.parquet"),), ())
        digest = sources.sample_digest(events)
    else:
        listed = sources.listing(source, gcp_project)
        digest = sources.content_digest(listed)
        print_left_out(listed)
    paths = sources.fetch(listed.parts, folder, gcp_project)
    with connect(scratch, memory_limit) as connection:
        reading = _opened(connection, source, listed.parts, paths, scratch, tables)
        copied = ways.read(reading)
        if events is None:
            with phase("checking whether the source has changed"):
                sources.check_unchanged(source, listed, gcp_project)
        if may_be_empty and not any(copied.records.values()):
            _write_no_rows(reading)
        return _kept(reading, copied, listed, target, max_reject_ratio, digest)


def _opened(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    parts: Sequence[Part],
    paths: Sequence[Path],
    scratch: Path,
    tables: Mapping[str, tuple[Column, ...]],
) -> Reading:
    """Finds out which table the files hold, prints the ignored columns, and creates the empty table `rejects`."""
    opened = (
        open_file(connection, number, part, path, tables)
        for number, (part, path) in enumerate(zip(parts, paths, strict=True))
    )
    files = tuple(file for file in opened if file is not None)
    if not files:
        raise click.ClickException(f"source {source}: {parts[0].name} is empty; a header is expected")
    table = common_table(files, tables)
    there = {name for file in files for name in file.known}
    columns = tuple(column for column in tables[table] if not column.optional or column.name in there)
    print_ignored(ignored(files, columns), table)
    rejects.create_table(connection)
    buckets = bucket_count([file.part for file in files]) if table == "events" else 1
    return Reading(connection, source, table, columns, files, buckets, scratch)


def print_left_out(listed: Listing) -> None:
    """Prints what was skipped, if anything: hidden files, files that hold no table, links to files that are read."""
    if listed.left_out:
        named = some_of(listed.left_out, _NAMED)
        print_line(f"load: skipped hidden files and files that hold no table: {named}")
    if listed.linked:
        named = some_of([str(link) for link in listed.linked], _NAMED)
        print_line(f"load: skipped links to files that are read under another name: {named}")


def ignored(files: Sequence[File], columns: Sequence[Column]) -> list[str]:
    """The names of columns that are in the files or in folder names but not in `columns`; each name once."""
    known = {column.name for column in columns}
    there = (name for file in files for name in (*file.columns, *file.dropped, *partitions.names_in(file.part.name)))
    return list(dict.fromkeys(name for name in there if name not in known))


def print_ignored(names: Sequence[str], table: str) -> None:
    """Prints the columns that are not read, if there are any."""
    if names:
        named = [name if name.strip() else f'"{name}"' for name in names]
        print_line(f"load: ignored columns that the {table} table does not have: {some_of(named, _NAMED)}")


def bucket_count(parts: Sequence[Part]) -> int:
    """The number of buckets for the events of these parts, 1 to `_MAX_BUCKETS`, estimated from the parts' sizes."""
    events = sum(part.size // (_CSV_EVENT if part.ending == ".csv" else _PACKED_EVENT) for part in parts)
    return min(_MAX_BUCKETS, max(1, events // _BUCKET_ROWS))


def _write_no_rows(reading: Reading) -> None:
    shutil.rmtree(reading.written, ignore_errors=True)
    (folder := reading.written / "bucket=0").mkdir(parents=True)
    columns = ", ".join(f"NULL::{column.type} AS {column.name}" for column in reading.columns)
    file = quoted(folder / "rows.parquet")
    reading.connection.execute(f"COPY (SELECT {columns} WHERE false) TO {file} (FORMAT parquet)")


def _kept(
    reading: Reading, copied: Copied, listed: Listing, target: Path, max_reject_ratio: float, source_digest: str
) -> Loaded:
    """Checks that no row is lost and not too many are refused; then fills `target`."""
    connection = reading.connection
    refused = rejects.counts(connection)
    account = Account(reading.source, reading.table, listed, copied.rows, copied.records, refused, copied.session_type)
    account.check(max_reject_ratio, lambda: rejects.frequent(connection))
    if not copied.rows and not any(reading.written.rglob("*.parquet")):
        raise account.without_rows(lambda: rejects.frequent(connection))
    with phase("checking what was read"):
        written = scan.parquet_below(reading.written)
        digest = copied.sums.digest if copied.sums else table_digest(connection, written)
    _move_rows(reading, target / reading.table)
    manifest.write(account, digest, rejects.reasons(connection), crc32_below(target / reading.table), target)
    if account.rejected:
        rejects.write(connection, listed.parts, target / "rejects.csv")
    return Loaded(reading.table, copied.rows, account.rejected, digest, source_digest)


def _move_rows(reading: Reading, folder: Path) -> None:
    if reading.table == "events":
        shutil.move(reading.written, folder)
        return
    folder.mkdir()
    for number, file in enumerate(sorted(reading.written.rglob("*.parquet"))):
        shutil.move(file, folder / f"part-{number}.parquet")
