"""Completed runs: how a run is marked complete, found again by its key, and checked."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from purchase_predict.checksums import Damaged
from purchase_predict.errors import first_line
from purchase_predict.secrets import shown_uri
from purchase_predict.workflow import addresses, artifacts, tags
from purchase_predict.workflow.experiments import shared_with

#: Tags of a step's run. KEY: its step key. DIGEST: the digest of its output. COMPLETE: `true` if the run is complete;
#: this tag is written last.
KEY, DIGEST, COMPLETE = "step.key", "step.digest", "step.complete"
#: Tag of a step's run: the parts from which its key was computed (`key.key_parts`), as JSON.
#: The tag's name starts with `mlflow.`, because MLflow's page hides such tags.
KEY_PARTS = "mlflow.purchase_predict.key_parts"
#: Tag of a step's run: the artifact path of its output.
OUTPUT = "step.output"
#: Tag of a step's run: the URI of each input that another step made, as JSON. In runs of an earlier version of this
#: project, the tag has the second name.
INPUTS, _INPUTS_BEFORE = "mlflow.purchase_predict.inputs", "step.inputs"
#: _NO_LONGER: the value of COMPLETE on a run with a damaged artifact. DAMAGED: the tag of such a run that describes the
#: damage.
_NO_LONGER, DAMAGED = "damaged", "step.damaged"
#: Tag of a trial's run: the search key of its search.
SEARCH_KEY = "search.key"
#: Tag of a failed run: the error, as the user saw it in one line.
ERROR = "error"
#: Maximum number of completed runs with the same step key that are checked for reuse, the newest first.
_CANDIDATES = 10


#: Cache of the completed runs that this process has fetched, by run id. Completed runs no longer change, and this
#: process needs each of them several times.
_completed: dict[str, Run] = {}


def run_of(uri: str) -> Run:
    """The completed run that a `runs:/<run id>/<path>` URI names. The path is not checked.

    Raises:
        click.ClickException: there is no such run, or it is not a completed run of this workflow.
    """
    named = addresses.parse(uri)
    if not isinstance(named, addresses.RunUri):
        raise click.ClickException(
            f"{uri}: must be runs:/<run id>/<path>; a model may also be models:/<name>@<alias> or "
            "models:/<name>/<version>"
        )
    try:
        run = _completed.get(named.run_id) or mlflow.MlflowClient().get_run(named.run_id)
    except MlflowException as error:
        raise click.ClickException(
            f"{uri}: not found on {shown_uri(mlflow.get_tracking_uri())}: {first_line(error)}"
        ) from error
    if run.data.tags.get(COMPLETE) != "true":
        raise click.ClickException(f"{uri}: run {run.info.run_id} is not a completed step of this workflow")
    _completed[run.info.run_id] = run
    return run


def inputs_of(run: Run) -> dict[str, str]:
    """The URI of each input that a step's run took from another step, by the input's name.

    Raises:
        click.ClickException: the tag that holds the URIs was changed.
    """
    return tags.texts(run, INPUTS if INPUTS in run.data.tags else _INPUTS_BEFORE)


def output_uri(run: Run) -> str:
    """The URI of a completed step's output, `runs:/<run id>/<path>`.

    Raises:
        click.ClickException: the tag that names the output is missing.
    """
    return str(addresses.RunUri(run.info.run_id, tags.required(run, OUTPUT)))


def digest_of(run: Run) -> str:
    """The content digest of a completed step's output.

    Raises:
        click.ClickException: the tag that holds the digest is missing.
    """
    return tags.required(run, DIGEST)


def problem(run: Run) -> str | None:
    """Why a completed run cannot be reused: a problem with its artifacts or its tags; None if there is no problem."""
    try:
        digest_of(run)
        inputs_of(run)
        return artifacts.problem(run, tags.required(run, OUTPUT))
    except click.ClickException as error:
        return error.format_message()


def _search(experiment_id: str, condition: str, limit: int) -> list[Run]:
    return list(
        mlflow.MlflowClient().search_runs(
            shared_with(experiment_id),
            f"{condition} and tags.\"{COMPLETE}\" = 'true' and attributes.status = 'FINISHED'",
            max_results=limit,
            order_by=["attributes.start_time DESC"],
        )
    )


def newest_completed(experiment_id: str, entry_point: str) -> Run | None:
    """The newest completed run of a step, whatever its key.

    Runs are sorted by start time, so a wrong clock on one machine can make the result wrong. The result is used to fill
    in empty inputs and to explain why a step runs. It never decides which run is reused.
    """
    runs = _search(experiment_id, f"tags.\"mlflow.project.entryPoint\" = '{entry_point}'", 1)
    return runs[0] if runs else None


def find_completed(
    experiment_id: str, key: str, still_valid: Callable[[Run], str | None] = lambda run: None
) -> tuple[Run | None, str | None]:
    """Finds the newest completed run with this key that can be reused.

    Args:
        experiment_id: the experiment to search, together with the one it shares runs with (see `experiments`).
        key: the key of a step.
        still_valid: a further check; it returns what is wrong with a run, or None.

    Returns:
        A run or None, and a reason or None:
        - if a run can be reused: the run, and None.
        - if completed runs have this key, but none can be reused: None, and why the newest cannot be reused.
        - if no completed run has this key: None, and the recorded damage of a run with this key (None: no damage).
    """
    reason = None
    for run in _search(experiment_id, f"tags.\"{KEY}\" = '{key}'", _CANDIDATES):
        wrong = problem(run) or still_valid(run)
        if not wrong:
            _completed[run.info.run_id] = run
            return run, None
        reason = reason or wrong
    return None, reason or _damage(experiment_id, key)


def _damage(experiment_id: str, key: str) -> str | None:
    """The recorded damage of a run with this key; None if there is none."""
    condition = f"tags.\"{KEY}\" = '{key}' and tags.\"{COMPLETE}\" = '{_NO_LONGER}'"
    runs = mlflow.MlflowClient().search_runs(shared_with(experiment_id), condition, max_results=1)
    return runs[0].data.tags.get(DAMAGED) if runs else None


def fetch(uri: str, folder: Path) -> Path:
    """Downloads an artifact that a completed step wrote, and checks it; returns the downloaded file or folder.

    If the artifact is damaged, its run is marked as no longer complete, so the next workflow runs the step again.

    Args:
        uri: `runs:/<run id>/<path>`.
        folder: an existing folder. The artifact gets a new folder in it.

    Raises:
        click.ClickException: the artifact cannot be downloaded, or is damaged.
    """
    run, named = run_of(uri), addresses.parse(uri)
    assert isinstance(named, addresses.RunUri)
    try:
        return artifacts.fetch(run, named.path, folder)
    except Damaged as error:
        with suppress(MlflowException):  # a user with read access only cannot set tags
            client = mlflow.MlflowClient()
            client.set_tag(run.info.run_id, DAMAGED, error.format_message())
            client.set_tag(run.info.run_id, COMPLETE, _NO_LONGER)
        _completed.pop(run.info.run_id, None)
        raise click.ClickException(
            f"{error.format_message()}; run the workflow again to recreate the artifact"
        ) from error
