"""Spark against this machine: the same rows and trials on a real cluster of two workers, and errors in one line."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import duckdb
import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from purchase_predict import database
from purchase_predict.features import on_duckdb, on_spark
from purchase_predict.reading.load import load_source
from purchase_predict.schema import KEYS
from purchase_predict.search import on_spark as trials_on_spark
from purchase_predict.search import search
from purchase_predict.search.trial import Trial
from purchase_predict.workflow import key
from steps.train import train
from tests import registered
from tests.features import reference
from tests.features.reference import Event
from tests.features.shops import joined_up_to, many_shops
from tests.search.tables import table
from tools.machine import free_port

pyspark = pytest.importorskip("pyspark")

REAL = Path(__file__).parents[3] / "shared/data/events"
SCHEMA = pa.schema(
    {
        "event_time": pa.timestamp("us"),
        "event_type": pa.string(),
        "product_id": pa.int64(),
        "category_id": pa.int64(),
        "category_code": pa.string(),
        "brand": pa.string(),
        "price": pa.float64(),
        "user_id": pa.int64(),
        "user_session": pa.string(),
    }
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a standalone master with two workers, each a process of its own."""
    folder = tmp_path_factory.mktemp("spark")
    command = Path(pyspark.__file__).parent / "bin" / "spark-class"
    # The machines of the cluster and of the user live in another time zone: times are UTC all the same.
    environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_NO_DAEMONIZE": "1", "TZ": "Asia/Tokyo"}
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
        for _ in range(300):
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


@pytest.fixture
def on_cluster(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's configuration that names the cluster, with a session time zone that is not UTC."""
    (tmp_path / "spark-defaults.conf").write_text(
        "spark.sql.session.timeZone America/New_York\nspark.ui.enabled false\nspark.executor.memory 768m\n"
        "spark.driver.host 127.0.0.1\nspark.driver.bindAddress 127.0.0.1\n"
    )
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    monkeypatch.setenv("SPARK_MASTER", cluster)


def by_spark(connection: duckdb.DuckDBPyConnection, loaded: Path, target: Path) -> on_spark.Written:
    """Makes `primary_table` of what load wrote with Spark."""
    session_type = json.loads((loaded / "source.json").read_text())["session_type"]
    made = on_spark.primary_from_events(f"file://{loaded / 'events'}", session_type, f"file://{target}")
    on_duckdb.primary_from_spark(connection, target, session_type)
    return made


def assert_engines_agree(source: str, folder: Path) -> tuple[int, dict[str, int]]:
    """Loads the source, makes the features with both engines, and compares every row and column."""
    for name in ("loaded", "scratch"):
        (folder / name).mkdir()
    load_source(source, folder / "loaded", folder / "scratch", 0.01)
    with database.connect(folder) as connection:
        counts = on_duckdb.primary_from_events(connection, folder / "loaded" / "events")
        connection.execute("ALTER TABLE primary_table RENAME TO by_duckdb")
        made = by_spark(connection, folder / "loaded", folder / "primary")
        assert made.counts == counts
        assert connection.table("primary_table").dtypes == connection.table("by_duckdb").dtypes
        assert connection.table("primary_table").columns == connection.table("by_duckdb").columns
        for one, other in (("primary_table", "by_duckdb"), ("by_duckdb", "primary_table")):
            differing = connection.execute(f"FROM {one} EXCEPT ALL FROM {other} ORDER BY ALL LIMIT 3").fetchall()
            assert differing == []
        rows = connection.execute("SELECT count(*) FROM by_duckdb").fetchone()
        assert rows == (made.rows,)
        return made.rows, counts


def source() -> str:
    """Real events where there are some; any other source, to compare the engines on more, by the variable."""
    return os.environ.get("PURCHASE_PREDICT_SPARK_SOURCE") or (str(REAL) if REAL.exists() else "sample:20000")


@pytest.mark.usefixtures("on_cluster")
def test_two_workers_make_every_row_that_duckdb_makes(tmp_path: Path) -> None:
    rows, counts = assert_engines_agree(source(), tmp_path)
    assert rows > 500
    assert counts["events_repeated"] > 100
    if source() == str(REAL):
        assert rows == 21_897
        assert counts == {"events": 141_465, "events_without_session": 0, "events_repeated": 13_475}


@pytest.mark.usefixtures("on_cluster")
def test_random_shops_on_two_workers_are_what_plain_python_computes(tmp_path: Path) -> None:
    """Four hundred small shops in one table, each with users of its own: a query on Spark is slow, however small."""
    events = many_shops(400)
    (tmp_path / "events/bucket=0").mkdir(parents=True)
    columns = dict(zip(Event._fields, map(list, zip(*events, strict=True)), strict=True))
    pq.write_table(pa.table(columns, SCHEMA), tmp_path / "events/bucket=0/part.parquet")
    (tmp_path / "source.json").write_text('{"session_type": "VARCHAR"}')
    expected = reference.primary(events)
    # Some users have their earlier sessions looked at by joins, others by running sums.
    with duckdb.connect() as connection, joined_up_to(2):
        made = by_spark(connection, tmp_path, tmp_path / "primary")
        result = connection.execute(f"FROM primary_table ORDER BY {', '.join(KEYS)}")
        names = [name for name, *_ in result.description or []]
        rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    assert rows == expected
    sessionless = sum(event.user_session is None for event in events)
    kept = len({event for event in events if event.user_session is not None})
    assert made.counts == {
        "events": len(events),
        "events_without_session": sessionless,
        "events_repeated": len(events) - sessionless - kept,
    }


def test_without_pyspark_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(click.ClickException, match=r"needs PySpark.*pip install 'pyspark>=4.0,<4.1'") as refused:
        on_spark.primary_from_events("file:///nowhere", "UUID", "file:///nowhere")
    assert "\n" not in refused.value.message


def test_without_its_client_one_line_says_what_spark_connect_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.setenv("SPARK_REMOTE", "sc://127.0.0.1:1/;token=secret")
    with pytest.raises(click.ClickException, match=r"pip install 'pyspark\[connect\]>=4.0,<4.1'") as refused:
        on_spark.primary_from_events("file:///nowhere", "UUID", "file:///nowhere")
    assert "secret" not in refused.value.message


@pytest.mark.usefixtures("on_cluster")
def test_what_spark_cannot_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"PATH_NOT_FOUND.*nothing-here") as refused:
        on_spark.primary_from_events(f"file://{tmp_path}/nothing-here", "UUID", f"file://{tmp_path}/out")
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("artifact", "expected"),
    [
        ("/shared/mlruns/1/a/artifacts/events", "file:///shared/mlruns/1/a/artifacts/events"),
        ("file:///shared/my%20runs/events", "file:///shared/my runs/events"),
        ("gs://bucket/1/a/events", "gs://bucket/1/a/events"),
        ("s3://bucket/1/a/events", "s3a://bucket/1/a/events"),
        ("hdfs://names:8020/1/a/events", "hdfs://names:8020/1/a/events"),
        ("mlflow-artifacts:/1/a/events", None),
        ("https://server/1/a/events", None),
    ],
)
def test_spark_goes_to_the_artifact_store_itself_where_it_can(artifact: str, expected: str | None) -> None:
    assert on_spark.location(artifact) == expected


def test_the_engine_is_no_part_of_the_key() -> None:
    values = {"data": "runs:/x/events", "test_ratio": 0.3}
    duck, spark_ = (key.key_parts("process", values | {"engine": name}, {}) for name in ("duckdb", "spark"))
    assert key.key_of(duck) == key.key_of(spark_)


@pytest.mark.usefixtures("on_cluster")
def test_the_trials_of_two_workers_are_those_of_this_process() -> None:
    here = search.search(table(), 4, "roc_auc", 1, parallelism=2)
    told: list[int] = []
    kept = [dataclasses.replace(here.trials[0], out_of_fold=None)]
    with trials_on_spark.cluster(0) as (run, parallelism):
        assert parallelism == 2  # the cores of the cluster
        there = search.search(
            table(),
            4,
            "roc_auc",
            1,
            lambda trial: told.append(trial.number),
            kept,
            run_batch=run,
            parallelism=parallelism,
        )
    assert sorted(told) == [1, 2, 3]  # the first was taken over
    assert [(t.number, t.state, t.point, t.loss) for t in there.trials] == [
        (t.number, t.state, t.point, t.loss) for t in here.trials
    ]
    assert {trial.state for trial in there.trials} == {"finished", "pruned"}
    assert there.booster.model_to_string() == here.booster.model_to_string()
    assert there.threshold == here.threshold


@pytest.mark.usefixtures("on_cluster")
def test_what_fails_on_the_cluster_is_said_and_what_fails_here_ends_the_search() -> None:
    broken = dataclasses.replace(table(), features=["a"])
    with trials_on_spark.cluster(2) as (run, parallelism):
        with pytest.raises(
            click.ClickException, match=r"all 2 trials of the search failed, the first with: \w+Error: "
        ):
            search.search(broken, 2, "roc_auc", 1, run_batch=run, parallelism=parallelism)

        def refuse(trial: Trial) -> None:
            raise ConnectionError("the tracking server is gone")

        with pytest.raises(ConnectionError, match="is gone"):
            search.search(table(), 2, "roc_auc", 1, refuse, run_batch=run, parallelism=parallelism)


@pytest.mark.usefixtures("on_cluster")
def test_each_trial_of_the_cluster_becomes_a_nested_run(empty_store: Path, tmp_path: Path) -> None:
    for name in ("data", "store"):
        (tmp_path / name).mkdir()
    with registered.store_for_many(empty_store, tmp_path / "store"):
        made = registered.process(registered.carts(600), tmp_path / "data")
        outcome = registered.invoke(train, dataset=made, max_evals=2, trials="spark", parallelism=2)
        assert outcome.exit_code == 0, outcome.output
        client = mlflow.MlflowClient()
        (experiment,) = client.search_experiments(filter_string="name = 'tests'")
        runs = client.search_runs([experiment.experiment_id], "tags.\"trial.state\" LIKE '%'")
        assert len(runs) == 2
        (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
        assert client.get_run(parent).data.metrics["trials"] == 2


def test_spark_connect_and_trials_at_a_time_without_a_cluster_are_refused_in_one_line(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "store"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("SPARK_REMOTE", "sc://127.0.0.1:1")
    with registered.store_for_many(empty_store, tmp_path / "store"):
        made = registered.process(registered.carts(200), tmp_path / "data")
        for options, said in (
            ({"trials": "spark"}, "Error: trials=spark cannot use Spark Connect (SPARK_REMOTE)"),
            ({"parallelism": 4}, "Error: parallelism=4 needs trials=spark"),
        ):
            outcome = registered.invoke(train, dataset=made, **options)
            assert outcome.exit_code == 1
            assert [line for line in outcome.output.splitlines() if line.startswith(said)]
            assert "Traceback" not in outcome.output


def test_without_pyspark_trials_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with (
        pytest.raises(click.ClickException, match=r"trials=spark needs PySpark.*or take trials=local"),
        trials_on_spark.cluster(2),
    ):
        pass
