"""Killed processes, hostile values, and stores that cannot work."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from tests.conftest import checkout, new_store
from tests.workflow.runner import Workflow, clean_environ

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("faults") / "project")


@pytest.fixture
def workflow(project: Path, empty_store: Path, tmp_path: Path) -> Workflow:
    return Workflow(project, new_store(empty_store, tmp_path / "store"))


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in found]


def starting(step: str, main: int) -> list[int]:
    """The processes of a step that main has started: it starts git, too, and each is a shell at first."""

    def arguments(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return ""

    return [child for child in children(main) if f"steps.{step}" in arguments(child)]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.1)


def until_training(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Waits until the first trial is done; answers with the process ids of main and of the step."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith("train: trial 1"):
            break
    (main,) = children(process.pid)
    (step,) = children(main)
    return main, step


LONG = ("-P", "source=sample:20000", "-P", "max_evals=400")


def test_a_killed_step_is_not_taken_for_complete_and_a_killed_launcher_stops_its_children(workflow: Workflow) -> None:
    process = workflow.start(*LONG)
    _, step = until_training(process)
    os.kill(step, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert [line for line in err.splitlines() if line.startswith("Error: train ended without a word")]
    assert "Traceback" not in err
    assert "step.complete" not in workflow.runs("train")[0].data.tags

    process = workflow.start(*LONG)
    main, step = until_training(process)
    process.terminate()
    process.communicate(timeout=60)
    wait_for(lambda: not alive(main) and not alive(step), 30)
    assert [run.info.status for run in (*workflow.runs("train")[:1], *workflow.runs("main")[:1])] == ["KILLED"] * 2

    outcome = workflow.run("-P", "source=sample:20000", "-P", "max_evals=1")
    assert outcome.steps == {"load": "reused", "process": "reused", "train": "ran", "deploy": "ran"}
    # The killed searches were not for nothing: their first trial is not run again.
    assert "train: 1 trials of an earlier search with the same key are taken over" in outcome.out
    assert workflow.runs("train")[0].data.metrics["trials_taken_over"] == 1


def test_a_step_whose_main_died_before_it_began_ends_too(workflow: Workflow) -> None:
    process = workflow.start("-P", "source=sample:20000", "-P", "max_evals=4000")
    assert process.stdout
    for line in process.stdout:
        if line.startswith("train: running"):
            break
    (main,) = children(process.pid)
    wait_for(lambda: starting("train", main))
    (step,) = starting("train", main)
    os.kill(main, signal.SIGKILL)
    process.communicate(timeout=180)  # the step writes to the same pipe
    wait_for(lambda: not alive(step))
    assert workflow.runs("train")[0].info.status in ("KILLED", "RUNNING")  # it had not begun, or not come to its end


def test_values_arrive_as_typed_and_reach_no_shell(workflow: Workflow, tmp_path: Path) -> None:
    from purchase_predict import sample

    name = "a b'c\"d $(touch pwned) `touch pwned` ; é {x} -- \\n"
    folder = tmp_path / name
    folder.mkdir()
    sample.write(folder / "part.parquet", 300)
    outcome = workflow.run("-e", "load", "-P", f"source={folder}")
    assert outcome.code == 0, outcome.err
    assert not list(workflow.project.rglob("pwned"))
    assert workflow.runs("load")[0].data.metrics["rows"] == 300
    missing = workflow.run("-P", f"source={name}", "-P", "env=", "-P", "force=")
    assert missing.error[0].startswith(f"Error: source {name}: no such file or folder")


def test_a_relative_store_and_a_git_url_get_a_sentence_that_says_what_to_set(project: Path, tmp_path: Path) -> None:
    outcome = Workflow(project, "").run(uri="sqlite:///x.db", project=project.as_uri() + "#", cwd=tmp_path)
    assert outcome.code == 1
    assert len(outcome.error) == 1
    assert "Set an absolute one: MLFLOW_TRACKING_URI=sqlite:////" in outcome.error[0]
    assert "Traceback" not in outcome.err


def test_a_server_that_only_dotenv_names_stops_main_before_any_step(project: Path, tmp_path: Path) -> None:
    copy = checkout(tmp_path / "project")
    (copy / ".env").write_text("ENV=staging\nMLFLOW_TRACKING_URI=http://127.0.0.1:9\n")
    default = f"sqlite:///{copy}/mlflow.db"
    process = subprocess.run(
        ["mlflow", "run", ".", "--env-manager", "local"],
        cwd=copy,
        env=clean_environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert "mlflow --env-file .env run ." in process.stderr
    assert "Traceback" not in process.stderr
    (run,) = mlflow.MlflowClient(default).search_runs(["0"])
    assert run.info.status == "FAILED"
    assert "Error: " + run.data.tags["error"] in process.stderr


def test_a_run_id_left_in_the_environment_does_not_hijack_the_steps(workflow: Workflow) -> None:
    experiment = workflow.client.get_experiment_by_name("tests")
    bystander = workflow.client.create_run(experiment.experiment_id).info.run_id
    outcome = workflow.run("-e", "load", "-P", "source=sample:300", MLFLOW_RUN_ID=bystander)
    assert outcome.code == 0, outcome.err
    assert workflow.runs("load")[0].info.run_id != bystander
    assert "step.key" not in workflow.client.get_run(bystander).data.tags
