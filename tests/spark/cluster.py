"""A Spark cluster on this machine with 2 workers, each a separate process, and a user's configuration that names it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from purchase_predict.spark_session import session_of
from tools.machine import free_port

#: Options for JVMs that run only for a short time: only the quick compiler (C1), and the serial garbage collector. In a
#: test, a JVM runs most code once. Optimizing this code would take half of the JVM's time.
QUICK_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Runs a standalone master and 2 workers with 1 core each during the block; yields the master's URL.

    Args:
        folder: the folder for their logs and files.
    """
    import pyspark

    command = Path(pyspark.__file__).parent / "bin" / "spark-class"
    # The cluster's time zone is not UTC. The project must treat times as UTC all the same.
    environment = os.environ | {
        "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_NO_DAEMONIZE": "1", "TZ": "Asia/Tokyo",
        "SPARK_DAEMON_JAVA_OPTS": QUICK_START,
    }  # fmt: skip
    port = free_port()
    url = f"spark://127.0.0.1:{port}"
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> Path:
        log = folder / f"{name}.log"
        with log.open("wb") as file:
            started.append(
                subprocess.Popen([str(command), *arguments], env=environment, cwd=folder, stdout=file, stderr=file)
            )
        return log

    try:
        master = start(
            "master", "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", str(port),
            "--webui-port", "0",
        )  # fmt: skip
        for number in (1, 2):
            start(
                f"worker-{number}", "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--cores", "1",
                "--memory", "1g", "--webui-port", "0", "--work-dir", str(folder / f"work-{number}"), url,
            )  # fmt: skip
        for _ in range(600):
            if master.exists() and master.read_text().count("Registering worker") == 2:
                break
            assert all(process.poll() is None for process in started), master.read_text()
            time.sleep(0.1)
        else:
            pytest.fail(master.read_text())
        yield url
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(20)


@contextmanager
def session_on(master: str, folder: Path, **settings: str) -> Iterator[None]:
    """Opens a session on the cluster for the block, with a user's configuration that names the cluster.

    The code in the block uses this session; starting one takes 15 s. The session's time zone is not UTC.

    Args:
        master: the URL of the cluster's master.
        folder: the folder for the configuration file.
        settings: further Spark settings, with `__` in place of each dot.
    """
    (folder / "spark-defaults.conf").write_text(
        "spark.sql.session.timeZone America/New_York\nspark.ui.enabled false\nspark.executor.memory 768m\n"
        "spark.driver.host 127.0.0.1\nspark.driver.bindAddress 127.0.0.1\n"
        f"spark.driver.extraJavaOptions {QUICK_START}\nspark.executor.extraJavaOptions {QUICK_START}\n"
        + "".join(f"{name.replace('__', '.')} {value}\n" for name, value in settings.items())
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_CONF_DIR", str(folder))
        patch.setenv("SPARK_MASTER", master)
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        with session_of("engine=spark", "engine=duckdb"):
            yield
