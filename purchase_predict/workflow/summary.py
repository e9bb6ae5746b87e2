"""The lines that main, or a step that runs alone, prints at its end, and the record of the outcome on main's run."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mlflow
from mlflow.entities import Metric, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from purchase_predict.errors import printable
from purchase_predict.metrics import SEARCHABLE
from purchase_predict.secrets import shown_uri
from purchase_predict.workflow import addresses, descriptions
from purchase_predict.workflow.chain import Chain, Done
from purchase_predict.workflow.storing import local_folder

#: PATH of the caller's shell. `make` passes it in CALLERS_PATH, because `make` puts .venv's programs first in PATH.
_CALLERS_PATH = os.environ.get("CALLERS_PATH") or os.environ.get("PATH", "")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _what(done: Done) -> str:
    return "reused" if done.reused else "ran" if done.run else "would run"


def steps_table(steps: Sequence[Done]) -> str:
    """One line per step: whether it ran or was reused, its run, its seconds, and why it could not be reused."""
    rows = [("step", "", "run", "seconds", "why")]
    for done in steps:
        run_id = done.run.info.run_id if done.run else "-"
        rows.append((done.step, _what(done), run_id, f"{done.seconds:.1f}", printable(done.reason)))
    return _aligned(rows)


def record(chain: Chain, train: Run, sentence: str, version: str, outcome: str) -> None:
    """Records the outcome on main's run, so that workflows can be compared and sorted on MLflow's page.

    Args:
        chain: the chain, whose steps have all ended.
        train: the run of train. Its `test_<metric>` and `baseline_<metric>` are copied to main's run.
        sentence: the outcome in a sentence, for the description.
        version: the number of the version. It is recorded as a metric, because MLflow sorts tags as texts (10 before
            9), and also as a tag, which MLflow shows beside the tag `outcome`.
        outcome: the state of the version when main's run ended: "held staging" or "waited for approval", for example.
    """
    steps = [(done.step, _what(done), done.run) for done in chain.done if done.run]
    written = chain.reused | {MLFLOW_RUN_NOTE: descriptions.of_steps(steps, sentence)}
    written |= {"version": version, "outcome": outcome}
    wanted = {f"{kind}_{name}" for name in SEARCHABLE for kind in ("test", "baseline")}
    numbers = {name: value for name, value in train.data.metrics.items() if name in wanted}
    numbers["version"] = float(version)
    now = int(time.time() * 1000)
    mlflow.MlflowClient().log_batch(
        chain.run.info.run_id,
        metrics=[Metric(name, value, now, 0) for name, value in numbers.items()],
        tags=[RunTag(name, value) for name, value in written.items()],
    )


def record_dry_run(chain: Chain) -> None:
    """Marks main's run as a dry run, by the tag `dry_run` and a description."""
    marks = {"dry_run": "true", MLFLOW_RUN_NOTE: "A dry run: nothing was run or changed."}
    mlflow.set_tags(chain.reused | marks)


def metrics_table(train: Run, metric: str = "") -> str:
    """The test metrics of a train run beside those of the baseline. `metric` is marked as the optimised one."""
    numbers = train.data.metrics
    rows = [("test metric", "model", "95 % interval", "baseline")]
    for name in SEARCHABLE:
        mark = " (optimised)" if name == metric else ""
        rows.append(
            (
                name + mark,
                f"{numbers[f'test_{name}']:.4f}",
                f"{numbers[f'test_{name}_low']:.4f} to {numbers[f'test_{name}_high']:.4f}",
                f"{numbers[f'baseline_{name}']:.4f}",
            )
        )
    return _aligned(rows)


def of_step_alone(run: Run, output: str) -> str:
    """The lines about a step that was started alone: its run and output; for train also the metrics and the report.

    Args:
        run: the run of the step.
        output: the path of the artifact that the next step takes.
    """
    lines = [f"run:    {run.info.run_id}", f"made:   {addresses.RunUri(run.info.run_id, output)}"]
    if "test_roc_auc" in run.data.metrics:
        lines = [metrics_table(run), "", *lines, f"report: {report_of(run)}"]
    return "\n" + "\n".join(lines)


def report_of(train: Run) -> str:
    """Where a train run's report is: a file of this machine, or a page of the tracking server."""
    folder = local_folder(train.info.artifact_uri)
    if folder:
        return str(folder / descriptions.REPORT)
    home = train.info.experiment_id, train.info.run_id
    return f"{addresses.server() or addresses.UI}/{addresses.artifact_page(*home, descriptions.REPORT)}"


def what_came_out(train: Run, metric: str, standing: str, serve: str) -> str:
    """The result of a workflow: test metrics, state of the version, report, and how to continue.

    To continue, the user gets the link or the command for MLflow's page, and the command that serves the model.

    Args:
        train: the run of train.
        metric: the metric that the search optimised.
        standing: whether the version now holds the alias or waits for approval, in a sentence.
        serve: the URI of the model to serve; empty: there is none.
    """
    tracking = shown_uri(mlflow.get_tracking_uri())
    page = addresses.runs_page(train.info.experiment_id)
    lines = [metrics_table(train, metric), "", standing, f"report: {report_of(train)}"]
    lines += _first_line()
    if server := addresses.server():
        lines.append(f"look:   {server}/{page}")
    else:
        lines += [f"look:   mlflow ui --backend-store-uri {tracking}", f"        and open {addresses.UI}/{page}"]
    if serve:
        lines.append(f"serve:  MLFLOW_TRACKING_URI={tracking} mlflow models serve -m {serve} --env-manager local")
    return "\n".join(lines)


def _first_line() -> list[str]:
    """The line with the command that activates the virtual environment.

    Empty if the environment is in the caller's PATH, or if it has no file `activate`.
    """
    folder = Path(sys.executable).parent
    if str(folder) in _CALLERS_PATH.split(os.pathsep) or not (folder / "activate").exists():
        return []
    return [f"first:  source {folder / 'activate'}"]
