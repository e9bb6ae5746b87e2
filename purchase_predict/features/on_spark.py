"""The primary table on Spark: executors read the events and write the rows; no row passes through the driver."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from purchase_predict.checksums import Damaged
from purchase_predict.features import expressions
from purchase_predict.features.on_duckdb import STATE
from purchase_predict.progress import phase
from purchase_predict.schema import EVENTS, TYPES
from purchase_predict.spark_session import address_of, session_of, settings_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

#: URI schemes of artifact stores that Spark reads and writes without MLflow's server.
_DIRECT_SCHEMES = {"file", "gs", "hdfs", "s3", "s3a", "abfss", "wasbs", "dbfs", "viewfs"}

#: The approximate number of events per partition.
_PARTITION_EVENTS = 500_000
#: The lowest number of partitions. Spark's default of 200 cost minutes on small inputs.
_MIN_PARTITIONS = 4
#: The number of tables that are stored after `expressions.STEPS`:
#: `totals`, `shop_before`, `product_days`, `with_shop`, `state`.
_FURTHER_TABLES = 5
#: The prefix of all temporary views, because other users of the session may see them.
_PREFIX = "purchase_predict_"

_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    # Except for product counters, everything that a row needs belongs to one user. With this setting, tables that are
    # partitioned by user are joined and windowed by user and further columns without a shuffle.
    "spark.sql.requireAllClusterKeysForCoPartition": "false",
}


@dataclass(frozen=True)
class Written:
    """The number of rows that Spark wrote, and the event counts as `on_duckdb.primary_from_events` returns them."""

    rows: int
    counts: dict[str, int]


def location(artifact_uri: str) -> str | None:
    """The URI by which Spark finds an artifact, or None if only MLflow's server can deliver it."""
    parts = urlsplit(artifact_uri)
    if not parts.scheme:
        return f"file://{os.path.abspath(artifact_uri)}"  # noqa: PTH100 - a Path would swallow a trailing slash
    if parts.scheme not in _DIRECT_SCHEMES:
        return None
    if parts.scheme == "file":
        return f"file://{unquote(parts.path)}"
    return address_of(parts.scheme + artifact_uri[len(parts.scheme) :])


def primary_from_events(source: str, session_type: str, crc32: Mapping[str, int], target: str) -> Written:
    """Computes the primary table from Parquet events, and writes it and `shop_state` as Parquet.

    Args:
        source: the folder of the events, as `location` returns it.
        session_type: the type of `user_session`, `UUID` or `VARCHAR`, as in the manifest of load.
        crc32: the CRC-32 of each file of the events, by its path in the folder, as in the manifest of load; empty: the
            files are not checked.
        target: the folder to write, as `location` returns it; `shop_state` is written to its folder `STATE`.

    Raises:
        Damaged: a file of the events is missing, has changed since load wrote it, or was added later.
        click.ClickException: PySpark or Java is missing, or the cluster cannot be reached, or cannot use the folders.
    """
    with session_of("engine=spark", "engine=duckdb") as session, settings_of(session, _SETTINGS):
        with phase("checking the events on Spark"):
            _check(session, source, crc32)
        raw = _read(session, source, session_type)
        (total, with_session) = _first_row(raw.selectExpr("count(*)", "count(user_session)"))
        partitions = max(_MIN_PARTITIONS, -(-total // _PARTITION_EVENTS))
        tables: dict[str, DataFrame] = {}

        def register(table: str, rows: "DataFrame") -> None:
            tables[table] = rows
            rows.createOrReplaceTempView(_PREFIX + table)

        def persist(table: str, rows: "DataFrame") -> None:
            register(table, rows.persist())
            rows.count()  # computes the table, so that Spark knows its size and broadcasts small tables in joins
            shown.advance()

        def query(table: str, prefix: str = _PREFIX) -> "DataFrame":
            return session.sql(expressions.sql("pyspark", table, prefix))

        shuffle = {"spark.sql.shuffle.partitions": str(partitions)}
        with (
            settings_of(session, shuffle),
            _released(session, tables),
            phase("features on Spark", len(expressions.STEPS) + _FURTHER_TABLES, "tables") as shown,
        ):
            register("raw", raw)
            # `alike` needs all events partitioned by user, but only 3 of their columns, so Spark shuffles only these.
            # Each later table is shuffled after it is computed, when fewer events remain in it.
            register("by_user_raw", raw.repartition(partitions, "user_id"))
            persist("alike", query("alike", f"{_PREFIX}by_user_"))
            for step in expressions.STEPS[1:]:
                persist(step, query(step).repartition(partitions, "user_id"))
            (repeated,) = _first_row(query("repeated"))
            register("primary", query("primary"))
            register("corrections", query("corrections"))
            persist("totals", query("totals"))
            persist("shop_before", query("shop_before"))
            persist("product_days", query("product_days"))
            _uuids_as_text(query("with_shop"), session_type).write.mode("overwrite").parquet(target)
            shown.advance()
            rows = session.read.parquet(target).count()
            query("state").coalesce(1).write.mode("overwrite").parquet(f"{target}/{STATE}")
            shown.advance()
    counts = {"events": total, "events_without_session": total - with_session, "events_repeated": repeated}
    return Written(rows, counts)


@contextmanager
def _released(session: "SparkSession", tables: Mapping[str, "DataFrame"]) -> Iterator[None]:
    """After the block, drops the tables, last first: to unpersist a table, Spark Connect needs the table's sources."""
    try:
        yield
    finally:
        for table in reversed(list(tables)):
            tables[table].unpersist()
            session.catalog.dropTempView(_PREFIX + table)


def _first_row(table: "DataFrame") -> tuple[int, ...]:
    row = table.first()
    assert row
    return tuple(row)


def _check(session: "SparkSession", source: str, crc32: Mapping[str, int]) -> None:
    """Lets the executors compute the CRC-32 of each file at `source`, and compares it with the CRC-32 from load."""
    files = session.read.format("binaryFile").option("recursiveFileLookup", "true").load(source)
    there = {row[0]: row[1] for row in files.selectExpr("path", "crc32(content)").toLocalIterator()}
    unknown = set(there)
    for name, expected in crc32.items():
        fitting = [path for path, found in there.items() if path.endswith(f"/{name}") and found == expected]
        if not fitting:
            raise Damaged(f"{source}: {name} is missing or has changed since load wrote it")
        unknown.discard(min(fitting, key=len))
    if crc32 and unknown:
        raise Damaged(f"{source}: {min(unknown)} was added later: it is not among the files that load wrote")


def _read(session: "SparkSession", source: str, session_type: str) -> "DataFrame":
    """The events at `source`. UUIDs are read as bytes: Spark has no type for them, and joins bytes faster than text."""
    types = {column.name: TYPES[column.type].spark for column in EVENTS}
    if session_type == "UUID":
        types["user_session"] = "binary"
    schema = ", ".join(f"{name} {type_}" for name, type_ in types.items())
    return session.read.schema(schema).parquet(source)


def _uuids_as_text(table: "DataFrame", session_type: str) -> "DataFrame":
    """The table with UUIDs in their usual form, 8-4-4-4-12 hexadecimal digits."""
    if session_type != "UUID":
        return table
    uuid = "regexp_replace(lower(hex(user_session)), '^(.{8})(.{4})(.{4})(.{4})(.{12})$', '$1-$2-$3-$4-$5')"
    return table.selectExpr(*(f"{uuid} AS {name}" if name == "user_session" else name for name in table.columns))
