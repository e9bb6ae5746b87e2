"""A run that is ended by Ctrl-C records that it was interrupted, and how many trials are kept for the next run."""

from typing import Any

import mlflow
import pytest
from mlflow.entities import Run, RunStatus

from purchase_predict.workflow import trials
from purchase_predict.workflow.command import command


def recorded_trials(parent: Run, count: int) -> None:
    facts: dict[str, Any] = {"state": "finished", "score": 0.7, "first_folds_score": None, "rounds": 9, "seconds": 0.1}
    for number in range(count):
        trials.record({**facts, "number": number, "params": {}}, "search-key", parent)


@pytest.mark.parametrize(("entry_point", "count"), [("train", 0), ("train", 1), ("train", 3), ("main", 3)])
def test_an_interrupted_run_says_so_and_what_is_kept(
    store: str, entry_point: str, count: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")

    @command(entry_point)
    def interrupted(run: Run, **_: Any) -> None:
        step = run
        if entry_point == "main":
            tags = {"mlflow.parentRunId": run.info.run_id}
            step = mlflow.MlflowClient().create_run(run.info.experiment_id, tags=tags, run_name="train")
        recorded_trials(step, count)
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        interrupted.main([])
    assert ended.value.code == 130
    runs = mlflow.search_runs(experiment_names=["tests"], output_format="list")
    run = next(run for run in runs if run.info.status == "KILLED")
    expected = {
        0: "",
        1: ": 1 finished trial is kept; the next run with the same data, code, metric and seed continues from there",
        3: ": 3 finished trials are kept; the next run with the same data, code, metric and seed continues from there",
    }[count]
    assert run.data.tags["mlflow.note.content"] == f"**Interrupted**{expected}"
    # Main prints no line, because its interrupted step prints the line on the same terminal.
    said = capsys.readouterr().err.strip()  # click adds an empty line
    assert said == ("" if entry_point == "main" else f"train: interrupted{expected}")


def test_mlflow_still_overwrites_the_status_of_a_run_that_has_ended() -> None:
    """If this test fails, MLflow has fixed the bug: then remove section 3 of docs/upstream.md."""
    assert not RunStatus.is_terminated("KILLED")  # type: ignore[arg-type]
