"""What an image must consist of to compute a step: the source files and packages that the step's key counts."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from purchase_predict.parameters import STEPS
from purchase_predict.settings import PROJECT
from purchase_predict.workflow.environment import environment
from purchase_predict.workflow.key import counted_source, differences

#: The variable of the container with what the image must consist of, as JSON.
EXPECTED = "PURCHASE_PREDICT_EXPECTED"
#: The part of a key that says what a Job expects of its image.
PARTS = ("source", "environment")


def of_parts(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What a key expects of the image."""
    return {name: parts[name] for name in PARTS}


def of_project(entry_point: str, project: Path) -> dict[str, Any]:
    """What a checkout expects of the image. Its packages may be others than this process has, so none are expected.

    Raises:
        click.ClickException: the checkout has no such step.
    """
    steps = STEPS if entry_point == "main" else (entry_point,)
    source: dict[str, str] = {}
    for step in steps:
        if not (project / f"steps/{step}.py").is_file():
            raise click.ClickException(f"{project}: has no step {step}; this backend runs purchase-predict alone")
        source |= counted_source(step, project)
    return {"source": dict(sorted(source.items()))}


def of_image(project: Path = PROJECT) -> dict[str, Any]:
    """What the label of an image says: the source files of all steps, and the lock of its packages.

    It is the same on every machine that builds the image, unlike the packages that are installed on it.
    """
    return {"source": of_project("main", project)["source"], "lock": _lock(project)}


def _lock(project: Path) -> str:
    return hashlib.sha256((project / "requirements.lock").read_bytes()).hexdigest()[:16]


def label_difference(entry_point: str, said: Mapping[str, Any], project: Path = PROJECT) -> str:
    """In a few words, what differs between an image's label and a checkout; empty where nothing does.

    Args:
        entry_point: the step; `main` stands for all steps.
        said: the label.
        project: the checkout.
    """
    source = of_project(entry_point, project)["source"]
    labelled = {name: digest for name, digest in said["source"].items() if name in source}
    return differences(
        {"source": labelled, "environment": {"requirements.lock": said["lock"]}},
        {"source": source, "environment": {"requirements.lock": _lock(project)}},
    )


def difference(entry_point: str, expected: Mapping[str, Any]) -> str:
    """In a few words, what differs between what is expected and what is here; empty where nothing does."""
    here = of_project(entry_point, PROJECT) | {"environment": environment()}
    return differences({name: value for name, value in here.items() if name in expected}, expected)


def refuse(image: str, difference: str) -> click.ClickException:
    """The error for an image of another source."""
    return click.ClickException(
        f"{image} is not of the source that the workflow runs: {difference} (from the image to the workflow); build "
        "the image from this checkout, or start the workflow from the image's"
    )


def text(expected: Mapping[str, Any]) -> str:
    """What is expected, as the variable has it."""
    return json.dumps(expected, sort_keys=True, separators=(",", ":"))
