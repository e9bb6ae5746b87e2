"""Spark's session, on the cluster that the user's Spark configuration names.

That is SPARK_MASTER, SPARK_REMOTE (Spark Connect), or `spark.master` in `spark-defaults.conf`; without any, Spark runs
in this process's own JVM. PySpark is an extra that conda.yaml lacks: docs/scaling.md says how to add it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: Seconds that a server of Spark Connect has to take a connection.
_REACHED_WITHIN = 30


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
    if not remote:  # a server that others use, too, has its own
        if master:
            builder = builder.master(master)
        if not sys.stderr.isatty():  # in a log, its bars are noise
            builder = builder.config("spark.ui.showConsoleProgress", "false")
    # A Connect URL may go on with a token.
    named = remote.partition(";")[0] if remote else master
    where = f"Spark at {named or 'the master that its configuration names'}"
    already = SparkSession.getActiveSession()
    if remote and not already:
        _reached(remote, where)
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


def _reached(remote: str, where: str) -> None:
    """Waits for a server of Spark Connect: Spark itself would for ten minutes, and then say nothing of the address."""
    if not remote.startswith("sc://"):
        return  # Spark starts a server of its own
    try:
        import grpc
        from pyspark.errors import PySparkException
        from pyspark.sql.connect.client import DefaultChannelBuilder
    except ImportError as error:
        raise click.ClickException(
            f"{where}: Spark Connect needs more than PySpark: pip install 'pyspark[connect]>=4.0,<4.1'"
        ) from error
    try:
        with DefaultChannelBuilder(remote).toChannel() as channel:
            grpc.channel_ready_future(channel).result(timeout=_REACHED_WITHIN)
    except PySparkException as error:
        raise click.ClickException(f"{where}: {_reason(error)}") from error
    except grpc.FutureTimeoutError as error:
        raise click.ClickException(
            f"{where}: no answer within {_REACHED_WITHIN} seconds; is the address right (SPARK_REMOTE), and a server "
            "of Spark Connect running there?"
        ) from error


def _reason(error: Exception) -> str:
    """The line of Spark's long message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("Caused by:", "["))]
    return (telling or lines or [type(error).__name__])[-1 if telling and telling[0].startswith("Caused") else 0]
