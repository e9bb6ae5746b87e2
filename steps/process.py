"""Step `process`: the table load wrote to a train and a test set, split without leakage.

In: `runs:/<run id>/events` or `/primary` of a load run. Out: `dataset/train.parquet`, `dataset/test.parquet`,
`dataset/dataset.json` (how split, rows, base rates, features, categories).

With `engine=spark`, Spark makes the features of events, from load's artifact to the artifact `primary/*.parquet` of
this run, without a row in this process; what came out is split by DuckDB in both cases, and both give the same rows.

    mlflow run . -e process --env-manager local -P data=runs:/<run id>/events
"""

import json
import shutil
from dataclasses import asdict, replace
from typing import Any

import click
import duckdb
import mlflow

from purchase_predict.database import connect
from purchase_predict.features import on_duckdb, split
from purchase_predict.workflow import datasets
from purchase_predict.workflow.completed import run_of
from purchase_predict.workflow.step import Output, StepRun, step


@step("process")
def process(run: StepRun, data: str, test_ratio: float, memory_limit: str, engine: str) -> Output:
    """Make the features and split the rows."""
    manifest = json.loads(run.fetch(f"{data.rpartition('/')[0]}/source.json").read_text(encoding="utf-8"))
    datasets.log_input(manifest["source"], manifest["digest"], manifest["rows"], "source")
    outputs = run.folder()
    with connect(run.scratch, memory_limit) as connection:
        counts = _primary(connection, run, data, engine, manifest)
        made = split.split(connection, test_ratio, outputs)
    description = replace(made.description, events=counts)
    description.write(outputs)
    rows = description.rows
    mlflow.log_metrics({f"{name}_rows": count for name, count in asdict(rows).items()} | counts)
    mlflow.log_artifacts(str(outputs), "dataset")
    click.echo(
        f"process: {rows.read} rows, {rows.repeated} repeated ones dropped; "
        f"by {description.split}: {rows.train} to train, {rows.test} to test"
    )
    return Output("dataset", made.digest)


def _primary(
    connection: duckdb.DuckDBPyConnection, run: StepRun, data: str, engine: str, manifest: dict[str, Any]
) -> dict[str, int]:
    """Makes `primary_table` of what load wrote; answers with how many events were taken and dropped."""
    if engine == "spark" and data.endswith("/events"):
        return _primary_by_spark(connection, run, data, manifest["session_type"])
    table = run.fetch(data)
    build = on_duckdb.primary_from_events if table.name == "events" else on_duckdb.primary_as_is
    return build(connection, table)


def _primary_by_spark(
    connection: duckdb.DuckDBPyConnection, run: StepRun, data: str, session_type: str
) -> dict[str, int]:
    from purchase_predict.features import on_spark  # it needs Ibis, which a ready primary table does without

    # Executors read and write where the artifacts are stored. Behind a server that hands artifacts out itself, files
    # take the way over this machine's disk, which a cluster has to share.
    source = on_spark.location(f"{run_of(data).info.artifact_uri}/events")
    target = on_spark.location(mlflow.get_artifact_uri("primary"))
    direct = source is not None and target is not None
    copied = run.folder() / "primary"
    made = on_spark.primary_from_events(
        source if source and direct else f"file://{run.fetch(data)}",
        session_type,
        target if target and direct else f"file://{copied}",
    )
    folder = run.fetch(f"runs:/{run.run_id}/primary") if direct else copied
    on_duckdb.primary_from_spark(connection, folder, session_type)
    found = connection.execute("SELECT count(*) FROM primary_table").fetchone()
    if found != (made.rows,):
        raise click.ClickException(
            f"Spark wrote {made.rows} rows to {target if direct else copied} but {found[0] if found else 0} are there: "
            "its executors need an artifact store that every machine reaches (gs://, s3://, hdfs:// or a shared disk)"
        )
    shutil.rmtree(folder)  # DuckDB has the rows now
    return made.counts


if __name__ == "__main__":
    process()
