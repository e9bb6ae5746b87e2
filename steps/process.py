"""Step `process`: computes the features, and splits the rows into a train and a test set without leakage.

In: `runs:/<run id>/events` or `/primary` of a load run. Out: `dataset/train.parquet`, `dataset/test.parquet`,
`dataset/dataset.json` (split, row counts, base rates, features, categories).

With `engine=spark`, Spark's executors compute the features from events: they read load's artifacts and write
`primary/*.parquet` to this run's artifacts. With both engines, DuckDB makes the split, and the rows are the same.

    mlflow run . -e process --env-manager local -P data=runs:/<run id>/events
"""

import json
from dataclasses import asdict, replace

import mlflow

from purchase_predict.database import connect
from purchase_predict.errors import print_line
from purchase_predict.features import primary, split
from purchase_predict.features.primary import Artifact
from purchase_predict.parameters import Engine
from purchase_predict.progress import phase
from purchase_predict.workflow import datasets
from purchase_predict.workflow.completed import run_of
from purchase_predict.workflow.step import Output, StepRun, step


@step("process")
def process(run: StepRun, data: str, test_ratio: float, memory_limit: str, engine: Engine) -> Output:
    """Compute the features, and split the rows into training and test set."""
    manifest = json.loads(run.fetch(f"{data.rpartition('/')[0]}/source.json").read_text(encoding="utf-8"))
    datasets.log_input(manifest["source"], manifest["digest"], manifest["rows"], "source")
    outputs = run.folder()
    with connect(run.scratch, memory_limit) as connection:
        if engine == Engine.SPARK and data.endswith("/events"):
            events = Artifact(f"{run_of(data).info.artifact_uri}/events", lambda: run.fetch(data))
            written = Artifact(mlflow.get_artifact_uri("primary"), lambda: run.fetch_own("primary"))
            copy = run.folder() / "primary"
            counts = primary.make_on_spark(connection, manifest, events, written, copy)
        else:
            counts = primary.make(connection, run.fetch(data))
        with phase("splitting into train and test"):
            made = split.split(connection, test_ratio, outputs)
    description = replace(made.description, events=counts)
    description.write(outputs)
    rows = description.rows
    mlflow.log_metrics({f"{name}_rows": count for name, count in asdict(rows).items()} | counts)
    run.log(outputs, "dataset")
    if made.note:
        print_line(f"process: {made.note}", err=True)
    summary = (
        f"{rows.read} rows, {rows.repeated} repeated rows dropped; "
        f"split by {description.split} into {rows.train} training and {rows.test} test rows"
    )
    return Output("dataset", made.digest, summary)


if __name__ == "__main__":
    process()
