"""The origin of a trained model, for its report: the source, the commit, and the runs of the steps."""

import json
from datetime import UTC, datetime

import click
import mlflow
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_GIT_DIRTY, MLFLOW_PARENT_RUN_ID

from purchase_predict.errors import message_of, print_line
from purchase_predict.report.lineage import Origin, Step
from purchase_predict.secrets import shown_uri
from purchase_predict.workflow import addresses
from purchase_predict.workflow.completed import fetch, inputs_of, run_of
from purchase_predict.workflow.models import run_if_there
from purchase_predict.workflow.scratch import scratch_folder


def origin(train_run_id: str, dataset: str) -> Origin:
    """The origin of the model that a train run is computing, as far as it is known before the run ends.

    Args:
        train_run_id: the id of the train run.
        dataset: `runs:/<run id>/dataset` of the process run.

    Raises:
        click.ClickException: `dataset` does not name a completed run.
    """
    client = mlflow.MlflowClient()
    train = client.get_run(train_run_id)
    parent = train.data.tags.get(MLFLOW_PARENT_RUN_ID)
    workflow, process = client.get_run(parent) if parent else None, run_of(dataset)
    before = _steps(train, workflow, process)
    load = run_if_there(before[0].run_id)
    given = process.inputs.dataset_inputs if process.inputs else []
    return Origin(
        steps=before,
        made=datetime.fromtimestamp(train.info.start_time / 1000, UTC),
        source=next((shown_uri(str(each.dataset.name)) for each in given), ""),
        commit=train.data.tags.get(MLFLOW_GIT_COMMIT, ""),
        uncommitted=(workflow or train).data.tags.get(MLFLOW_GIT_DIRTY) == "true",
        rows_read=int(load.data.metrics["rows"]) if load and "rows" in load.data.metrics else None,
        rows_refused=int(load.data.metrics.get("rejected_rows", 0)) if load else 0,
        reasons=_reasons(load) if load else {},
    )


def _reasons(load: Run) -> dict[str, int]:
    """The number of rows that load refused, by reason; empty if it refused none, or if source.json cannot be read."""
    if not load.data.metrics.get("rejected_rows"):
        return {}
    try:
        with scratch_folder() as folder:
            manifest = fetch(str(addresses.RunUri(load.info.run_id, "source.json")), folder)
            refused = dict(json.loads(manifest.read_text(encoding="utf-8"))).get("refused", [])
        return {f"{each['column']} {each['reason']}".strip(): int(each["rows"]) for each in refused}
    except (click.ClickException, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        why = message_of(error) if isinstance(error, click.ClickException) else "source.json is not what load wrote"
        print_line(f"the report lacks the reasons for refused rows: {why}", err=True)  # train continues
        return {}


def train_step(run: Run | None) -> Step:
    """The step `train` as a page shows it, with a link to the finished train run.

    Args:
        run: the train run; None: it was deleted, so there is no link.
    """
    if run is None:
        return Step("train", "deleted")
    return _step("train", "ran", run.info.experiment_id, run.info.run_id)


def _step(name: str, what: str, experiment_id: str, run_id: str) -> Step:
    """A step with a link to its run, if there is a run."""
    if not run_id:
        return Step(name, what)
    return Step(name, what, run_id, addresses.link(experiment_id, run_id), needs_ui=not addresses.server())


def _steps(train: Run, workflow: Run | None, process: Run) -> list[Step]:
    """The steps as the report shows them. Which steps were reused is known only if main launched the train run."""
    events = inputs_of(process).get("data", "")
    # The id of the load run is read from the URI of its output. The run itself may have been deleted, although the
    # output of process is still reused.
    runs = {"load": events.removeprefix("runs:/").partition("/")[0], "process": process.info.run_id}

    def what(name: str) -> str:
        if not workflow:
            return "an earlier run"
        return "reused" if f"reused.{name}" in workflow.data.tags else "ran"

    home = train.info.experiment_id
    after = Step("deploy", "comes next and decides on the promotion" if workflow else "not part of this run")
    return [
        *(_step(name, what(name), home, run_id) for name, run_id in runs.items()),
        _step("train", "ran, and made this page", home, train.info.run_id),
        after,
    ]
