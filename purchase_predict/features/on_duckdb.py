"""Makes the primary table on DuckDB: each thread takes one bucket of users at a time."""

from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import duckdb

from purchase_predict.database import one_row, quoted
from purchase_predict.progress import phase

#: The name of the folder with `shop_state`, inside the folder of a primary table that Spark wrote.
STATE = "shop"
#: Approximate number of events per part. Product counters are summed for one part of the products at a time. Summing
#: them for all products at once would need more memory than the rest of the step.
_PART_EVENTS = 12_500_000


def primary_from_events(
    connection: duckdb.DuckDBPyConnection, folder: Path, state: Path | None = None
) -> dict[str, int]:
    """Creates the table `primary_table` from events, and two tables of product counters.

    `shop_totals` has the counters per product and day, `shop_state` the counters per product at the end of the events.
    If `state` is given, a table `shop_known` is created, too. Its only value, `events`, is the number of views, carts
    and purchases in `folder` up to the last day of `state`, without repetitions. The counters in `state` may already
    include these events.

    Args:
        connection: the database. Its number of threads is the maximum number of buckets computed at the same time.
        folder: one folder of Parquet events per bucket of users.
        state: the file with the `shop_state` of earlier events; None: there are none. For rows after the last day of
            `state`, its counters replace the counters of the events up to that day. Other rows use the events only.

    Returns:
        The event counts. `events` counts all events. `events_without_session` and `events_repeated` count the events
        that are left out of the table.
    """
    buckets = sorted(folder.iterdir())
    (threads,) = one_row(connection, "SELECT current_setting('threads')")
    workers = min(threads, len(buckets))
    # One thread per bucket uses less processor time than all threads on one bucket, and no thread waits for another.
    connection.execute(f"SET threads = {threads // workers}")
    counts = _primary_of_each(connection, buckets, workers)
    connection.execute(f"SET threads = {threads}")
    total, with_session, repeated = map(sum, zip(*counts, strict=True))
    made = {table: [f"{table}_{number}" for number in range(len(buckets))] for table in ("primary", "corrections")}
    for table, of_buckets in made.items():
        connection.execute(f"CREATE VIEW shop_{table} AS {' UNION ALL '.join(f'FROM {name}' for name in of_buckets)}")
    connection.execute(f"CREATE VIEW shop_raw AS FROM {_events(folder / '*')}")
    with phase("counters of each product"):
        _add_shop(connection, 1 + total // _PART_EVENTS, state)
    for view in ("raw", *made):
        connection.execute(f"DROP VIEW shop_{view}")
    for table in ("part_shop_before", "shop_product_days", *made["primary"], *made["corrections"]):
        connection.execute(f"DROP TABLE {table}")
    return {"events": total, "events_without_session": total - with_session, "events_repeated": repeated}


def _primary_of_each(
    connection: duckdb.DuckDBPyConnection, buckets: Sequence[Path], workers: int
) -> list[tuple[int, int, int]]:
    """Runs `_primary_of_bucket` for each bucket, `workers` at a time. Returns the results in bucket order."""
    from purchase_predict.features import expressions

    cursors, given_up = [connection.cursor() for _ in buckets], Event()
    with ThreadPoolExecutor(1) as compiler, ThreadPoolExecutor(workers) as pool:
        # Ibis compiles the SQL of the later tables while the first tables are computed.
        names = [*expressions.STEPS, "repeated", "primary", "corrections"]
        sql = {name: compiler.submit(expressions.sql, "duckdb", name, "bucket_") for name in names}
        try:
            futures = [
                pool.submit(_primary_of_bucket, cursor, bucket, number, sql, given_up)
                for number, (cursor, bucket) in enumerate(zip(cursors, buckets, strict=True))
            ]
            with phase("features", len(buckets), "buckets") as shown:
                for future in futures:
                    future.add_done_callback(lambda _: shown.advance())
                return [future.result() for future in futures]
        except BaseException:
            given_up.set()  # stops buckets that are between two queries; `interrupt` ends only running queries
            for waiting in (compiler, pool):
                waiting.shutdown(wait=False, cancel_futures=True)
            for cursor in cursors:
                cursor.interrupt()
            raise


def _add_shop(connection: duckdb.DuckDBPyConnection, parts: int, state: Path | None) -> None:
    """Creates `primary_table`, `shop_totals` and `shop_state` from `shop_raw`, `shop_primary` and `shop_corrections`.

    Args:
        parts: the number of groups of products. Counters are made for one group at a time.
        state: see `primary_from_events`.
    """
    from purchase_predict.features import expressions

    _add_parts(connection, parts, "totals", ("raw", "corrections"))
    _add_product_days(connection, parts)
    if state:
        # The state covers all days up to its last one, so the events' counters of these days would count twice.
        earlier = f"read_parquet({quoted(state)})"
        (last,) = one_row(connection, f"SELECT coalesce(max(day), -1) FROM {earlier}")
        events = f"SELECT coalesce(sum(views + carts + purchases), 0)::BIGINT FROM shop_totals WHERE day <= {last}"
        connection.execute(f"CREATE TABLE shop_known AS SELECT ({events}) AS events")
        connection.execute(f"DELETE FROM shop_totals WHERE day <= {last}")
        connection.execute(f"INSERT INTO shop_totals BY NAME FROM {earlier}")
        connection.execute(f"DELETE FROM shop_product_days WHERE day > {last}")
        _add_product_days(connection, parts, f"day > {last}")
    connection.execute(f"CREATE TABLE shop_state AS {expressions.sql('duckdb', 'state', 'shop_')}")
    # A table, not a view: with a view, this join and the window function of `split.split` would be in memory together.
    connection.execute(f"CREATE TABLE primary_table AS {expressions.sql('duckdb', 'with_shop', 'shop_')}")


def _add_product_days(connection: duckdb.DuckDBPyConnection, parts: int, condition: str = "true") -> None:
    """Adds the rows of `shop_product_days` that meet the condition, from `shop_totals` and `shop_primary`."""
    from purchase_predict.features import expressions

    before = expressions.sql("duckdb", "shop_before", "shop_")
    connection.execute(f"CREATE OR REPLACE TABLE part_shop_before AS {before}")
    _add_parts(connection, parts, "product_days", ("totals", "primary"), condition)


def _add_parts(
    connection: duckdb.DuckDBPyConnection, parts: int, table: str, sources: tuple[str, ...], condition: str = "true"
) -> None:
    """Adds the rows of `shop_<table>` that meet the condition, one group of products after the other."""
    from purchase_predict.features import expressions

    query = f"FROM ({expressions.sql('duckdb', table, 'part_')}) WHERE {condition}"
    for part in range(parts):
        for source in sources:
            connection.execute(
                f"CREATE OR REPLACE VIEW part_{source} AS FROM shop_{source} WHERE hash(product_id) % {parts} = {part}"
            )
        connection.execute(f"CREATE TABLE IF NOT EXISTS shop_{table} AS {query} LIMIT 0")
        connection.execute(f"INSERT INTO shop_{table} BY NAME {query}")
    for source in sources:
        connection.execute(f"DROP VIEW part_{source}")


def _events(bucket: Path) -> str:
    """The FROM item of a bucket's events; a glob in the path matches several buckets."""
    return f"read_parquet({quoted(bucket / '*.parquet')}, hive_partitioning=false)"


def _primary_of_bucket(
    connection: duckdb.DuckDBPyConnection, bucket: Path, number: int, sql: dict[str, Future[str]], given_up: Event
) -> tuple[int, int, int]:
    """Creates the tables `primary_<number>` and `corrections_<number>`.

    Returns:
        The number of events: in all, with a session, and repeated.

    Raises:
        CancelledError: `given_up` was set meanwhile.
    """
    connection.execute(f"CREATE TEMP VIEW bucket_raw AS FROM {_events(bucket)}")
    tables = {name: f"TEMP TABLE bucket_{name}" for name in sql if name not in ("repeated", "primary", "corrections")}
    tables |= {name: f"TABLE {name}_{number}" for name in ("primary", "corrections")}
    for name, table in tables.items():
        query = sql[name].result()
        if given_up.is_set():
            raise CancelledError
        connection.execute(f"CREATE {table} AS {query}")
    total, with_session = one_row(connection, "SELECT count(*), count(user_session) FROM bucket_raw")
    (repeated,) = one_row(connection, sql["repeated"].result())
    connection.close()  # drops the bucket's temporary tables
    return total, with_session, repeated


def primary_from_spark(connection: duckdb.DuckDBPyConnection, folder: Path, session_type: str) -> None:
    """Creates `primary_table` and `shop_state` from Spark's Parquet files; session ids get the type `session_type`."""
    connection.execute(
        f"CREATE OR REPLACE TABLE shop_state AS FROM read_parquet({quoted(folder / STATE / '*.parquet')})"
    )
    connection.execute(
        f"""CREATE TABLE primary_table AS SELECT * REPLACE (user_session::{session_type} AS user_session)
            FROM read_parquet({quoted(folder / "*.parquet")})"""
    )


def primary_as_is(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, int]:
    """Creates the view `primary_table` over the Parquet files of a ready primary table; returns an empty dict."""
    connection.execute(f"CREATE VIEW primary_table AS FROM read_parquet({quoted(folder / '*.parquet')})")
    return {}


def write_state(connection: duckdb.DuckDBPyConnection, file: Path) -> bool:
    """Writes `shop_state` as Parquet, sorted by product. False if this table does not exist (ready primary tables)."""
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'shop_state'").fetchall():
        return False
    connection.execute(
        f"COPY (FROM shop_state ORDER BY product_id) TO {quoted(file)} (FORMAT parquet, COMPRESSION zstd)"
    )
    return True
