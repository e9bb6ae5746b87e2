"""A task of Spark on an executor: reads parts of a source with the project's own code and stores their rows.

The executor needs the packages of conda.yaml. The task returns its result (`task_result`) and the refused rows. Spark
may repeat a task, or start it on two machines. The task converts and writes the rows in one thread, so every attempt
writes the same bytes under the same names.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import duckdb
import pyarrow as pa

from purchase_predict import progress
from purchase_predict.checksums import checksum, crc32
from purchase_predict.database import connect, machine_memory, sums_and_count
from purchase_predict.reading import rejects, scan, ways
from purchase_predict.reading.files import common_table, open_file
from purchase_predict.reading.load import ignored
from purchase_predict.reading.scan import Reading
from purchase_predict.reading.task_result import StoredFile, TaskResult
from purchase_predict.schema import TABLES
from purchase_predict.sources import sources
from purchase_predict.sources.local import content_checksum
from purchase_predict.sources.part import Part

#: The columns that a task returns: the columns of `rejects.SCHEMA`, and `done`. One row has the task's result as JSON
#: in `done`; all other rows are refused rows, and their `done` is null.
SCHEMA = rejects.SCHEMA.append(pa.field("done", pa.string()))
#: The least memory limit of DuckDB in a task, in MiB, if the user gives no limit.
_LEAST_MEMORY = 512


@dataclass(frozen=True)
class Work:
    """What all tasks of one load have in common.

    Attributes:
        source: as the user named it.
        parts: all parts of the source. Each task reads some of them, given by their numbers.
        buckets: the number of buckets that events are spread over by user.
        session_types: the types that `user_session` may be stored as (see `scan.Reading`).
        memory_limit: DuckDB's memory limit in a task, such as `2GB`; empty: a quarter of the machine's memory,
            divided by its number of cores, but at least 512 MiB.
        gcp_project: the Google Cloud project to use; empty: that of the credentials.
        store: copies the files below a folder to the place where load keeps the rows. It may be called again with the
            same files.
    """

    source: str
    parts: tuple[Part, ...]
    buckets: int
    session_types: tuple[str, ...]
    memory_limit: str
    gcp_project: str
    store: Callable[[Path], None]


def read_parts(
    work: Work, numbers: Sequence[int], fetched: Mapping[int, Path], scratch: Path
) -> Iterator[pa.RecordBatch]:
    """Reads parts, stores their rows, and yields the task's result and the refused rows, in the columns of `SCHEMA`.

    An error for the user (click.ClickException) is returned in the result, not raised.

    Args:
        work: what all tasks have in common.
        numbers: the numbers of the parts to read, in order.
        fetched: the local files of the parts that are already on this machine, by the part's number.
        scratch: an empty folder.
    """
    memory = max(_LEAST_MEMORY, machine_memory() // 4 // 2**20 // (os.cpu_count() or 1))
    with connect(scratch, work.memory_limit or f"{memory}MiB", threads=1) as connection:
        rejects.create_table(connection)
        try:
            done = _read(work, numbers, _paths(work, numbers, fetched, scratch), connection, scratch)
        except click.ClickException as error:
            # Spark repeats a task that raises. An error for the user would most likely occur again, so it is returned.
            done = TaskResult(numbers, error=error.format_message())
            connection.execute("DELETE FROM rejects")
        row = dict.fromkeys(SCHEMA.names) | {"done": done.written()}
        yield pa.RecordBatch.from_pylist([row], SCHEMA)
        refused = connection.sql("SELECT *, NULL::VARCHAR AS done FROM rejects")
        for batch in refused.to_arrow_reader(rejects.BATCH_ROWS):
            yield batch.cast(SCHEMA)


def _paths(work: Work, numbers: Sequence[int], fetched: Mapping[int, Path], scratch: Path) -> list[Path]:
    """The local file of each part, in the order of `numbers`. Parts that are not on this machine are fetched.

    Raises:
        click.ClickException: a file cannot be read on this machine, or differs from the listing.
    """
    for number, path in fetched.items():
        if path.stat().st_size != work.parts[number].size:
            raise sources.changed(work.source, work.parts[number].name)
    (folder := scratch / "parts").mkdir()
    wanted = [number for number in numbers if number not in fetched]
    for part in (work.parts[number] for number in wanted):
        if isinstance(part.place, Path):
            _check_here(part, part.place)
    found = sources.fetch([work.parts[number] for number in wanted], folder, work.gcp_project)
    here = dict(fetched) | dict(zip(wanted, found, strict=True))
    return [here[number] for number in numbers]


def _check_here(part: Part, path: Path) -> None:
    where = f"the executor on {socket.gethostname()}"
    shared = "engine=spark reads from gs://, hdfs://, s3a:// or a disk that every machine of the cluster shares"
    try:
        same = path.stat().st_size == part.size and content_checksum(path) == part.checksum
    except OSError as error:
        raise click.ClickException(f"{part.name}: {where} cannot read {path} ({error.strerror}): {shared}") from error
    if not same:
        raise click.ClickException(
            f"{part.name}: {where} finds different content at {path}: the file has changed since it was listed, or the "
            f"disk is not shared; {shared}"
        )


def _read(
    work: Work, numbers: Sequence[int], paths: Sequence[Path], connection: duckdb.DuckDBPyConnection, scratch: Path
) -> TaskResult:
    opened = (
        open_file(connection, number, work.parts[number], path, TABLES)
        for number, path in zip(numbers, paths, strict=True)
    )
    files = tuple(file for file in opened if file is not None)
    if not files:
        return TaskResult(numbers)
    table = common_table(files, TABLES)
    buckets = work.buckets if table == "events" else 1
    reading = Reading(connection, work.source, table, TABLES[table], files, buckets, scratch, work.session_types)
    copied = ways.read(reading)
    sums = copied.sums
    if copied.rows and sums is None:
        sums, _ = sums_and_count(connection, scan.parquet_below(reading.written), "false")
    return TaskResult(
        numbers,
        table=table,
        named=files[0].part.name,
        ignored=ignored(files, reading.columns),
        records=copied.records,
        rows=copied.rows,
        refused=rejects.counts(connection),
        session_type=copied.session_type,
        sums=sums if copied.rows else None,
        files=_stored(work, reading, numbers[0]) if copied.rows else {},
    )


def _stored(work: Work, reading: Reading, first: int) -> dict[str, StoredFile]:
    """Stores the rows that were read, and returns the stored files by path.

    A path is `events/bucket=<bucket>/part-<first>-<number>.parquet`, or for a primary table
    `primary/part-<first>-<number>.parquet`. `<first>` is the number of the task's first part; `<number>` counts the
    files of the bucket from 0.
    """
    target = reading.scratch / "target"
    files = {}
    for bucket in sorted(reading.written.iterdir()):
        folder = f"{reading.table}/{bucket.name}" if reading.table == "events" else reading.table
        for number, file in enumerate(sorted(bucket.glob("*.parquet"))):
            name = f"{folder}/part-{first:06d}-{number}.parquet"
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, target / name)
            files[name] = StoredFile((target / name).stat().st_size, checksum(target / name), crc32(target / name))
    work.store(target)
    return files


# ---- tasks ---------------------------------------------------------------------------------------------------------

Batches = Iterable[pa.RecordBatch]


def of_groups(work: Work, groups: Sequence[Sequence[int]]) -> Callable[[Batches], Batches]:
    """A function for `mapInArrow` that reads groups of parts. The input's column `id` holds positions in `groups`.

    Args:
        work: what all tasks have in common.
        groups: the numbers of the parts in each group.
    """

    def read(batches: Batches) -> Batches:
        progress.be_silent()
        for batch in batches:
            for group in batch.column("id").to_pylist():
                with tempfile.TemporaryDirectory(prefix="purchase-predict-") as scratch:
                    yield from read_parts(work, groups[group], {}, Path(scratch))

    return read


def of_contents(work: Work) -> Callable[[Batches], Batches]:
    """A function for `mapInArrow` that reads parts. An input row has a part's place (`path`) and bytes (`content`)."""

    def read(batches: Batches) -> Batches:
        progress.be_silent()
        numbers = {str(part.place): number for number, part in enumerate(work.parts)}
        with tempfile.TemporaryDirectory(prefix="purchase-predict-") as scratch:
            fetched = {}
            for batch in batches:
                for path, content in zip(batch.column("path"), batch.column("content"), strict=True):
                    number = numbers[path.as_py()]
                    fetched[number] = Path(scratch) / f"fetched-{number:06d}{work.parts[number].ending}"
                    with fetched[number].open("wb") as file:
                        file.write(content.as_buffer())
            if fetched:
                (working := Path(scratch) / "working").mkdir()
                yield from read_parts(work, sorted(fetched), fetched, working)

    return read
