"""Names the runs on MLflow's pages after their entry point, source, environment or version."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.utils import name_utils

from purchase_predict.errors import printable
from purchase_predict.parameters import STEPS
from purchase_predict.settings import Settings
from purchase_predict.workflow.completed import run_of

#: SOURCE: the tag of a step's run that holds the source of its data. DRY_RUN: the start of the name of a dry run.
SOURCE, DRY_RUN = "step.source", "dry run: "
#: Maximum length of the source in a name, in characters. `_short` cuts off the start of a longer source.
_LENGTH = 60
#: Maximum length of a run's name in MLflow's database, in characters.
_COLUMN = 250


def name_of(entry_point: str, values: Mapping[str, Any], source: str = "") -> str:
    """The name of a run.

    Args:
        entry_point: the entry point of the run.
        values: the parameters, typed.
        source: where the data of a step comes from; empty: not known.
    """
    if entry_point == "main":
        trials = values["max_evals"]
        name = f"{_short(values['source'])}, {trials} trial{'s' if trials > 1 else ''}"
        return f"{DRY_RUN}{name}" if values["dry_run"] else name
    if entry_point in STEPS:
        about = ", ".join(filter(None, [_short(source), values.get("env")]))
        return f"{entry_point}: {about}" if about else entry_point
    if entry_point == "predict":
        return f"predict: {_short(values['input'])}"
    if entry_point == "approve":
        return f"approve version {values['version']}"
    if entry_point in ("rollback", "serve"):
        return f"{entry_point} {values['env'] or Settings.read().env or ''}".rstrip()
    return entry_point


def source_of(values: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The source of a step's data: its parameter `source`, or the source recorded on the run that made an input.

    Of several inputs, the first with a `runs:/` URI counts. Empty if no source is known.

    Args:
        values: the step's parameters.
        inputs: the URI of each input that is another step's output.
    """
    if "source" in values:
        return str(values["source"])
    for uri in inputs.values():
        if uri.startswith("runs:/"):
            return str(run_of(uri).data.tags.get(SOURCE, ""))
    return ""


def give(run: Run, entry_point: str, name: str) -> None:
    """Names a run, unless the user has named it (`mlflow run --run-name`)."""
    if given(run.info.run_name or "", entry_point):
        mlflow.MlflowClient().update_run(run.info.run_id, name=name[:_COLUMN])


def give_to_failed(run_id: str, entry_point: str) -> None:
    """Names a run that failed before it was named, for example because a parameter was wrong."""
    run = mlflow.MlflowClient().get_run(run_id)
    # A run that main has named after its step keeps this name.
    if (run.info.run_name or "") != entry_point:
        give(run, entry_point, f"{entry_point}: failed at the start")


def given(name: str, entry_point: str) -> bool:
    """Whether a run has a default name: empty, made up by MLflow (`vaunted-calf-622`), or its entry point's name."""
    words = name.split("-")
    made_up = (
        len(words) == 3
        and words[0] in map(str.lower, name_utils._GENERATOR_PREDICATES)
        and words[1] in map(str.lower, name_utils._GENERATOR_NOUNS)
    )
    return made_up or name in ("", entry_point)


def _short(source: str) -> str:
    """Shortens a source to `_LENGTH` characters: cuts off its start. Of a local path, only the last part is kept."""
    text = printable(source if "://" in source else Path(source).name or source)
    return text if len(text) <= _LENGTH else f"…{text[1 - _LENGTH :]}"
