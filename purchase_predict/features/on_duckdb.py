"""The primary table on DuckDB, one bucket of users at a time per thread."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import duckdb

from purchase_predict.database import one_row, quoted


def primary_from_events(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, int]:
    """Creates the view `primary_table` from events.

    Args:
        connection: the database. Its number of threads is the number of buckets at a time.
        folder: one folder of Parquet events per bucket of users.

    Returns:
        The number of events: `events` in all, `events_without_session` and `events_repeated`, which are left out.
    """
    from purchase_predict.features import expressions

    buckets = sorted(folder.iterdir())
    (threads,) = one_row(connection, "SELECT current_setting('threads')")
    workers = min(threads, len(buckets))
    # One thread per bucket uses less processor time than all threads on one bucket, and no thread waits for another.
    connection.execute(f"SET threads = {threads // workers}")
    cursors = [connection.cursor() for _ in buckets]
    with ThreadPoolExecutor(1) as compiler, ThreadPoolExecutor(workers) as pool:
        # Ibis compiles the SQL of the last table while the first ones are computed.
        names = [*expressions.STEPS, "repeated", "primary", "daily"]
        sql = {name: compiler.submit(expressions.sql, "duckdb", name, "bucket_") for name in names}
        futures = [
            pool.submit(_primary_of_bucket, cursor, bucket, number, sql)
            for number, (cursor, bucket) in enumerate(zip(cursors, buckets, strict=True))
        ]
        try:
            counts = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for cursor in cursors:
                cursor.interrupt()
            raise
    connection.execute(f"SET threads = {threads}")
    for table in ("primary", "daily"):
        parts = " UNION ALL ".join(f"FROM {table}_{number}" for number in range(len(buckets)))
        connection.execute(f"CREATE VIEW all_{table} AS {parts}")
    connection.execute(f"CREATE TABLE all_product_days AS {expressions.sql('duckdb', 'product_days', 'all_')}")
    connection.execute(f"CREATE VIEW primary_table AS {expressions.sql('duckdb', 'with_shop', 'all_')}")
    total, with_session, repeated = map(sum, zip(*counts, strict=True))
    return {"events": total, "events_without_session": total - with_session, "events_repeated": repeated}


def _primary_of_bucket(
    connection: duckdb.DuckDBPyConnection, bucket: Path, number: int, sql: dict[str, Future[str]]
) -> tuple[int, int, int]:
    """Creates the table `primary_<number>`; returns the number of events: in all, with a session, and repeated."""
    file = f"read_parquet({quoted(bucket / '*.parquet')}, hive_partitioning=false)"
    connection.execute(f"CREATE TEMP VIEW bucket_raw AS FROM {file}")
    tables = [name for name in sql if name not in ("repeated", "primary", "daily")]
    for table in tables:
        connection.execute(f"CREATE TEMP TABLE bucket_{table} AS {sql[table].result()}")
    total, with_session = one_row(connection, "SELECT count(*), count(user_session) FROM bucket_raw")
    (repeated,) = one_row(connection, sql["repeated"].result())
    for table in ("primary", "daily"):
        connection.execute(f"CREATE TABLE {table}_{number} AS {sql[table].result()}")
    connection.close()  # drops the bucket's temporary tables
    return total, with_session, repeated


def primary_from_spark(connection: duckdb.DuckDBPyConnection, folder: Path, session_type: str) -> None:
    """Creates the table `primary_table` from Spark's Parquet files, with the types that DuckDB would give it."""
    connection.execute(
        f"""CREATE TABLE primary_table AS SELECT * REPLACE (user_session::{session_type} AS user_session)
            FROM read_parquet({quoted(folder / "*.parquet")})"""
    )


def primary_as_is(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, int]:
    """Creates the view `primary_table` over the Parquet files of a ready primary table; returns no event counts."""
    connection.execute(f"CREATE VIEW primary_table AS FROM read_parquet({quoted(folder / '*.parquet')})")
    return {}
