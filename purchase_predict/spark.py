"""The features on Spark: executors read the events and write the primary table, no row passes through the driver."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from purchase_predict import features
from purchase_predict.schema import EVENTS
from purchase_predict.spark_session import session_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

#: What Spark's file systems are called where artifact stores call them otherwise.
_SCHEMES = {"s3": "s3a"}
#: Artifact stores whose files Spark reads and writes without MLflow in between.
_FILE_SYSTEMS = {"file", "gs", "hdfs", "s3", "s3a", "abfss", "wasbs", "dbfs", "viewfs"}

_TYPES = {"TIMESTAMP": "timestamp_ntz", "VARCHAR": "string", "BIGINT": "bigint", "DOUBLE": "double"}
#: Events of a task, about, and the fewest tasks: Spark's own 200 for every stage cost minutes where events are few.
_PART_EVENTS, _LEAST_PARTS = 500_000, 4
_PREFIX = "purchase_predict_"

#: Everything a row needs belongs to one user, so one shuffle by user serves every join and window after it.
_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
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
    with session_of("engine=spark", "engine=duckdb") as session:
        for name, value in _SETTINGS.items():
            session.conf.set(name, value)
        raw = _read(session, source, session_type)
        (total, with_session) = _one(raw.selectExpr("count(*)", "count(user_session)"))
        parts = max(_LEAST_PARTS, -(-total // _PART_EVENTS))
        made: dict[str, DataFrame] = {"raw": raw.repartition(parts, "user_id")}
        made["raw"].createOrReplaceTempView(f"{_PREFIX}raw")
        try:
            for step in features.STEPS:
                made[step] = session.sql(features.sql("pyspark", step, _PREFIX)).persist()
                made[step].createOrReplaceTempView(_PREFIX + step)
            (repeated,) = _one(session.sql(features.sql("pyspark", "repeated", _PREFIX)))
            session.sql(features.sql("pyspark", "primary", _PREFIX)).write.mode("overwrite").parquet(target)
            rows = session.read.parquet(target).count()
        finally:
            for name, table in made.items():
                table.unpersist()
                session.catalog.dropTempView(_PREFIX + name)
    counts = {"events": total, "events_without_session": total - with_session, "events_repeated": repeated}
    return Made(rows, counts)


def _one(table: "DataFrame") -> tuple[int, ...]:
    row = table.first()
    assert row
    return tuple(row)


def _read(session: "SparkSession", source: str, session_type: str) -> "DataFrame":
    """The events at `source`, their session ids as text."""
    types = {column.name: _TYPES[column.type] for column in EVENTS}
    columns = {name: name for name in types}
    if session_type == "UUID":  # Spark knows no such type, but reads the bytes
        types["user_session"] = "binary"
        columns["user_session"] = (
            "regexp_replace(lower(hex(user_session)), '^(.{8})(.{4})(.{4})(.{4})(.{12})$', '$1-$2-$3-$4-$5')"
        )
    schema = ", ".join(f"{name} {type_}" for name, type_ in types.items())
    events = session.read.schema(schema).parquet(source)
    return events.selectExpr(*(f"{value} AS {name}" for name, value in columns.items()))
