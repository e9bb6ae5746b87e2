"""Workflows that share a server and run at the same time."""

import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.workflow.runner import Outcome, Workflow

SMALL = ("-P", "source=sample:5000", "-P", "max_evals=1", "-P", "registry_name=together")
#: Maximum minutes for a workflow. It takes far less, but 4 workflows may share 2 cores with other programs.
MINUTES = 15


def all_outcomes(workflow: Workflow, processes: list[subprocess.Popen[str]]) -> list[Outcome]:
    with ThreadPoolExecutor(len(processes)) as pool:  # read all pipes at once: a full pipe would stop its workflow
        outcomes = list(pool.map(lambda process: workflow.outcome(process, MINUTES * 60), processes))
    for outcome in outcomes:
        assert outcome.code == 0, outcome.err
    return outcomes


def test_four_at_once_compute_nothing_twice_and_leave_a_consistent_registry(workflow: Workflow) -> None:
    metrics = ["roc_auc", "roc_auc", "roc_auc", "log_loss"]
    outcomes = all_outcomes(workflow, [workflow.start_main(*SMALL, "-P", f"metric={metric}") for metric in metrics])

    # Three workflows are identical, and the fourth optimises another metric. So load and process run once, and train
    # and deploy run twice.
    for step, times in (("load", 1), ("process", 1), ("train", 2), ("deploy", 2)):
        ran = [outcome for outcome in outcomes if outcome.steps[step] == "ran"]
        runs = workflow.runs(step)
        assert (step, len(ran), len(runs)) == (step, times, times)
        assert len({run.data.tags["step.key"] for run in runs}) == times
        assert {run.info.status for run in runs} == {"FINISHED"}
    reused = {run.data.tags.get("reused.load") for run in workflow.runs("main")} - {None}
    assert reused == {workflow.runs("load")[0].info.run_id}
    assert {run.info.status for run in workflow.runs("main")} == {"FINISHED"}
    assert not [run for run in workflow.runs("main") if "lease.key" in run.data.tags]

    models = {run.data.tags["step.digest"] for run in workflow.runs("train")}
    versions = workflow.client.search_model_versions("name='together'")
    assert Counter(version.tags["model.digest"] for version in versions) == Counter(models)
    assert {version.status for version in versions} == {"READY"}
    holder = workflow.client.get_model_version_by_alias("together", "staging")
    assert [version.version for version in versions if version.current_stage == "Staging"] == [holder.version]
    assert holder.tags["gate"] == "passed"
