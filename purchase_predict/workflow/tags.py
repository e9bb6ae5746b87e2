"""Reads tags of runs and versions. Raises a one-line error if a required tag is missing or a tag is unreadable."""

import json
from typing import Any, NoReturn

import click
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion


def required(of: Run | ModelVersion, tag: str) -> str:
    """The value of a tag.

    Raises:
        click.ClickException: the tag is missing or empty.
    """
    value = _tags(of).get(tag)
    return str(value) if value else _refuse(of, tag, "is missing")


def json_object(of: Run | ModelVersion, tag: str) -> dict[str, Any]:
    """The JSON object in a tag; empty if the tag is missing.

    Raises:
        click.ClickException: the tag holds anything else.
    """
    return parsed(of, tag, _tags(of).get(tag, "{}"))


def texts(of: Run | ModelVersion, tag: str) -> dict[str, str]:
    """The JSON object in a tag; empty if the tag is missing. All values of the object must be texts.

    Raises:
        click.ClickException: the tag holds anything else.
    """
    found = json_object(of, tag)
    return found if all(isinstance(value, str) for value in found.values()) else unreadable(of, tag)


def parsed(of: Run | ModelVersion, tag: str, text: str) -> dict[str, Any]:
    """Parses the value of a tag as a JSON object.

    Args:
        of: the run or version that has the tag, for the error.
        tag: the name of the tag, for the error.
        text: the value.

    Raises:
        click.ClickException: the value is not a JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else unreadable(of, tag)


def unreadable(of: Run | ModelVersion, tag: str) -> NoReturn:
    """Raises the error for a tag whose value is not what the workflow wrote."""
    _refuse(of, tag, "was changed and cannot be read")


def _tags(of: Run | ModelVersion) -> dict[str, str]:
    return dict(of.data.tags if isinstance(of, Run) else of.tags)


def _refuse(of: Run | ModelVersion, tag: str, why: str) -> NoReturn:
    if isinstance(of, Run):
        raise click.ClickException(f"run {of.info.run_id}: its tag {tag} {why}: restore the tag, or run the step again")
    raise click.ClickException(
        f"{of.name} version {of.version}: its tag {tag} {why}: restore the tag, or deploy the model again"
    )
