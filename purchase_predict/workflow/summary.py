"""What main prints at the end: the steps, the metrics beside their baselines, the version, and how to use it."""

from collections.abc import Sequence

import mlflow
from mlflow.entities import Run

from purchase_predict.metrics import SEARCHABLE
from purchase_predict.secrets import shown_uri
from purchase_predict.workflow import addresses
from purchase_predict.workflow.chain import Done


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def steps_table(steps: Sequence[Done]) -> str:
    """One line per step: ran or reused, the run, seconds, and why it could not be reused."""
    rows = [("step", "", "run", "seconds", "why")]
    for done in steps:
        what = "reused" if done.reused else "ran" if done.run else "would run"
        run_id = done.run.info.run_id if done.run else "-"
        rows.append((done.step, what, run_id, f"{done.seconds:.1f}", done.reason))
    return _aligned(rows)


def description(steps: Sequence[Done]) -> str:
    """The description of main's run on MLflow's page, in Markdown: which steps ran or were reused, and the report."""
    lines = ["| step | | run |", "|---|---|---|"]
    report = ""
    for done in steps:
        if done.run is None:
            continue
        page = addresses.page(done.run.info.experiment_id, done.run.info.run_id)
        lines.append(f"| {done.step} | {'reused' if done.reused else 'ran'} | [{done.run.info.run_id}]({page}) |")
        if done.step == "train":
            report = f"[Report of the model]({page}/artifacts/report.html)\n\n"
    return report + "\n".join(lines)


def what_came_out(train: Run, metric: str, standing: str, serve: str) -> str:
    """The test metrics beside those of a constant answer, where the version stands, and the commands to open and serve.

    Args:
        train: the run of train.
        metric: what was searched.
        standing: what the registry says of the version now.
        serve: the URI of the model to serve; empty: there is none.
    """
    numbers = train.data.metrics
    rows = [("test metric", "model", "95 % interval", "constant answer")]
    for name in SEARCHABLE:
        mark = " (searched)" if name == metric else ""
        rows.append(
            (
                name + mark,
                f"{numbers[f'test_{name}']:.4f}",
                f"{numbers[f'test_{name}_low']:.4f} to {numbers[f'test_{name}_high']:.4f}",
                f"{numbers[f'baseline_{name}']:.4f}",
            )
        )
    tracking = shown_uri(mlflow.get_tracking_uri())
    ui = tracking if tracking.startswith("http") else f"mlflow ui --backend-store-uri {tracking}"
    lines = [_aligned(rows), "", standing, f"look:  {ui}"]
    if serve:
        lines.append(f"serve: MLFLOW_TRACKING_URI={tracking} mlflow models serve -m {serve} --env-manager local")
    return "\n".join(lines)
