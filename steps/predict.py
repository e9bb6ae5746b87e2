"""Entry point `predict`: every row of an input scored by a registered model.

In: a model, and any source that `load` reads: events, or a primary table with or without the label. Out: `output`, CSV
or Parquet by its ending, with the keys, `probability`, `will_buy`, `model_version` and this run's `run_id`; and in the
run what was read (`source.json`), what was refused (`rejects.csv`), and how far the input has moved from the training
data (`psi_<column>`, `drift.json`, `drift.png`).

    mlflow run . -e predict --env-manager local -P model=models:/purchase_predict@production \
        -P input=/data/carts -P output=/data/scored.parquet
"""

import json
import re
import time
from pathlib import Path

import click
import duckdb
import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from purchase_predict import database
from purchase_predict.evaluation import drift
from purchase_predict.features import on_duckdb
from purchase_predict.features.description import Description
from purchase_predict.models import packaging, scoring
from purchase_predict.reading.load import Loaded, load_source
from purchase_predict.schema import SCORED_TABLES
from purchase_predict.workflow.command import command
from purchase_predict.workflow.completed import INPUTS, run_of
from purchase_predict.workflow.stopping import scratch_folder


@command("predict")
def predict(
    run: Run, model: str, input: str, output: str, max_reject_ratio: float, gcp_project: str, memory_limit: str
) -> None:
    """Score every row of an input into one file."""
    target = Path(output).expanduser().resolve()
    model, version = _pinned(model)
    trained = run_of(model)
    packaged = packaging.load(model, checked=False)
    with scratch_folder() as scratch:
        loaded = _read(input, scratch, max_reject_ratio, memory_limit, gcp_project)
        with database.connect(scratch, memory_limit) as connection:
            build = on_duckdb.primary_from_events if loaded.table == "events" else on_duckdb.primary_as_is
            build(connection, scratch / "input" / loaded.table)
            started = time.monotonic()
            marks = {"model_version": version, "run_id": run.info.run_id}
            try:
                scored = scoring.score(connection, "primary_table", packaged, target, marks)
            except OSError as error:
                raise click.ClickException(f"output {target}: cannot be written: {error.strerror or error}") from error
            seconds = time.monotonic() - started
            _log_drift(connection, trained.data.tags, scratch, scored.rows)

    mlflow.log_metrics(
        {
            "input_rows": loaded.rows,
            "rejected_rows": loaded.rejected,
            "scored_rows": scored.rows,
            "will_buy_rows": scored.will_buy,
            "scoring_seconds": seconds,
        }
    )
    mlflow.set_tags({"predict.model": model, "predict.train_run": trained.info.run_id, "predict.output": str(target)})
    click.echo(
        f"predict: {loaded.rows} rows of the {loaded.table} table, {loaded.rejected} refused; {scored.rows} carts "
        f"scored by {model}, {scored.will_buy} of them will buy: {target}"
    )


def _pinned(model: str) -> tuple[str, str]:
    """The model's URI with its alias replaced by the version that holds it now, and the version ("" for a run's)."""
    if match := re.fullmatch(r"models:/([^/@]+)@([^/@]+)", model):
        try:
            found = mlflow.MlflowClient().get_model_version_by_alias(*match.groups())
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise click.ClickException(f"{model}: no version of {match[1]} holds the alias {match[2]}") from error
        model = f"models:/{match[1]}/{found.version}"
    match = re.fullmatch(r"models:/[^/@]+/(\d+)", model)
    return model, match[1] if match else ""


def _read(source: str, scratch: Path, max_reject_ratio: float, memory_limit: str, gcp_project: str) -> Loaded:
    """The input as Parquet in `scratch/input`; what was read and refused is logged."""
    folder, working = scratch / "input", scratch / "reading"
    folder.mkdir()
    working.mkdir()
    loaded = load_source(source, folder, working, max_reject_ratio, memory_limit, gcp_project, tables=SCORED_TABLES)
    for name in ("source.json", "rejects.csv"):
        if (folder / name).exists():
            mlflow.log_artifact(str(folder / name))
    return loaded


def _log_drift(connection: duckdb.DuckDBPyConnection, trained: dict[str, str], scratch: Path, rows: int) -> None:
    """Compares the input with the rows that the model was trained on."""
    uri = json.loads(trained[INPUTS])["dataset"]
    try:
        file = mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/dataset.json", dst_path=str(scratch))
        reference = Description.read(Path(file)).profile
    except (MlflowException, OSError, click.ClickException):
        click.echo(f"predict: drift is not measured, {uri} no longer describes the training data", err=True)
        return
    indices = drift.population_stability(connection, "primary_table", reference)
    if not indices:
        return
    mlflow.log_metrics({f"psi_{name}": index for name, index in indices.items()})
    mlflow.log_dict(indices, "drift.json")
    drift.plot(indices, scratch / "drift.png")
    mlflow.log_artifact(str(scratch / "drift.png"))
    if said := drift.warning(indices, rows):
        mlflow.set_tag("predict.drift", said)
        click.echo(f"predict: {said}", err=True)


if __name__ == "__main__":
    predict()
