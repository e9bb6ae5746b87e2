"""What a task of Spark does on an executor: it reads parts of a source in the project's own ways and stores their rows.

It needs the packages of conda.yaml there, and returns the number of rows, what the digest is made of, and the refused
rows. A task that runs twice writes the same bytes under the same names, because it works in one thread: it does no harm
if Spark repeats a task, or starts it on two machines.
"""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import duckdb
import pyarrow as pa

from purchase_predict import progress
from purchase_predict.checksums import checksum, crc32
from purchase_predict.database import Sums, connect, machine_memory, sums_and_count
from purchase_predict.reading import rejects, scan, ways
from purchase_predict.reading.files import common_table, open_file
from purchase_predict.reading.load import ignored
from purchase_predict.reading.scan import Reading
from purchase_predict.schema import TABLES
from purchase_predict.sources import sources
from purchase_predict.sources.part import Part

#: Columns of what a task returns: those of `rejects`, and what was done, as JSON, in the one row that has no line.
SCHEMA = rejects.SCHEMA.append(pa.field("done", pa.string()))
#: The least memory of DuckDB in a task, in MiB.
_LEAST_MEMORY = 512
#: Refused rows that are sent at once.
_BATCH_ROWS = 10_000


@dataclass(frozen=True)
class Work:
    """What every task knows.

    Attributes:
        source: as the user named it.
        parts: of the source; a task gets the numbers of some.
        buckets: the number of buckets that events are spread over by user.
        session_types: as in `Reading`.
        memory_limit: DuckDB's memory limit in a task, such as `2GB`; empty: a quarter of the machine's memory,
            divided by its cores.
        gcp_project: the Google Cloud project to read as; empty: that of the credentials.
        store: puts the files below a folder to where the rows go. It may be called again with the same files.
    """

    source: str
    parts: tuple[Part, ...]
    buckets: int
    session_types: tuple[str, ...]
    memory_limit: str
    gcp_project: str
    store: Callable[[Path], None]


@dataclass(frozen=True)
class Stored:
    """A file that an executor stored: its bytes, and its checksums as `checksums` has them."""

    size: int
    checksum: str
    crc32: int


@dataclass(frozen=True)
class Done:
    """What a task did.

    Attributes:
        numbers: of the parts that it was given, in order; files and messages go by the first one.
        error: why it could not read its parts; empty: it could.
        table: the table that its parts hold; empty: all of them are empty.
        named: the first part that holds a row or a header, for messages.
        ignored: columns that were not read.
        records: records in each part that is not empty, read or refused, by its number.
        rows: rows read.
        refused: refused rows of each part that has any, by its number.
        session_type: the type of `user_session` in the files, UUID or VARCHAR.
        sums: what the digest is made of; None without a row.
        files: what was stored, by path.
    """

    numbers: Sequence[int]
    error: str = ""
    table: str = ""
    named: str = ""
    ignored: Sequence[str] = ()
    records: Mapping[int, int] = field(default_factory=dict)
    rows: int = 0
    refused: Mapping[int, int] = field(default_factory=dict)
    session_type: str = ""
    sums: Sums | None = None
    files: Mapping[str, Stored] = field(default_factory=dict)

    def written(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def read(text: str) -> "Done":
        """From JSON."""
        found = json.loads(text)
        for name in ("records", "refused"):
            found[name] = {int(number): count for number, count in found[name].items()}
        if found["sums"]:
            found["sums"] = Sums(**found["sums"] | {"columns": tuple(found["sums"]["columns"])})
        found["files"] = {name: Stored(**stored) for name, stored in found["files"].items()}
        return Done(**found)


def read_parts(
    work: Work, numbers: Sequence[int], fetched: Mapping[int, Path], scratch: Path
) -> Iterator[pa.RecordBatch]:
    """Reads parts, stores their rows, and yields what was done and the refused rows, as `SCHEMA` has them.

    Args:
        work: what every task knows.
        numbers: of the parts to read, in order.
        fetched: the files of those parts that are here already, by number.
        scratch: an empty folder.
    """
    memory = max(_LEAST_MEMORY, machine_memory() // 4 // 2**20 // (os.cpu_count() or 1))
    with connect(scratch, work.memory_limit or f"{memory}MiB", threads=1) as connection:
        rejects.create_table(connection)
        try:
            done = _read(work, numbers, _paths(work, numbers, fetched, scratch), connection, scratch)
        except click.ClickException as error:
            # An error that Spark sees makes it repeat the task. What the user did wrong stays wrong.
            done = Done(numbers, error=error.format_message())
            connection.execute("DELETE FROM rejects")
        row = dict.fromkeys(SCHEMA.names) | {"done": done.written()}
        yield pa.RecordBatch.from_pylist([row], SCHEMA)
        refused = connection.sql("SELECT *, NULL::VARCHAR AS done FROM rejects")
        for batch in refused.to_arrow_reader(_BATCH_ROWS):
            yield batch.cast(SCHEMA)


def _paths(work: Work, numbers: Sequence[int], fetched: Mapping[int, Path], scratch: Path) -> list[Path]:
    """The files of the parts on this machine.

    Raises:
        click.ClickException: one is not here, or not the one that was listed.
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
        same = path.stat().st_size == part.size and f"xxh3_128:{checksum(path)}" == part.checksum
    except OSError as error:
        raise click.ClickException(f"{part.name}: {where} cannot read {path} ({error.strerror}): {shared}") from error
    if not same:
        raise click.ClickException(
            f"{part.name}: {where} has another content at {path} than was listed: it changed meanwhile, or the disk is "
            f"not shared; {shared}"
        )


def _read(
    work: Work, numbers: Sequence[int], paths: Sequence[Path], connection: duckdb.DuckDBPyConnection, scratch: Path
) -> Done:
    opened = (
        open_file(connection, number, work.parts[number], path, TABLES)
        for number, path in zip(numbers, paths, strict=True)
    )
    files = tuple(file for file in opened if file is not None)
    if not files:
        return Done(numbers)
    table = common_table(files, TABLES)
    buckets = work.buckets if table == "events" else 1
    reading = Reading(connection, work.source, table, TABLES[table], files, buckets, scratch, work.session_types)
    copied = ways.read(reading)
    sums = copied.sums
    if copied.rows and sums is None:
        sums, _ = sums_and_count(connection, scan.parquet_below(reading.written), "false")
    return Done(
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


def _stored(work: Work, reading: Reading, first: int) -> dict[str, Stored]:
    """Stores the rows that were read: `<table>/[bucket=<number>/]part-<first part>-<number>.parquet`."""
    target = reading.scratch / "target"
    files = {}
    for bucket in sorted(reading.written.iterdir()):
        folder = f"{reading.table}/{bucket.name}" if reading.table == "events" else reading.table
        for number, file in enumerate(sorted(bucket.glob("*.parquet"))):
            name = f"{folder}/part-{first:06d}-{number}.parquet"
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, target / name)
            files[name] = Stored((target / name).stat().st_size, checksum(target / name), crc32(target / name))
    work.store(target)
    return files


# ---- tasks ---------------------------------------------------------------------------------------------------------

Batches = Iterable[pa.RecordBatch]


def of_groups(work: Work, groups: Sequence[Sequence[int]]) -> Callable[[Batches], Batches]:
    """A function for `mapInArrow`, which reads the groups of parts whose numbers it is given in the column `id`."""

    def read(batches: Batches) -> Batches:
        progress.be_silent()
        for batch in batches:
            for group in batch.column("id").to_pylist():
                with tempfile.TemporaryDirectory(prefix="purchase-predict-") as scratch:
                    yield from read_parts(work, groups[group], {}, Path(scratch))

    return read


def of_contents(work: Work) -> Callable[[Batches], Batches]:
    """A function for `mapInArrow`, which reads the parts that it is given in the columns `path` and `content`."""

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
