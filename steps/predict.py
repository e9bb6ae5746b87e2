"""Entry point `predict`: scores every row of an input with a registered model.

In: a model, and any source that `load` reads: events, or a primary table with or without the label. For events,
`history` names a source of earlier events, so that the features include the visitors' past. Out: the file `output`, CSV
or Parquet by its ending, with the key columns, the moment if there is one, `probability`, `will_buy`, `model_version`
and this run's `run_id`. The run keeps what was read (`source.json`), what was refused (`rejects.csv`), and the drift
from the training data (`drift.html`, `drift.json`, `drift.png`, metrics `psi_<column>`).

    mlflow run . -e predict --env-manager local -P model=models:/purchase_predict@production \
        -P input=/data/carts -P output=/data/scored.parquet
"""

from typing import Any

import mlflow
from mlflow.entities import Run

from purchase_predict import prediction
from purchase_predict.errors import print_line
from purchase_predict.models import packaging
from purchase_predict.parameters import local_path
from purchase_predict.registry import versions
from purchase_predict.report import drift_page
from purchase_predict.sources.sources import refuse_output
from purchase_predict.workflow import descriptions, models
from purchase_predict.workflow.command import command
from purchase_predict.workflow.completed import fetch
from purchase_predict.workflow.scratch import incomplete, scratch_folder


@command("predict")
def predict(run: Run, model: str, output: str, **sources: Any) -> None:
    """Score every row of an input, and write the scored rows to one file."""
    read = prediction.Sources(**sources)
    target = local_path("output", output)
    for source in filter(None, (read.input, read.history)):
        refuse_output(source, target)
    model, version = versions.pinned(model)
    trained = models.find(model)
    packaged = packaging.load(trained.address, versions.files_of(model))
    marks = {"model_version": version, "run_id": run.info.run_id}
    with scratch_folder() as scratch, scratch_folder() as record:
        dataset = trained.trained_on if trained.run else ""
        reference = prediction.training_profile(dataset, lambda: fetch(f"{dataset}/dataset.json", scratch))
        made = prediction.predict(read, target, incomplete(target), packaged, marks, reference, scratch, record)
        drift_page.write(made, {"model": model, "train run": trained.run_id, "output": str(target), **sources}, record)
        mlflow.log_artifacts(str(record))
        files = [name for name in (drift_page.NAME, "rejects.csv") if (record / name).exists()]
    mlflow.log_metrics(made.metrics)
    mlflow.set_tags({"predict.model": model, "predict.train_run": trained.run_id, "predict.output": str(target)})
    for tag, line in made.remarks.items():
        mlflow.set_tag(tag, line)
        print_line(f"predict: {line}", err=True)
    descriptions.describe(run, made.sentence(model, target), files, {"the model": model} | trained.links)
    print_line(f"predict: {made.sentence(model, target)}")


if __name__ == "__main__":
    predict()
