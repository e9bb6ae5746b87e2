"""The primary table on DuckDB, bucket by bucket of the users."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import duckdb

from purchase_predict.database import one_row, quoted


def primary_from_events(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, int]:
    """Creates the view `primary_table` from Parquet events in buckets of users, as many buckets at a time as threads.

    Returns:
        How many events there were, and how many were dropped and why.
    """
    from purchase_predict.features import expressions

    buckets = sorted(folder.iterdir())
    (threads,) = one_row(connection, "SELECT current_setting('threads')")
    workers = min(threads, len(buckets))
    # A bucket a thread takes less of the processor than all threads at one bucket, and none of them waits.
    connection.execute(f"SET threads = {threads // workers}")
    cursors = [connection.cursor() for _ in buckets]
    with ThreadPoolExecutor(1) as making, ThreadPoolExecutor(workers) as pool:
        # The SQL of the last step is made while the first ones run.
        names = [*expressions.STEPS, "repeated", "primary"]
        sql = {name: making.submit(expressions.sql, "duckdb", name, "bucket_") for name in names}
        running = [
            pool.submit(_primary_of_bucket, cursor, bucket, number, sql)
            for number, (cursor, bucket) in enumerate(zip(cursors, buckets, strict=True))
        ]
        try:
            counted = [bucket.result() for bucket in running]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for cursor in cursors:
                cursor.interrupt()
            raise
    connection.execute(f"SET threads = {threads}")
    tables = " UNION ALL ".join(f"FROM primary_{number}" for number in range(len(buckets)))
    connection.execute(f"CREATE VIEW primary_table AS {tables}")
    total, with_session, repeated = map(sum, zip(*counted, strict=True))
    return {"events": total, "events_without_session": total - with_session, "events_repeated": repeated}


def _primary_of_bucket(
    connection: duckdb.DuckDBPyConnection, bucket: Path, number: int, sql: dict[str, Future[str]]
) -> tuple[int, int, int]:
    """Creates the table `primary_<number>`; returns the bucket's events, those with a session, and repeated ones."""
    file = f"read_parquet({quoted(bucket / '*.parquet')}, hive_partitioning=false)"
    connection.execute(f"CREATE TEMP VIEW bucket_raw AS FROM {file}")
    tables = [name for name in sql if name not in ("repeated", "primary")]
    for table in tables:
        connection.execute(f"CREATE TEMP TABLE bucket_{table} AS {sql[table].result()}")
    total, with_session = one_row(connection, "SELECT count(*), count(user_session) FROM bucket_raw")
    (repeated,) = one_row(connection, sql["repeated"].result())
    connection.execute(f"CREATE TABLE primary_{number} AS {sql['primary'].result()}")
    connection.close()  # and with it go the bucket's tables
    return total, with_session, repeated


def primary_from_spark(connection: duckdb.DuckDBPyConnection, folder: Path, session_type: str) -> None:
    """Creates the table `primary_table` from the Parquet files that Spark wrote, as the other engine would have."""
    connection.execute(
        f"""CREATE TABLE primary_table AS SELECT * REPLACE (user_session::{session_type} AS user_session)
            FROM read_parquet({quoted(folder / "*.parquet")})"""
    )


def primary_as_is(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, int]:
    """Creates the view `primary_table` over the Parquet files of a ready primary table."""
    connection.execute(f"CREATE VIEW primary_table AS FROM read_parquet({quoted(folder / '*.parquet')})")
    return {}
