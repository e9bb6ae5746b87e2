"""The workflow with engine=spark through a real server of Spark Connect, and without one."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from purchase_predict import spark_session
from purchase_predict.sources import sample
from tests.spark.cluster import QUICK_START
from tests.workflow.runner import Workflow
from tools.machine import free_port

pyspark = pytest.importorskip("pyspark")
pytest.importorskip("grpc", reason="Spark Connect's client is not here")
pytestmark = pytest.mark.servers

SOURCE = "source=sample:20000"


@pytest.fixture
def clicks(tmp_path: Path) -> str:
    """A `source` of 20,000 events: 2 Parquet files, 1 CSV file (with 1 more row, malformed) and 1 gzipped CSV file."""
    table = sample.events(20_000)
    (folder := tmp_path / "clicks").mkdir()
    for number in range(2):
        pq.write_table(table.slice(number * 5_000, 5_000), folder / f"part-{number}.parquet")
        rows = table.slice((number + 2) * 5_000, 5_000).to_pandas()
        rows.to_csv(folder / f"part-{number + 2}.csv{'.gz' * number}", index=False)
    with (folder / "part-2.csv").open("a") as file:
        file.write("malformed\n")
    return f"source={folder}"


@pytest.fixture(scope="module")
def connect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Spark Connect server in other time zones: Tokyo for its process, New York for its sessions."""
    folder = tmp_path_factory.mktemp("connect")
    port = free_port()
    settings = {
        "spark.connect.grpc.binding.port": port,
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.session.timeZone": "America/New_York",
    }
    command = [
        str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--master", "local[2]",
        "--driver-java-options", QUICK_START,
        *(word for name, value in settings.items() for word in ("--conf", f"{name}={value}")),
        "--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal",
    ]  # fmt: skip
    environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "TZ": "Asia/Tokyo", "PYSPARK_PYTHON": sys.executable}
    log = folder / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        for _ in range(600):
            if "Spark Connect server started" in log.read_text():
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            pytest.fail(log.read_text())
        yield f"sc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def test_a_server_of_spark_connect_loads_and_makes_what_duckdb_does(
    workflow: Workflow, connect: str, clicks: str
) -> None:
    workflow.prepare("-P", clicks)
    for step, given in (("train", ("-P", "max_evals=1")), ("deploy", ())):
        outcome = workflow.step_here(step, *given)
        assert outcome.code == 0, outcome.err
    by_duckdb = [workflow.runs(step)[0] for step in ("load", "process")]
    for run in by_duckdb:
        workflow.client.delete_run(run.info.run_id)

    # JAVA_HOME is wrong, so the steps cannot run Spark themselves: the server has to do the work.
    spark = {"SPARK_REMOTE": connect, "JAVA_HOME": "/nonexistent"}
    outcome = workflow.main_here("-P", clicks, "-P", "max_evals=1", "-P", "engine=spark", **spark)
    assert outcome.code == 0, outcome.err
    # Train and deploy are reused: they ran on DuckDB's dataset, and Spark's dataset has the same content.
    assert outcome.steps == {"load": "ran", "process": "ran", "train": "reused", "deploy": "reused"}
    for step, before in zip(("load", "process"), by_duckdb, strict=True):
        (by_spark,) = workflow.runs(step)
        assert by_spark.data.params["engine"] == "spark"
        assert before.data.tags["step.digest"] == by_spark.data.tags["step.digest"]
        assert before.data.metrics == by_spark.data.metrics
    refused = [
        workflow.client.download_artifacts(run.info.run_id, "rejects.csv")
        for run in (by_duckdb[0], *workflow.runs("load"))
    ]
    assert Path(refused[0]).read_text() == Path(refused[1]).read_text()
    # The load is reused although the engine is another one, and DuckDB reads the files that Spark's executors stored.
    (process,) = workflow.runs("process")
    workflow.client.delete_run(process.info.run_id)
    outcome = workflow.main_here("-P", clicks, "-P", "max_evals=1")
    assert outcome.steps == {"load": "reused", "process": "ran", "train": "reused", "deploy": "reused"}


def test_a_server_that_is_not_there_is_one_line(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_session, "_CONNECT_SECONDS", 3)
    remote = f"sc://127.0.0.1:{free_port()}"
    assert workflow.step_here("load", "-P", SOURCE).code == 0
    outcome = workflow.step_here("process", "-P", "engine=spark", SPARK_REMOTE=f"{remote}/;token=secret")
    assert outcome.code == 1
    (line,) = [line for line in outcome.error if "Spark at" in line]
    assert remote in line
    assert "no answer within 3 seconds" in line
    (run,) = workflow.runs("process")
    assert run.info.status == "FAILED"
    assert "no answer within" in run.data.tags["error"]
    assert "Traceback" not in outcome.err
    assert "secret" not in outcome.err + run.data.tags["error"]
