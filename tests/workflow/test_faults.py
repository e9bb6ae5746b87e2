"""Killed processes, hostile parameter values, and tracking stores that cannot be used."""

import os
import signal
import subprocess
from pathlib import Path

import mlflow
import pytest

from purchase_predict.sources import sample
from tests.conftest import checkout, new_store
from tests.workflow.processes import LONG, alive, main_and_step, until_training, wait_for
from tests.workflow.runner import Workflow, clean_environ

pytestmark = pytest.mark.servers


def test_a_killed_step_is_not_taken_for_complete_and_a_killed_launcher_stops_its_children(workflow: Workflow) -> None:
    workflow.prepare(*LONG[:2])
    process = workflow.start(*LONG)
    _, step = until_training(process)
    os.kill(step, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert line.startswith("Error: train ended without an error message")
    assert "Traceback" not in err
    assert "step.complete" not in workflow.runs("train")[0].data.tags

    process = workflow.fresh.start(*LONG)
    main, step = until_training(process)
    process.terminate()
    said = process.communicate(timeout=60)
    wait_for(lambda: not alive(main) and not alive(step), 30)
    ended = [run.info.status for run in (*workflow.runs("train")[:1], *workflow.runs("main")[:1])]
    assert ended == ["KILLED"] * 2, said

    outcome = workflow.step_here("train", "-P", "max_evals=1")
    assert outcome.code == 0, outcome.err
    # The first trial of the killed searches is reused, not run again.
    assert "train: trials reused from an earlier search with the same search key: 1" in outcome.out
    assert workflow.runs("train")[0].data.metrics["trials_taken_over"] == 1


def test_a_step_whose_main_died_before_it_began_ends_too(workflow: Workflow) -> None:
    workflow.prepare(*LONG[:2])
    process = workflow.fresh.start_main(*LONG)
    main, step = main_and_step(process, "train")
    os.kill(step, signal.SIGSTOP)  # the step still imports its modules
    os.kill(main, signal.SIGKILL)
    wait_for(lambda: not alive(main))
    (run,) = workflow.runs("train")  # main opens the step's run before it starts the step's process
    assert "lease.heartbeat" not in run.data.tags
    os.kill(step, signal.SIGCONT)
    said, _ = process.communicate(timeout=300)  # waits for the step, too, which writes to the same pipe
    wait_for(lambda: not alive(step))
    assert "train: trial 10/400" not in said
    # RUNNING if the step ended before it had entered its run.
    assert workflow.runs("train")[0].info.status in ("KILLED", "RUNNING")


#: A folder name with characters that have a meaning in a shell, a format string or a command line.
HOSTILE = "a b'c\"d $(touch pwned) `touch pwned` ; é {x} -- \\n"


@pytest.fixture(scope="module")
def hostile(project: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workflow, str]:
    """A workflow whose load has read a folder with a hostile name, and the id of an unrelated run.

    `mlflow run -e load` was called with the id of the unrelated run in MLFLOW_RUN_ID.
    """
    folder = tmp_path_factory.mktemp("hostile")
    workflow = Workflow(project, new_store(empty_store, folder / "store"))
    experiment = workflow.client.get_experiment_by_name("tests")
    bystander = workflow.client.create_run(experiment.experiment_id).info.run_id
    (folder / HOSTILE).mkdir()
    sample.write(folder / HOSTILE / "part.parquet", 300)
    outcome = workflow.run("-e", "load", "-P", f"source={folder / HOSTILE}", MLFLOW_RUN_ID=bystander)
    assert outcome.code == 0, outcome.err
    return workflow, bystander


def test_values_arrive_as_typed_and_reach_no_shell(hostile: tuple[Workflow, str]) -> None:
    workflow, _ = hostile
    assert not list(workflow.project.rglob("pwned"))
    assert workflow.runs("load")[0].data.metrics["rows"] == 300
    missing = workflow.run("-P", f"source={HOSTILE}", "-P", "env=", "-P", "force=")
    assert missing.error[0].startswith(f"Error: source {HOSTILE}: no such file or folder")
    assert not list(workflow.project.rglob("pwned"))


def test_a_run_id_left_in_the_environment_does_not_hijack_the_steps(hostile: tuple[Workflow, str]) -> None:
    workflow, bystander = hostile
    assert workflow.runs("load")[0].info.run_id != bystander
    assert "step.key" not in workflow.client.get_run(bystander).data.tags


def test_a_relative_store_and_a_git_url_get_a_sentence_that_says_what_to_set(project: Path, tmp_path: Path) -> None:
    outcome = Workflow(project, "").run(uri="sqlite:///x.db", project=project.as_uri() + "#", cwd=tmp_path)
    assert outcome.code == 1
    assert len(outcome.error) == 1
    assert "Set an absolute path: MLFLOW_TRACKING_URI=sqlite:////" in outcome.error[0]
    assert "Traceback" not in outcome.err


def test_a_server_that_only_dotenv_names_stops_main_before_any_step(project: Path, tmp_path: Path) -> None:
    copy = checkout(tmp_path / "project")
    (copy / ".env").write_text("ENV=staging\nMLFLOW_TRACKING_URI=http://127.0.0.1:9\n")
    default = f"sqlite:///{copy}/mlflow.db"
    launcher = subprocess.Popen(
        ["mlflow", "run", ".", "--env-manager", "local"],
        cwd=copy,
        env=clean_environ() | Workflow(copy, default).path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    outcome = Workflow.outcome(launcher)
    assert outcome.code == 1
    assert "mlflow --env-file .env run ." in outcome.err
    assert "Traceback" not in outcome.err
    (run,) = mlflow.MlflowClient(default).search_runs(["0"])
    assert run.info.status == "FAILED"
    assert "Error: " + run.data.tags["error"] in outcome.err
