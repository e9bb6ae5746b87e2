"""Completed runs: how a run is marked complete, found again by its key, and checked."""

import json
from collections.abc import Callable, Mapping

import click
import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from purchase_predict.errors import first_line
from purchase_predict.settings import shown_uri
from purchase_predict.workflow import addresses

#: Tags of a step's run: its key and what the key is made of, the digest of its output, and, written last, the mark
#: that it is complete.
KEY, KEY_PARTS, DIGEST, COMPLETE = "step.key", "step.key_parts", "step.digest", "step.complete"
#: Tags of a step's run: the artifact path of its output, the URIs of its inputs, and the listing of its artifacts.
OUTPUT, INPUTS, ARTIFACTS = "step.output", "step.inputs", "step.artifacts"
#: Tag of a trial's run: the search that it belongs to.
SEARCH_KEY = "search.key"
#: Tag of a failed run: the one line that the user saw.
ERROR = "error"
#: Characters of a tag, at most. MLflow allows 8,000.
_TAG_LENGTH = 5000
#: Completed runs of a key that are looked at for a hit, the newest first.
_CANDIDATES = 10


#: The completed runs that this process has fetched. They no longer change, and each is needed several times.
_completed: dict[str, Run] = {}


def run_of(uri: str) -> Run:
    """The completed run that made the output at a `runs:/` or `models:/` URI.

    Raises:
        click.ClickException: there is no such run, or it is not a completed run of this workflow.
    """
    client = mlflow.MlflowClient()
    named = addresses.parse(uri)
    if named is None:
        raise click.ClickException(f"{uri}: must be runs:/<run id>/<path>, or for a model models:/<name>@<alias>")
    try:
        if isinstance(named, addresses.RunUri):
            run = _completed.get(named.run_id) or client.get_run(named.run_id)
        elif named.alias:
            run = client.get_run(str(client.get_model_version_by_alias(named.name, named.alias).run_id))
        else:
            run = client.get_run(str(client.get_model_version(named.name, named.version).run_id))
    except MlflowException as error:
        raise click.ClickException(
            f"{uri}: not found on {shown_uri(mlflow.get_tracking_uri())}: {first_line(error)}"
        ) from error
    if run.data.tags.get(COMPLETE) != "true":
        raise click.ClickException(f"{uri}: run {run.info.run_id} is no completed step of this workflow")
    _completed[run.info.run_id] = run
    return run


def output_uri(run: Run) -> str:
    """`runs:/<run id>/<path>` of what a completed step made."""
    return str(addresses.RunUri(run.info.run_id, run.data.tags[OUTPUT]))


def artifacts_of(run_id: str, roots: list[str] | None = None) -> dict[str, int]:
    """Path and bytes of each artifact file of a run.

    Args:
        run_id: the run.
        roots: the files and folders at the root to list; None: all.
    """
    client = mlflow.MlflowClient()
    # MLflow leaves a model out of the listing of its run's root, but lists it by its name.
    top = {entry.path: entry for entry in client.list_artifacts(run_id)}
    sizes: dict[str, int] = {}
    for name in roots if roots is not None else top:
        if name in top and not top[name].is_dir:
            sizes[name] = int(top[name].file_size or 0)
            continue
        folders = [name]
        while folders:
            for entry in client.list_artifacts(run_id, folders.pop()):
                if entry.is_dir:
                    folders.append(entry.path)
                else:
                    sizes[entry.path] = int(entry.file_size or 0)
    return sizes


def artifact_tags(artifacts: Mapping[str, int]) -> dict[str, str]:
    """The listing as JSON, cut into tags."""
    text = json.dumps(artifacts)
    pieces = [text[start : start + _TAG_LENGTH] for start in range(0, len(text), _TAG_LENGTH)]
    return {f"{ARTIFACTS}.{number}": piece for number, piece in enumerate(pieces)}


def _recorded(run: Run) -> dict[str, int]:
    tags = run.data.tags
    pieces = [tags[name] for number in range(len(tags)) if (name := f"{ARTIFACTS}.{number}") in tags]
    recorded: dict[str, int] = json.loads("".join(pieces))
    return recorded


def _search(experiment_id: str, condition: str, limit: int) -> list[Run]:
    return list(
        mlflow.MlflowClient().search_runs(
            [experiment_id],
            f"{condition} and tags.\"{COMPLETE}\" = 'true' and attributes.status = 'FINISHED'",
            max_results=limit,
            order_by=["attributes.start_time DESC"],
        )
    )


def newest_completed(experiment_id: str, entry_point: str) -> Run | None:
    """The newest completed run of a step, whatever its key.

    The newest by the clocks of the machines that started the runs: MLflow has no other order. It decides what an empty
    input stands for and which run a miss is compared with, never which run is a hit.
    """
    runs = _search(experiment_id, f"tags.\"mlflow.project.entryPoint\" = '{entry_point}'", 1)
    return runs[0] if runs else None


def find_completed(
    experiment_id: str, key: str, still_valid: Callable[[Run], str | None] = lambda run: None
) -> tuple[Run | None, str | None]:
    """The newest run with this key whose artifacts all exist; if there is none, why the newest one cannot be reused.

    Args:
        experiment_id: where runs are looked for.
        key: the key of a step.
        still_valid: a further condition: it returns what is wrong with a run, or None.
    """
    reason = None
    for run in _search(experiment_id, f"tags.\"{KEY}\" = '{key}'", _CANDIDATES):
        problem = _missing_artifact(run) or still_valid(run)
        if not problem:
            _completed[run.info.run_id] = run
            return run, None
        reason = reason or problem
    return None, reason


def _missing_artifact(run: Run) -> str | None:
    # Files that were added later do not matter: MLflow itself adds one to a model that is loaded by its version.
    recorded = _recorded(run)
    try:
        present = artifacts_of(run.info.run_id, sorted({path.partition("/")[0] for path in recorded}))
    except MlflowException as error:
        return f"artifacts of run {run.info.run_id[:8]} cannot be listed: {first_line(error)}"
    for path, size in recorded.items():
        if path not in present:
            return f"artifact {path} of run {run.info.run_id[:8]} is gone"
        if present[path] != size:
            return f"artifact {path} of run {run.info.run_id[:8]} has {present[path]} bytes, not {size}"
    return None
