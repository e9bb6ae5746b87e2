"""Spark's session, and the features on it: executors read events and write the primary table, no row sees the driver.

The cluster is the one that the user's Spark configuration names: SPARK_MASTER, SPARK_REMOTE (Spark Connect), or
`spark.master` in `spark-defaults.conf`; without any, Spark runs in this process's own JVM. PySpark is an extra that
conda.yaml lacks: docs/scaling.md says how to add it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import click

from purchase_predict import features
from purchase_predict.schema import EVENTS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

#: What Spark's file systems are called where artifact stores call them otherwise.
_SCHEMES = {"s3": "s3a"}
#: Artifact stores whose files Spark reads and writes without MLflow in between.
_FILE_SYSTEMS = {"file", "gs", "hdfs", "s3", "s3a", "abfss", "wasbs", "dbfs", "viewfs"}

_TYPES = {"TIMESTAMP": "timestamp_ntz", "VARCHAR": "string", "BIGINT": "bigint", "DOUBLE": "double"}
#: Events of a task, about, and the fewest tasks: Spark's own 200 for every stage cost minutes where events are few.
_PART_EVENTS, _LEAST_PARTS = 500_000, 4
_RAW, _ALIKE, _EVENTS = "purchase_predict_raw", "purchase_predict_alike", "purchase_predict_events"

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
        raw.repartition(parts, "user_id").createOrReplaceTempView(_RAW)
        alike = session.sql(features.alike_sql("pyspark", _RAW)).persist()
        alike.createOrReplaceTempView(_ALIKE)
        events = session.sql(features.usable_sql("pyspark", _RAW, _ALIKE)).persist()
        events.createOrReplaceTempView(_EVENTS)
        try:
            (repeated,) = _one(session.sql(features.repeated_sql("pyspark", _RAW, _ALIKE)))
            session.sql(features.primary_sql("pyspark", _EVENTS)).write.mode("overwrite").parquet(target)
            rows = session.read.parquet(target).count()
        finally:
            for table in (events, alike):
                table.unpersist()
            for view in (_EVENTS, _ALIKE, _RAW):
                session.catalog.dropTempView(view)
    counts = {"events": total, "events_without_session": total - with_session, "events_repeated": repeated}
    return Made(rows, counts)


def _one(table: "DataFrame") -> tuple[int, ...]:
    row = table.first()
    assert row
    return tuple(row)


@contextmanager
def session_of(asked: str, instead: str) -> Iterator["SparkSession"]:
    """The session of the user's configuration; one that was there before stays open.

    Args:
        asked: the parameter that asks for Spark, as the user gave it.
        instead: what it can be given for a way without Spark.

    Raises:
        click.ClickException: PySpark or Java is missing, or Spark cannot be started, reached, or fails.
    """
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise click.ClickException(
            f"{asked} needs PySpark, which is not installed here: pip install 'pyspark>=4.0,<4.1', and Java 17 "
            f"(docs/scaling.md says more); or take {instead}"
        ) from error
    remote, master = os.environ.get("SPARK_REMOTE"), os.environ.get("SPARK_MASTER")
    builder = SparkSession.builder.appName("purchase-predict")
    if master and not remote:
        builder = builder.master(master)
    where = f"Spark at {remote or master or 'the master that its configuration names'}"
    already = SparkSession.getActiveSession()
    try:
        session = already or builder.getOrCreate()
    except (PySparkException, Py4JError, RuntimeError) as error:
        java = "; is Java 17 installed (Debian: default-jre-headless)?" if "JAVA_GATEWAY" in str(error) else ""
        raise click.ClickException(f"{where}: cannot be started: {_reason(error)}{java}") from error
    try:
        yield session
    except (PySparkException, Py4JError) as error:
        raise click.ClickException(f"{where}: {_reason(error)}") from error
    finally:
        if already is None:
            session.stop()


def _reason(error: Exception) -> str:
    """The line of Spark's long message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("Caused by:", "["))]
    return (telling or lines or [type(error).__name__])[-1 if telling and telling[0].startswith("Caused") else 0]


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
