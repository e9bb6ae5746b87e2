"""A Spark cluster of two workers on this machine, each a process of its own, as a user's configuration names it."""

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

#: Most of what a JVM does in a test is done once: half of its time would go into compiling that well.
QUICK_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The URL of a standalone master with two workers of one core each; their logs and files are in the folder."""
    import pyspark

    command = Path(pyspark.__file__).parent / "bin" / "spark-class"
    # The machines of the cluster and of the user live in another time zone: times are UTC all the same.
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
    """A user's configuration that names the cluster, and a session that stays open: to start one takes 15 s.

    The session's time zone is not UTC. Further settings are given with `__` in place of dots.
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
