"""Reading a source into Parquet, so that every row is either loaded or refused, with file, line and reason.

Three ways are tried, the quickest first:

1. Arrow, block by block (`csv_blocks`): only for plain CSV text that is not gzipped.
2. One scan by DuckDB (`scan`): for CSV, gzipped CSV and Parquet.
3. Line by line (`careful`): for sources with malformed rows or doubtful lines.

The first two write all rows of the source or step aside, so a clean source never pays for the third. In the end, rows
read and rows refused must add up to the rows in the files.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import duckdb

from purchase_predict.database import connect, digest_and_counts, one_row, quoted, table_digest
from purchase_predict.errors import printable, some_of
from purchase_predict.progress import Phase, phase
from purchase_predict.reading import careful, csv_blocks, manifest, plain, rejects, scan
from purchase_predict.reading.files import File, common_table, open_file
from purchase_predict.reading.scan import Copied, Reading
from purchase_predict.schema import TABLES, Column
from purchase_predict.sources import local, sample, sources
from purchase_predict.sources.listing import Listing
from purchase_predict.sources.part import Part

#: Events in a bucket, roughly: the number that a later step holds in memory at once.
_BUCKET_ROWS = 1_000_000
_MAX_BUCKETS = 64
#: Bytes of an event in a CSV file, and in a gzipped CSV (about 20) or Parquet file (about 30).
_CSV_EVENT, _PACKED_EVENT = 130, 20
#: Ignored columns, and files left out, that a message names.
_NAMED = 20


@dataclass(frozen=True)
class Loaded:
    """What was loaded.

    Attributes:
        table: the table's name.
        rows: rows read; `rejected` are those refused.
        digest: of the rows read.
        source_digest: of the source, as it was read (see `sources.fingerprint`). It is not compared: the same rows may
            come in other files.
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
        may_be_empty: whether a source with a header and not one row is loaded, as a table without rows.

    Raises:
        click.ClickException: the source cannot be read, holds none of the tables, or has too many malformed rows.
    """
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
        _print_left_out(listed)
    paths = sources.fetch(listed.parts, folder, gcp_project)
    with connect(scratch, memory_limit) as connection:
        reading = _opened(connection, source, listed.parts, paths, scratch, tables)
        copied = _read(reading)
        if events is None:
            with phase("looking whether the source has changed"):
                sources.check_unchanged(source, listed, gcp_project)
        if may_be_empty and not any(copied.records.values()):
            _write_no_rows(reading)
        return _kept(reading, copied, listed, target, max_reject_ratio, digest)


def _read(reading: Reading) -> Copied:
    """Copies the rows in the quickest way that takes the source, and shows how far each way is."""
    size = sum(file.part.size for file in reading.files)
    with phase("reading", size, "MB") as shown:
        copied = _in_blocks(reading, shown)
    if copied is None:
        with phase("reading", 100, "%", poll=reading.connection.query_progress):
            copied = scan.in_one_scan(reading)
    if copied is None:
        with phase("reading line by line", size, "MB") as shown:
            copied = careful.line_by_line(reading, shown)
    return copied


def _opened(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    parts: Sequence[Part],
    paths: Sequence[Path],
    scratch: Path,
    tables: Mapping[str, tuple[Column, ...]],
) -> Reading:
    """Finds out which table the files hold, and prints the columns that are ignored."""
    opened = (
        open_file(connection, number, part, path, tables)
        for number, (part, path) in enumerate(zip(parts, paths, strict=True))
    )
    files = tuple(file for file in opened if file is not None)
    if not files:
        raise click.ClickException(f"source {source}: {parts[0].name}: empty file, a header is expected")
    table = common_table(files, tables)
    there = {name for file in files for name in file.known}
    columns = tuple(column for column in tables[table] if not column.optional or column.name in there)
    _print_ignored(files, table, columns)
    rejects.create_table(connection)
    return Reading(connection, source, table, columns, files, _bucket_count(files, table), scratch)


def _print_left_out(listed: Listing) -> None:
    if listed.left_out:
        named = printable(some_of(listed.left_out, _NAMED))
        click.echo(f"load: left out, because no data file by the name: {named}")


def _print_ignored(files: Sequence[File], table: str, columns: Sequence[Column]) -> None:
    known = {column.name for column in columns}
    extra = list(dict.fromkeys(name for file in files for name in file.columns if name not in known))
    if extra:
        click.echo(f"load: ignored, because no column of the {table} table: {printable(some_of(extra, _NAMED))}")


def _bucket_count(files: Sequence[File], table: str) -> int:
    if table != "events":
        return 1
    events = sum(file.part.size // (_CSV_EVENT if file.path.suffix == ".csv" else _PACKED_EVENT) for file in files)
    return min(_MAX_BUCKETS, max(1, events // _BUCKET_ROWS))


def _in_blocks(reading: Reading, shown: Phase) -> Copied | None:
    """Copies CSV files by Arrow; None if a file is gzipped or Parquet, or anything in it is malformed or doubtful."""
    if any(file.path.suffix != ".csv" or file.partition for file in reading.files):
        return None  # DuckDB unpacks several files at the same time, and adds a partition's column
    if any(column.name not in file.known for file in reading.files for column in reading.columns):
        return None  # a file lacks an optional column that another one has
    files = {file.path: file.columns for file in reading.files}
    types = {column.name: column.type for column in reading.columns}
    (threads,) = one_row(reading.connection, "SELECT current_setting('threads')")
    for session_type in ("UUID", "VARCHAR"):
        shutil.rmtree(reading.written, ignore_errors=True)
        try:
            counted = csv_blocks.copy(
                files,
                types,
                ids=["user_session"],
                as_uuids=session_type == "UUID",
                bucket_of="user_id",
                buckets=reading.buckets,
                target=reading.written,
                threads=threads,
                read=shown.advance,
            )
            break
        except plain.NotPlain:
            return None
        except csv_blocks.NotUuids:
            continue
    records = {file.number: count for file, count in zip(reading.files, counted, strict=True)}
    if not any(counted):
        return Copied(0, records, session_type)
    broken = " OR ".join(filter(None, map(scan.breaks_rule, reading.columns)))
    with phase("checking what was read"):
        digest, rows, refused = digest_and_counts(reading.connection, scan.parquet_below(reading.written), broken)
    if refused or rows != sum(counted):
        return None
    return Copied(rows, records, session_type, digest)


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
    parts = listed.parts
    refused = rejects.counts(reading.connection)
    rows, rejected, total = copied.rows, sum(refused.values()), sum(copied.records.values())
    if rows + rejected != total:
        raise click.ClickException(
            f"source {reading.source}: {total} rows are there, but {rows} were read and {rejected} refused: nothing "
            "was loaded, because rows would be lost"
        )
    if rejected > max_reject_ratio * total:
        raise click.ClickException(rejects.too_many(reading.connection, parts, rejected, total, max_reject_ratio))
    if not rows and not any(reading.written.rglob("*.parquet")):
        raise click.ClickException(f"source {reading.source}: {len(parts)} file(s), not one row in them")
    with phase("checking what was read"):
        digest = copied.digest or table_digest(reading.connection, scan.parquet_below(reading.written))
    _move_rows(reading, target / reading.table)
    manifest.write(reading, copied, listed, refused, digest, target)
    if rejected:
        rejects.write(reading.connection, parts, target / "rejects.csv")
    return Loaded(reading.table, rows, rejected, digest, source_digest)


def _move_rows(reading: Reading, folder: Path) -> None:
    if reading.table == "events":
        shutil.move(reading.written, folder)
        return
    folder.mkdir()
    for number, file in enumerate(sorted(reading.written.rglob("*.parquet"))):
        shutil.move(file, folder / f"part-{number}.parquet")
