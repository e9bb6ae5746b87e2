"""Entry point `predict`: every row of an input scored by a registered model.

In: a model, and any source that `load` reads: events, or a primary table with or without the label. Out: `output`, CSV
or Parquet by its ending, with the keys, `probability`, `will_buy`, `model_version` and this run's `run_id`; and in the
run what was read (`source.json`), what was refused (`rejects.csv`), and how far the input has moved from the training
data (`psi_<column>`, `drift.json`, `drift.png`).

    mlflow run . -e predict --env-manager local -P model=models:/purchase_predict@production \
        -P input=/data/carts -P output=/data/scored.parquet
"""

import json
from pathlib import Path
from typing import Any

import click
import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from purchase_predict import prediction
from purchase_predict.models import packaging
from purchase_predict.registry import versions
from purchase_predict.workflow.command import command
from purchase_predict.workflow.completed import INPUTS, run_of
from purchase_predict.workflow.stopping import scratch_folder


@command("predict")
def predict(run: Run, model: str, input: str, output: str, **reading: Any) -> None:
    """Score every row of an input into one file."""
    target = Path(output).expanduser().resolve()
    model, version = versions.pinned(model)
    trained, packaged = run_of(model), packaging.load(model, checked=False)
    marks = {"model_version": version, "run_id": run.info.run_id}
    with scratch_folder() as scratch, scratch_folder() as record:
        reference = _training_profile(json.loads(trained.data.tags[INPUTS])["dataset"])
        made = prediction.predict(input, target, packaged, marks, reference, scratch, record, **reading)
        mlflow.log_artifacts(str(record))

    mlflow.log_metrics(made.metrics)
    mlflow.set_tags({"predict.model": model, "predict.train_run": trained.info.run_id, "predict.output": str(target)})
    if made.warning:
        mlflow.set_tag("predict.drift", made.warning)
        click.echo(f"predict: {made.warning}", err=True)
    click.echo(
        f"predict: {made.loaded.rows} rows of the {made.loaded.table} table, {made.loaded.rejected} refused; "
        f"{made.scored.rows} carts scored by {model}, {made.scored.will_buy} of them will buy: {target}"
    )


def _training_profile(dataset: str) -> dict[str, Any] | None:
    """The profile of the rows that the model was trained on; None, with a line, if they are no longer described."""
    with scratch_folder() as folder:
        try:
            file = mlflow.artifacts.download_artifacts(f"{dataset}/dataset.json", dst_path=str(folder))
            return dict(json.loads(Path(file).read_text(encoding="utf-8"))["profile"])
        except (MlflowException, OSError, KeyError):
            click.echo(f"predict: drift is not measured, {dataset} no longer describes the training data", err=True)
            return None


if __name__ == "__main__":
    predict()
