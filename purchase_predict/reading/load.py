"""Reading a source into Parquet, with every malformed row accounted for.

The quick ways read all files in one pass as if nothing were wrong, and stop at the first thing that is, or where the
rows do not add up to the files' lines: plain CSV text goes through Arrow (`csv_blocks`), the rest through DuckDB. Then
the careful way goes through the files line by line (`csv_records`), so that each refused row is found in its place. A
clean source never pays for it.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from purchase_predict.database import connect, digest_and_counts, one_row, table_digest
from purchase_predict.reading import careful, csv_blocks, rejects, scan
from purchase_predict.reading.files import File, common_table, file_of
from purchase_predict.reading.scan import Copied, Reading
from purchase_predict.schema import TABLES, Column
from purchase_predict.sources import local, sample, sources
from purchase_predict.sources.part import Part

#: Rows of a bucket, about: what a later pass holds in memory at once.
_BUCKET_ROWS = 1_000_000
_MAX_BUCKETS = 64


@dataclass(frozen=True)
class Loaded:
    """What reading a source gave: the table's name, rows read and refused, and the digest of those read."""

    table: str
    rows: int
    rejected: int
    digest: str


def load_source(
    source: str,
    target: Path,
    scratch: Path,
    max_reject_ratio: float,
    memory_limit: str = "",
    gcp_project: str = "",
    tables: Mapping[str, tuple[Column, ...]] = TABLES,
) -> Loaded:
    """Reads a source into Parquet: `target/events/bucket=*/` or `target/primary/`, with manifest and rejects beside it.

    Args:
        target: an empty folder for `events` or `primary`, `source.json` and, where rows were refused, `rejects.csv`.
        scratch: an empty folder for what does not stay.
        max_reject_ratio: the share of refused rows, 0 to 1, above which nothing is loaded.
        memory_limit: what DuckDB may take, as `2GB`; empty: a quarter of the machine's memory.
        gcp_project: the Google Cloud project to read as; empty: that of the credentials.
        tables: the columns that are read, of each table that the source may hold.

    Raises:
        click.ClickException: the source cannot be read, is none of the two tables, or has too many malformed rows.
    """
    events = sources.sample_events(source)
    folder = scratch / "parts"
    folder.mkdir()
    if events is not None:
        sample.write(folder / "sample.parquet", events)
        parts = [local.local_part(folder / "sample.parquet", "sample.parquet")]
    else:
        parts = sources.parts(source, gcp_project)
    paths = sources.fetch(parts, folder, gcp_project)
    with connect(scratch, memory_limit) as connection:
        found = [
            file
            for number, part in enumerate(parts)
            if (file := file_of(connection, number, part, paths[number], tables)) is not None
        ]
        if not found:
            raise click.ClickException(f"source {source}: {parts[0].name}: empty file, a header is expected")
        table = common_table(found, tables)
        _say_ignored(found, table, tables[table])
        rejects.create_table(connection)
        reading = Reading(connection, source, table, tables[table], tuple(found), _bucket_count(found, table), scratch)
        copied = _in_blocks(reading) or scan.in_one_scan(reading) or careful.carefully(reading)
        return _kept(reading, copied, parts, target, max_reject_ratio)


def _kept(reading: Reading, copied: Copied, parts: Sequence[Part], target: Path, max_reject_ratio: float) -> Loaded:
    counts = rejects.counts(reading.connection)
    rows, rejected, total = copied.rows, sum(counts.values()), sum(copied.records.values())
    if rows + rejected != total:
        raise click.ClickException(
            f"source {reading.source}: {total} rows are there, but {rows} were read and {rejected} refused: nothing "
            "was loaded, because rows would be lost"
        )
    if rejected > max_reject_ratio * total:
        raise click.ClickException(rejects.too_many(reading.connection, parts, rejected, total, max_reject_ratio))
    if not rows:
        raise click.ClickException(f"source {reading.source}: {len(parts)} file(s), not one row in them")
    digest = copied.digest or table_digest(reading.connection, scan.kept(reading.written))
    _move(reading, target)
    _write_manifest(reading, copied, parts, counts, digest, target)
    if rejected:
        rejects.write(reading.connection, parts, target / "rejects.csv")
    return Loaded(reading.table, rows, rejected, digest)


def _say_ignored(files: Sequence[File], table: str, columns: Sequence[Column]) -> None:
    known = {column.name for column in columns}
    extra = list(dict.fromkeys(name for file in files for name in file.columns if name not in known))
    if extra:
        more = f" and {len(extra) - 20} more" if len(extra) > 20 else ""
        click.echo(f"load: ignored, because no column of the {table} table: {', '.join(extra[:20])}{more}")


def _bucket_count(files: Sequence[File], table: str) -> int:
    rows = sum(file.part.size // _row_bytes(file) for file in files)
    return min(_MAX_BUCKETS, max(1, rows // _BUCKET_ROWS)) if table == "events" else 1


def _row_bytes(file: File) -> int:
    # 130 bytes is what a click event takes as CSV; gzip shrinks it to about 20, Parquet to about 30.
    return 130 if file.path.suffix == ".csv" else 20


def _in_blocks(reading: Reading) -> Copied | None:
    """Reads CSV files with Arrow; None where there are others, or anything is wrong or doubtful with them."""
    if any(file.path.suffix != ".csv" for file in reading.files):
        return None  # DuckDB unpacks several files at the same time
    files = {file.path: file.columns for file in reading.files}
    types = {column.name: column.type for column in reading.columns}
    (threads,) = one_row(reading.connection, "SELECT current_setting('threads')")
    for session in ("UUID", "VARCHAR"):
        shutil.rmtree(reading.written, ignore_errors=True)
        try:
            counted = csv_blocks.copy(
                files, types, ["user_session"], session == "UUID", "user_id", reading.buckets, reading.written, threads
            )
            break
        except csv_blocks.NotPlain:
            return None
        except csv_blocks.NotUuids:
            continue
    records = {file.number: count for file, count in zip(reading.files, counted, strict=True)}
    if not any(counted):
        return Copied(0, records, session)
    broken = " OR ".join(filter(None, map(scan.breaks_rule, reading.columns)))
    digest, rows, refused = digest_and_counts(reading.connection, scan.kept(reading.written), broken)
    if refused or rows != sum(counted):
        return None
    return Copied(rows, records, session, digest)


def _move(reading: Reading, target: Path) -> None:
    kept = target / reading.table
    if reading.table == "events":
        shutil.move(reading.written, kept)
        return
    kept.mkdir()
    for number, file in enumerate(sorted(reading.written.rglob("*.parquet"))):
        shutil.move(file, kept / f"part-{number}.parquet")


def _write_manifest(
    reading: Reading, copied: Copied, parts: Sequence[Part], rejected: Mapping[int, int], digest: str, target: Path
) -> None:
    manifest = {
        "source": reading.source,
        "table": reading.table,
        "rows": copied.rows,
        "rejected": sum(rejected.values()),
        "rows_there": sum(copied.records.values()),
        "digest": digest,
        # How the files hold `user_session`: who reads them with Spark, which has no type UUID, must know.
        "session_type": copied.session_type,
        "parts": [
            part.described()
            | {"rows": copied.records.get(number, 0) - rejected.get(number, 0), "rejected": rejected.get(number, 0)}
            for number, part in enumerate(parts)
        ],
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (target / "source.json").write_text(text, encoding="utf-8", errors="replace")
