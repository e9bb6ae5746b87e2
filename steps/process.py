"""Step `process`: the table load wrote to a train and a test set, split without leakage.

In: `runs:/<run id>/events` or `/primary` of a load run. Out: `dataset/train.parquet`, `dataset/test.parquet`,
`dataset/dataset.json` (how split, rows, base rates, features, categories).

    mlflow run . -e process --env-manager local -P data=runs:/<run id>/events
"""

import json

import click
import mlflow

from purchase_predict import dataset, engine, lineage
from purchase_predict.workflow import Output, StepRun, step


@step("process")
def process(run: StepRun, data: str, test_ratio: float, memory_limit: str) -> Output:
    """Make the features and split the rows."""
    table = run.fetch(data)
    manifest = json.loads(run.fetch(f"{data.rpartition('/')[0]}/source.json").read_text(encoding="utf-8"))
    lineage.log_input(manifest["source"], manifest["digest"], manifest["rows"], "source")
    outputs = run.folder()
    with engine.connect(run.scratch, memory_limit) as connection:
        build = dataset.primary_from_events if table.name == "events" else dataset.primary_as_is
        counts = build(connection, table)
        made = dataset.split(connection, test_ratio, outputs)
    description = made.description | {"events": counts} if counts else made.description
    (outputs / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    rows = description["rows"]
    mlflow.log_metrics({f"{name}_rows": count for name, count in rows.items()} | counts)
    mlflow.log_artifacts(str(outputs), "dataset")
    click.echo(
        f"process: {rows['read']} rows, {rows['repeated']} repeated ones dropped; "
        f"by {description['split']}: {rows['train']} to train, {rows['test']} to test"
    )
    return Output("dataset", made.digest)


if __name__ == "__main__":
    process()
