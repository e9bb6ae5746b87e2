"""Loading a source on the user's Spark cluster: the executors read, check and store the rows by the rules of `load`.

Each task reads a few parts (`executor`). Spark's own CSV reader is not used, because it does not report the line
numbers of malformed rows. Part names, counts, sums and refused rows pass through the driver; the rows that are loaded
do not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING

import click
import duckdb

from purchase_predict.database import connect
from purchase_predict.progress import phase
from purchase_predict.reading import executor, manifest, rejects
from purchase_predict.reading.executor import Work
from purchase_predict.reading.load import Loaded, bucket_count, print_ignored, print_left_out
from purchase_predict.reading.manifest import Account
from purchase_predict.reading.task_result import StoredFile, TaskResult
from purchase_predict.sources import hadoop, sources
from purchase_predict.sources.listing import Listing
from purchase_predict.sources.part import Part
from purchase_predict.spark_session import send_package, session_of, settings_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

#: Bytes of CSV that a task reads, roughly: about 1 million events.
TASK_BYTES = 128 * 10**6
#: 1 byte of gzipped CSV or Parquet holds about as many events as this many bytes of plain CSV.
_PACKED = 6
#: The intended number of tasks for a large source; there may be up to twice as many. More tasks would write more files,
#: because each task writes its own file for each bucket.
_MAX_TASKS = 64


def load_source(
    source: str,
    target: Path,
    scratch: Path,
    max_reject_ratio: float,
    store: Callable[[Path], None],
    memory_limit: str = "",
    gcp_project: str = "",
) -> tuple[Loaded, dict[str, StoredFile]]:
    """Loads a source as `load.load_source` does, except that the executors store the rows.

    Args:
        source: `gs://...`, an address for `hadoop` (`hdfs://`, `s3a://` and the like), or a file, folder or glob on a
            disk that all machines share.
        target: an empty folder of this machine; gets `source.json`, and `rejects.csv` if rows were refused.
        scratch: an empty folder of this machine for temporary files.
        max_reject_ratio: the share of refused rows, 0 to 1, above which nothing is loaded.
        store: copies the files below a folder to the place where load keeps the rows. It is sent to the executors and
            called there, perhaps more than once with the same files.
        memory_limit: DuckDB's memory limit in a task, such as `2GB`; empty: a quarter of the machine's memory,
            divided by its number of cores, but at least 512 MiB.
        gcp_project: the Google Cloud project to use; empty: that of the credentials.

    Returns:
        What was loaded, and the files that the executors stored, by their path.

    Raises:
        click.ClickException: Spark cannot be used, skipped a file or lost refused rows; or the source cannot be read,
            changed while it was read, holds none of the tables, has no rows, or has too many malformed rows.
    """
    with session_of("engine=spark", "engine=duckdb") as session, connect(scratch) as connection:
        send_package(session)
        listed = sources.listing(source, gcp_project)
        print_left_out(listed)
        parts, buckets = _absolute(listed.parts), bucket_count(listed.parts)
        work = Work(source, parts, buckets, ("UUID", "VARCHAR"), memory_limit, gcp_project, store)
        rejects.create_table(connection)
        with settings_of(session, _reading_settings(source)), _read_and_stored(session, work) as (results, tasks):
            with phase("checking whether the source has changed"):
                sources.check_unchanged(source, listed, gcp_project)
            account = _account(source, listed, tasks)
            account.check(max_reject_ratio, lambda: _frequent(results))
            if not account.rows:
                raise account.without_rows(lambda: _frequent(results))
            if account.rejected:
                _fetch_refused(session, results, connection)
                if rejects.counts(connection) != account.refused:
                    raise click.ClickException(
                        f"source {source}: Spark lost some of the refused rows, because an executor ended; run the "
                        "workflow again"
                    )
        print_ignored(list(dict.fromkeys(name for task in tasks for name in task.ignored)), account.table)
        digest = reduce(add, (task.sums for task in tasks if task.sums)).digest
        files = {name: stored for task in tasks for name, stored in task.files.items()}
        crc32 = {name.removeprefix(f"{account.table}/"): files[name].crc32 for name in sorted(files)}
        manifest.write(account, digest, rejects.reasons(connection), crc32, target)
        if account.rejected:
            rejects.write(connection, listed.parts, target / "rejects.csv")
    return Loaded(account.table, account.rows, account.rejected, digest, sources.content_digest(listed)), files


def _absolute(parts: Sequence[Part]) -> tuple[Part, ...]:
    return tuple(replace(part, place=part.place.absolute()) if isinstance(part.place, Path) else part for part in parts)


@contextmanager
def _read_and_stored(session: "SparkSession", work: Work) -> Iterator[tuple["DataFrame", list[TaskResult]]]:
    """Lets the executors read and store the source.

    Yields two things: the DataFrame of the rows that the tasks return (columns: `executor.SCHEMA`), and the tasks'
    results in the order of their parts. The DataFrame's refused rows stay on the executors; the caller fetches them
    before the `with` block ends.

    Raises:
        click.ClickException: a task could not read its parts, two parts hold different tables, all parts are empty, or
            Spark did not read each part exactly once.
    """
    for session_types in (work.session_types, work.session_types[-1:]):
        results = _tasks(session, replace(work, session_types=session_types)).persist()
        try:
            with phase("reading on Spark"):
                written = results.filter("done IS NOT NULL").select("done").collect()
            tasks = sorted((TaskResult.read(row[0]) for row in written), key=lambda task: task.numbers[0])
            _refuse_wrong_tasks(work, tasks)
            # All tasks must store `user_session` as the same type. If types differ, all tasks run again and store text.
            if len({task.session_type for task in tasks if task.rows}) < 2:
                yield results, tasks
                return
        finally:
            results.unpersist()


def _reading_settings(source: str) -> dict[str, str]:
    """The settings for a source whose files Spark reads (`hadoop`); empty if the tasks open the files themselves."""
    if not hadoop.is_address(source):
        return {}
    return {
        "spark.sql.files.ignoreCorruptFiles": "false",
        "spark.sql.files.ignoreMissingFiles": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "1",  # one file per batch
        "spark.sql.files.maxPartitionBytes": str(TASK_BYTES),
        "spark.sql.files.openCostInBytes": "0",
        "spark.sql.files.maxPartitionNum": str(_MAX_TASKS),
    }


def _tasks(session: "SparkSession", work: Work) -> "DataFrame":
    """The DataFrame of the rows that the tasks return, in the columns of `executor.SCHEMA`.

    Computing the DataFrame runs the tasks, which read and store the source.
    """
    schema = "part int, line bigint, `column` string, value string, reason string, done string"
    if hadoop.is_address(work.source):
        contents = hadoop.contents(session, work.parts)
        return contents.mapInArrow(executor.of_contents(work), schema)
    groups = _groups(work.parts)
    return session.range(0, len(groups), 1, len(groups)).mapInArrow(executor.of_groups(work, groups), schema)


def _groups(parts: Sequence[Part]) -> list[list[int]]:
    """For each task, the numbers of the parts that it reads.

    A task reads consecutive parts whose sizes add up to at most `TASK_BYTES`, or one larger part. For a large source,
    the limit is the size of the source divided by `_MAX_TASKS`. The size of a packed file (gzipped CSV, Parquet) is
    multiplied by `_PACKED`.
    """
    sizes = [part.size * (1 if part.ending == ".csv" else _PACKED) for part in parts]
    wanted = max(TASK_BYTES, sum(sizes) / _MAX_TASKS)
    groups: list[list[int]] = [[]]
    taken = 0
    for number, size in enumerate(sizes):
        if groups[-1] and taken + size > wanted:
            groups.append([])
            taken = 0
        groups[-1].append(number)
        taken += size
    return groups


def _refuse_wrong_tasks(work: Work, tasks: Sequence[TaskResult]) -> None:
    for task in tasks:
        if task.error:
            raise click.ClickException(task.error)
    # `Account.check` would not notice a file that Spark skipped: neither of the totals it compares has the file's rows.
    if sorted(number for task in tasks for number in task.numbers) != list(range(len(work.parts))):
        raise click.ClickException(
            f"source {work.source}: Spark did not read each of the {len(work.parts)} files exactly once; check whether "
            "spark.sql.files.ignoreCorruptFiles or spark.sql.files.ignoreMissingFiles is set"
        )
    held = [task for task in tasks if task.table]
    if not held:
        raise click.ClickException(f"source {work.source}: {work.parts[0].name} is empty; a header is expected")
    for task in held:
        if task.table != held[0].table:
            raise click.ClickException(
                f"{held[0].named} holds the {held[0].table} table, but {task.named} holds the {task.table} table; all "
                "files of a source must hold the same table"
            )


def _account(source: str, listed: Listing, tasks: Sequence[TaskResult]) -> Account:
    def all_of(counts: Callable[[TaskResult], Mapping[int, int]]) -> dict[int, int]:
        return {number: count for task in tasks for number, count in counts(task).items()}

    return Account(
        source=source,
        table=next(task.table for task in tasks if task.table),
        listed=listed,
        rows=sum(task.rows for task in tasks),
        records=all_of(lambda task: task.records),
        refused=all_of(lambda task: task.refused),
        session_type=next((task.session_type for task in tasks if task.rows), ""),
    )


def _fetch_refused(session: "SparkSession", results: "DataFrame", connection: duckdb.DuckDBPyConnection) -> None:
    """Fetches the refused rows from the executors, and adds them to the table `rejects`."""
    with settings_of(session, {"spark.sql.execution.arrow.maxRecordsPerBatch": str(rejects.BATCH_ROWS)}):
        refused = results.filter("done IS NULL").drop("done").toArrow()
    connection.register("refused", refused)
    connection.execute("INSERT INTO rejects FROM refused")
    connection.unregister("refused")


def _frequent(results: "DataFrame") -> list[rejects.Frequent]:
    """The same list as `rejects.frequent` returns, computed from refused rows that are still on the executors."""
    from pyspark.sql import functions as spark

    reasons = results.filter("done IS NULL").groupBy("column", "reason")
    counted = reasons.agg(
        spark.count("*").alias("rows"), spark.min(spark.struct("part", "line", "value")).alias("example")
    )
    frequent = counted.orderBy(spark.desc("rows"), "column", "reason").limit(rejects.NAMED_REASONS)
    found = frequent.select("rows", "column", "reason", "example.part", "example.line", "example.value").collect()
    return [rejects.Frequent(*row) for row in found]
