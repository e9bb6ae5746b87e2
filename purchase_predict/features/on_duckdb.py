"""The primary table on DuckDB, one bucket of users at a time per thread."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import duckdb

from purchase_predict.database import one_row, quoted
from purchase_predict.progress import phase

#: The folder of `shop_state` beside the files of a primary table that Spark wrote.
STATE = "shop"
#: Groups of products whose counters are added up one after the other. All at once would be the peak of memory.
_TOTALS_PARTS = 4


def primary_from_events(
    connection: duckdb.DuckDBPyConnection, folder: Path, state: Path | None = None
) -> dict[str, int]:
    """Creates the table `primary_table` from events, and what the shop knows at their end.

    That is `shop_totals`, the counters of each product and day, and `shop_state`, the counters of each product.

    Args:
        connection: the database. Its number of threads is the number of buckets at a time.
        folder: one folder of Parquet events per bucket of users.
        state: what the shop knew before these events, as `shop_state` of earlier ones. It counts for rows of days after
            its last one, in place of the events up to that day. Rows of earlier days see the events alone.

    Returns:
        The number of events: `events` in all, `events_without_session` and `events_repeated`, which are left out.
    """
    from purchase_predict.features import expressions
    from purchase_predict.features.shop import COUNTERS, PRODUCT_DAY

    buckets = sorted(folder.iterdir())
    (threads,) = one_row(connection, "SELECT current_setting('threads')")
    workers = min(threads, len(buckets))
    # One thread per bucket uses less processor time than all threads on one bucket, and no thread waits for another.
    connection.execute(f"SET threads = {threads // workers}")
    cursors = [connection.cursor() for _ in buckets]
    # One table for the counters of all buckets: each table takes at least a block of memory per column. In a
    # bucket no count of a day needs more than an INTEGER, which takes half the memory.
    types = dict.fromkeys([*PRODUCT_DAY, *COUNTERS], "INTEGER") | {"product_id": "BIGINT", "log_prices": "BIGINT"}
    connection.execute(f"CREATE TABLE all_daily ({', '.join(f'{name} {type_}' for name, type_ in types.items())})")
    with ThreadPoolExecutor(1) as compiler, ThreadPoolExecutor(workers) as pool:
        # Ibis compiles the SQL of the last table while the first ones are computed.
        names = [*expressions.STEPS, "repeated", "primary", "daily"]
        sql = {name: compiler.submit(expressions.sql, "duckdb", name, "bucket_") for name in names}
        futures = [
            pool.submit(_primary_of_bucket, cursor, bucket, number, sql)
            for number, (cursor, bucket) in enumerate(zip(cursors, buckets, strict=True))
        ]
        try:
            with phase("features", len(buckets), "buckets") as shown:
                for future in futures:
                    future.add_done_callback(lambda _: shown.advance())
                counts = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for cursor in cursors:
                cursor.interrupt()
            raise
    connection.execute(f"SET threads = {threads}")
    tables = [f"primary_{number}" for number in range(len(buckets))]
    connection.execute(f"CREATE VIEW shop_primary AS {' UNION ALL '.join(f'FROM {table}' for table in tables)}")
    with phase("what the shop knows of each product"):
        _add_shop(connection, state)
    for relation in ("VIEW shop_primary", "TABLE shop_product_days", *(f"TABLE {table}" for table in tables)):
        connection.execute(f"DROP {relation}")
    total, with_session, repeated = map(sum, zip(*counts, strict=True))
    return {"events": total, "events_without_session": total - with_session, "events_repeated": repeated}


def _add_shop(connection: duckdb.DuckDBPyConnection, state: Path | None) -> None:
    """Creates `primary_table`, `shop_totals` and `shop_state` from `shop_primary` and `all_daily`."""
    from purchase_predict.features import expressions

    for part in range(_TOTALS_PARTS):
        condition = f"hash(product_id) % {_TOTALS_PARTS} = {part}"
        connection.execute(f"CREATE OR REPLACE VIEW shop_daily AS FROM all_daily WHERE {condition}")
        into = "INSERT INTO shop_totals BY NAME" if part else "CREATE TABLE shop_totals AS"
        connection.execute(f"{into} {expressions.sql('duckdb', 'totals', 'shop_')}")
    connection.execute("DROP VIEW shop_daily")
    connection.execute("DROP TABLE all_daily")
    product_days = expressions.sql("duckdb", "product_days", "shop_")
    connection.execute(f"CREATE TABLE shop_product_days AS {product_days}")
    if state:
        # The state stands for all days up to its own. Of those, the events' counters would count the same twice.
        earlier = f"read_parquet({quoted(state)})"
        (last,) = one_row(connection, f"SELECT coalesce(max(day), -1) FROM {earlier}")
        connection.execute(f"DELETE FROM shop_totals WHERE day <= {last}")
        connection.execute(f"INSERT INTO shop_totals BY NAME FROM {earlier}")
        connection.execute(f"DELETE FROM shop_product_days WHERE day > {last}")
        connection.execute(f"INSERT INTO shop_product_days BY NAME FROM ({product_days}) WHERE day > {last}")
    connection.execute(f"CREATE TABLE shop_state AS {expressions.sql('duckdb', 'state', 'shop_')}")
    # A table, not a view: the split would otherwise hold the join and its own window in memory at once.
    connection.execute(f"CREATE TABLE primary_table AS {expressions.sql('duckdb', 'with_shop', 'shop_')}")


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
    connection.execute(f"CREATE TABLE primary_{number} AS {sql['primary'].result()}")
    connection.execute(f"INSERT INTO all_daily BY NAME {sql['daily'].result()}")
    connection.close()  # drops the bucket's temporary tables
    return total, with_session, repeated


def primary_from_spark(connection: duckdb.DuckDBPyConnection, folder: Path, session_type: str) -> None:
    """Creates `primary_table` and `shop_state` from Spark's Parquet files, with the types that DuckDB gives them."""
    connection.execute(
        f"CREATE OR REPLACE TABLE shop_state AS FROM read_parquet({quoted(folder / STATE / '*.parquet')})"
    )
    connection.execute(
        f"""CREATE TABLE primary_table AS SELECT * REPLACE (user_session::{session_type} AS user_session)
            FROM read_parquet({quoted(folder / "*.parquet")})"""
    )


def primary_as_is(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, int]:
    """Creates the view `primary_table` over the Parquet files of a ready primary table; returns no event counts."""
    connection.execute(f"CREATE VIEW primary_table AS FROM read_parquet({quoted(folder / '*.parquet')})")
    return {}


def write_state(connection: duckdb.DuckDBPyConnection, file: Path) -> bool:
    """Writes `shop_state` as Parquet, sorted by product; False if there is none, as for a ready primary table."""
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'shop_state'").fetchall():
        return False
    connection.execute(
        f"COPY (FROM shop_state ORDER BY product_id) TO {quoted(file)} (FORMAT parquet, COMPRESSION zstd)"
    )
    return True
