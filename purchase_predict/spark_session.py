"""A Spark session on the cluster that the user's Spark configuration names.

The cluster comes from SPARK_REMOTE (Spark Connect), SPARK_MASTER, or `spark.master` in `spark-defaults.conf`. Without
any of them, Spark runs on this machine. PySpark is not in conda.yaml; docs/scaling.md says how to add it.
"""

import atexit
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

import purchase_predict

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_PROJECT = Path(purchase_predict.__file__).parents[1]
#: Parts of the message of an error that Python raised on an executor: the first line of the traceback, a line with an
#: exception, and the exception for a missing module.
_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"^[A-Za-z_][\w.]*: .+$", re.MULTILINE)
_MISSING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
#: Seconds within which a Spark Connect server must accept a connection.
_CONNECT_SECONDS = 30


@contextmanager
def session_of(asked: str, instead: str) -> Iterator["SparkSession"]:
    """Provides a session with the user's configuration, and stops it after the block unless it existed before.

    Args:
        asked: the user's setting that needs Spark, such as `engine=spark`.
        instead: the setting that works without Spark, such as `engine=duckdb`.

    Raises:
        click.ClickException: PySpark or Java is missing, or Spark cannot be started or reached, or fails.
    """
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise click.ClickException(
            f"{asked} needs PySpark, which is not installed here: run pip install 'pyspark>=4.0,<4.1' and install Java "
            f"17 (see docs/scaling.md), or use {instead}"
        ) from error
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # for executors with Python at the same path
    remote, master = os.environ.get("SPARK_REMOTE"), os.environ.get("SPARK_MASTER")
    builder = SparkSession.builder.appName("purchase-predict")
    if not remote:  # a Spark Connect server, which others may use, has settings of its own
        if master:
            builder = builder.master(master)
        if not sys.stderr.isatty():  # progress bars would fill a log
            builder = builder.config("spark.ui.showConsoleProgress", "false")
    # A Spark Connect URL may contain a token after its first semicolon, so messages leave this part out.
    named = remote.partition(";")[0] if remote else master
    where = f"Spark at {named or 'its configured master'}"
    already = SparkSession.getActiveSession()
    if remote and not already:
        _wait_for_server(remote, where)
    try:
        with _interrupts_kept():
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


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Restores this process's handling of Ctrl-C after the block.

    Spark replaces it with a handler that cancels Spark's jobs. `session_of` cancels them, too, by stopping the session.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def settings_of(session: "SparkSession", settings: Mapping[str, str]) -> Iterator[None]:
    """Applies settings to the session during the block, then restores the old ones: others may use the session."""
    before = {name: session.conf.get(name, None) for name in settings}
    for name, value in settings.items():
        session.conf.set(name, value)
    try:
        yield
    finally:
        for name, value_before in before.items():
            if value_before is None:
                session.conf.unset(name)
            else:
                session.conf.set(name, value_before)


def address_of(uri: str) -> str:
    """A URI in Spark's form. Hadoop's name for the scheme `s3` is `s3a`."""
    return uri.replace("s3://", "s3a://", 1) if uri.startswith("s3://") else uri


def send_package(session: "SparkSession") -> None:
    """Sends the project's code to the executors.

    The packages of conda.yaml must be installed on the executors, in the Python that PYSPARK_PYTHON names.
    """
    # A session refuses a second file with the same name, so each call uses a new name. An open session also sends the
    # file to new executors, so the file stays until this process ends.
    folder = Path(tempfile.mkdtemp(prefix="purchase-predict-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    package = shutil.make_archive(str(folder / folder.name), "zip", _PROJECT, "purchase_predict")
    session.addArtifacts(package, pyfile=True)


def _wait_for_server(remote: str, where: str) -> None:
    """Waits for a Spark Connect server. Spark itself would wait 10 minutes, and its error does not name the address."""
    if not remote.startswith("sc://"):
        return  # such as `local`: Spark starts the server itself
    try:
        import grpc
        from pyspark.errors import PySparkException
        from pyspark.sql.connect.client import DefaultChannelBuilder
    except ImportError as error:
        raise click.ClickException(
            f"{where}: Spark Connect needs further packages: run pip install 'pyspark[connect]>=4.0,<4.1'"
        ) from error
    try:
        with DefaultChannelBuilder(remote).toChannel() as channel:
            grpc.channel_ready_future(channel).result(timeout=_CONNECT_SECONDS)
    except PySparkException as error:
        raise click.ClickException(f"{where}: {_reason(error)}") from error
    except grpc.FutureTimeoutError as error:
        raise click.ClickException(
            f"{where}: no answer within {_CONNECT_SECONDS} seconds; is the address (SPARK_REMOTE) right, and is a "
            "Spark Connect server running there?"
        ) from error


def _reason(error: Exception) -> str:
    """The line of Spark's long message that names the error.

    If the message has the Python traceback of an executor, the result is the last error in the traceback. If this error
    is a missing module, the result is an instruction to install the module. Without a traceback, the candidates are the
    lines that start with "[" (an error class) or "Caused by:". The result is the first candidate if it starts with "[",
    else the last candidate. Without candidates, the result is the message's first line.
    """
    text = str(error)
    if _TRACEBACK in text:
        raised = _RAISED.findall(text[text.index(_TRACEBACK) :].partition("JVM stacktrace")[0])
        if raised and (missing := _MISSING.match(raised[-1])):
            return (
                f"the Python of the executors lacks {missing[1]}: install the packages of requirements.lock in that "
                "Python, or set PYSPARK_PYTHON to a Python that has these packages"
            )
        if raised:
            return f"on an executor: {raised[-1]}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("Caused by:", "["))]
    return (telling or lines or [type(error).__name__])[-1 if telling and telling[0].startswith("Caused") else 0]
