"""Trials on a real Spark cluster of 2 workers: they equal the trials of this process, and errors are one line."""

import dataclasses
import sys
from pathlib import Path

import click
import mlflow
import pytest

from purchase_predict.search import on_spark, search
from purchase_predict.search.trial import Trial
from steps.train import train
from tests import registered
from tests.search.tables import MadeRows, both_kinds, table

pytest.importorskip("pyspark")
pytestmark = pytest.mark.servers


@pytest.mark.usefixtures("mounted")
@both_kinds
def test_the_trials_of_two_workers_are_those_of_this_process(made_rows: MadeRows) -> None:
    here = search.search(made_rows(), 4, "roc_auc", 2, parallelism=2)
    told: list[int] = []
    kept = [dataclasses.replace(here.trials[0], out_of_fold=None)]
    with on_spark.cluster(0) as (run, parallelism):
        assert parallelism == 2  # the number of cores in the cluster
        there = search.search(
            made_rows(),
            4,
            "roc_auc",
            2,
            lambda trial: told.append(trial.number),
            kept,
            run_batch=run,
            parallelism=parallelism,
        )
    assert sorted(told) == [1, 2, 3]  # trial 0 is not run again, because it is in `kept`
    assert [(t.number, t.state, t.point, t.loss) for t in there.trials] == [
        (t.number, t.state, t.point, t.loss) for t in here.trials
    ]
    assert {trial.state for trial in there.trials} == {"finished", "pruned"}
    assert there.booster.model_to_string() == here.booster.model_to_string()
    assert there.threshold == here.threshold


@pytest.mark.usefixtures("mounted")
def test_what_fails_on_the_cluster_is_said_and_what_fails_here_ends_the_search() -> None:
    broken = dataclasses.replace(table(), features=["a"])
    with on_spark.cluster(2) as (run, parallelism):
        with pytest.raises(
            click.ClickException, match=r"all trials of the search failed \(2 in total\); error of trial 1: \w+Error: "
        ):
            search.search(broken, 2, "roc_auc", 1, run_batch=run, parallelism=parallelism)

        def refuse(trial: Trial) -> None:
            raise ConnectionError("the tracking server is gone")

        with pytest.raises(ConnectionError, match="is gone"):
            search.search(table(), 2, "roc_auc", 1, refuse, run_batch=run, parallelism=parallelism)


@pytest.mark.usefixtures("mounted")
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
            ({"trials": "spark"}, "Error: trials=spark: hyperopt does not support Spark Connect: unset SPARK_REMOTE"),
            ({"parallelism": 4}, "Error: parallelism=4 needs trials=spark"),
        ):
            outcome = registered.invoke(train, dataset=made, **options)
            assert outcome.exit_code == 1
            assert [line for line in outcome.output.splitlines() if line.startswith(said)]
            assert "Traceback" not in outcome.output


def test_without_pyspark_trials_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with (
        pytest.raises(click.ClickException, match=r"trials=spark needs PySpark.*or use trials=local"),
        on_spark.cluster(2),
    ):
        pass
