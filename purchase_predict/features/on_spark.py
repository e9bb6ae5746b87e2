"""The features on Spark: executors read the events and write the primary table, no row passes through the driver."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from purchase_predict.features import expressions
from purchase_predict.schema import EVENTS, TYPES
from purchase_predict.spark_session import session_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

#: What Spark's file systems are called where artifact stores call them otherwise.
_SCHEMES = {"s3": "s3a"}
#: Artifact stores whose files Spark reads and writes without MLflow in between.
_FILE_SYSTEMS = {"file", "gs", "hdfs", "s3", "s3a", "abfss", "wasbs", "dbfs", "viewfs"}

#: Events of a task, about, and the fewest tasks: Spark's own 200 for every stage cost minutes where events are few.
_PART_EVENTS, _LEAST_PARTS = 500_000, 4
_PREFIX = "purchase_predict_"

_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    # Everything a row needs belongs to one user: tables in parts by user need no shuffle for a join or window by more.
    "spark.sql.requireAllClusterKeysForCoPartition": "false",
}


@dataclass(frozen=True)
class Made:
    """What Spark wrote: its rows, and the events it took as `dataset.primary_from_events` counts them."""

    rows: int
    counts: dict[str, int]


def location(artifact_uri: str) -> str | None:
    """Where Spark itself finds an artifact, or None where only MLflow's server can hand it out."""
    parts = urlsplit(artifact_uri)
    if not parts.scheme:
        return f"file://{os.path.abspath(artifact_uri)}"  # noqa: PTH100 - a Path would swallow a trailing slash
    if parts.scheme not in _FILE_SYSTEMS:
        return None
    if parts.scheme == "file":
        return f"file://{unquote(parts.path)}"
    return _SCHEMES.get(parts.scheme, parts.scheme) + artifact_uri[len(parts.scheme) :]


def primary_from_events(source: str, session_type: str, target: str) -> Made:
    """Writes the primary table of Parquet events as Parquet.

    Args:
        source: the folder of the events, as `location` gives it.
        session_type: how they hold `user_session`, `UUID` or `VARCHAR` (the manifest of load says it).
        target: the folder to write, as `location` gives it.

    Raises:
        click.ClickException: PySpark or Java is missing, the cluster cannot be reached, or cannot read or write there.
    """
    with session_of("engine=spark", "engine=duckdb") as session, _set(session, _SETTINGS):
        raw = _read(session, source, session_type)
        (total, with_session) = _one(raw.selectExpr("count(*)", "count(user_session)"))
        parts = max(_LEAST_PARTS, -(-total // _PART_EVENTS))
        tables: dict[str, DataFrame] = {}

        def name(table: str, rows: "DataFrame") -> None:
            tables[table] = rows
            rows.createOrReplaceTempView(_PREFIX + table)

        def keep(table: str, rows: "DataFrame") -> None:
            name(table, rows.persist())
            rows.count()  # made now, so that its size is known: joins send what is small to all events, and not these

        def ask(table: str, prefix: str = _PREFIX) -> "DataFrame":
            return session.sql(expressions.sql("pyspark", table, prefix))

        with _set(session, {"spark.sql.shuffle.partitions": str(parts)}), _released(session, tables):
            name("raw", raw)
            # To find what is alike, three columns of all events go to their users' parts; of the other tables only what
            # is left of the events goes there.
            name("by_user_raw", raw.repartition(parts, "user_id"))
            keep("alike", ask("alike", f"{_PREFIX}by_user_"))
            for step in expressions.STEPS[1:]:
                keep(step, ask(step).repartition(parts, "user_id"))
            (repeated,) = _one(ask("repeated"))
            _as_text(ask("primary"), session_type).write.mode("overwrite").parquet(target)
            rows = session.read.parquet(target).count()
    counts = {"events": total, "events_without_session": total - with_session, "events_repeated": repeated}
    return Made(rows, counts)


@contextmanager
def _set(session: "SparkSession", settings: Mapping[str, str]) -> Iterator[None]:
    """The session with these settings, and after that with those it had: it may be another's."""
    before = {name: session.conf.get(name, None) for name in settings}
    for name, value in settings.items():
        session.conf.set(name, value)
    try:
        yield
    finally:
        for name, had in before.items():
            if had is None:
                session.conf.unset(name)
            else:
                session.conf.set(name, had)


@contextmanager
def _released(session: "SparkSession", tables: Mapping[str, "DataFrame"]) -> Iterator[None]:
    """Lets go of what was named and kept, the last first: Spark Connect looks up a table's sources to let go of it."""
    try:
        yield
    finally:
        for table in reversed(list(tables)):
            tables[table].unpersist()
            session.catalog.dropTempView(_PREFIX + table)


def _one(table: "DataFrame") -> tuple[int, ...]:
    row = table.first()
    assert row
    return tuple(row)


def _read(session: "SparkSession", source: str, session_type: str) -> "DataFrame":
    """The events at `source`, UUIDs as their bytes: Spark knows no such type, and joins bytes quicker than text."""
    types = {column.name: TYPES[column.type].spark for column in EVENTS}
    if session_type == "UUID":
        types["user_session"] = "binary"
    schema = ", ".join(f"{name} {type_}" for name, type_ in types.items())
    return session.read.schema(schema).parquet(source)


def _as_text(table: "DataFrame", session_type: str) -> "DataFrame":
    """The table with UUIDs as others write them."""
    if session_type != "UUID":
        return table
    uuid = "regexp_replace(lower(hex(user_session)), '^(.{8})(.{4})(.{4})(.{4})(.{12})$', '$1-$2-$3-$4-$5')"
    return table.selectExpr(*(f"{uuid} AS {name}" if name == "user_session" else name for name in table.columns))
