"""The source files and packages that an image must have to compute a step. They are parts of the step key."""

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

#: Environment variable of the container: the step, and the source files and packages that the image must have, as JSON.
EXPECTED = "PURCHASE_PREDICT_EXPECTED"
#: The parts of a step key (`key.key_parts`) that the image must match.
PARTS = ("source", "environment")


def of_parts(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The source files and packages that the image must have, from the parts of a step key."""
    return {name: parts[name] for name in PARTS}


def of_project(entry_point: str, project: Path) -> dict[str, Any]:
    """The source files of a checkout that the image must have, without packages.

    Packages are left out, because the image may have other packages than this machine.

    Args:
        entry_point: the step; `main` stands for all steps.
        project: the folder of the checkout.

    Raises:
        click.ClickException: the checkout has no such step.
    """
    steps = STEPS if entry_point == "main" else (entry_point,)
    source: dict[str, str] = {}
    for step in steps:
        if not (project / f"steps/{step}.py").is_file():
            raise click.ClickException(
                f"{project} has no step {step}; this backend runs only the project purchase-predict"
            )
        source |= counted_source(step, project)
    return {"source": dict(sorted(source.items()))}


def of_image(project: Path = PROJECT) -> dict[str, Any]:
    """The content of an image's label: digests of the source files of all steps, and of the lock file.

    The label is the same on every machine that builds the image. Installed packages are not in it, because they could
    differ between machines.
    """
    return {"source": of_project("main", project)["source"], "lock": _lock(project)}


def _lock(project: Path) -> str:
    return hashlib.sha256((project / "requirements.lock").read_bytes()).hexdigest()[:16]


def label_difference(entry_point: str, label: Mapping[str, Any], project: Path = PROJECT) -> str:
    """What differs between an image's label and a checkout, in a few words; empty if nothing differs.

    Args:
        entry_point: the step; `main` stands for all steps.
        label: the content of the label (`of_image`).
        project: the checkout.
    """
    source = of_project(entry_point, project)["source"]
    labelled = {name: digest for name, digest in label["source"].items() if name in source}
    return differences(
        {"source": labelled, "environment": {"requirements.lock": label["lock"]}},
        {"source": source, "environment": {"requirements.lock": _lock(project)}},
    )


def difference(entry_point: str, expected: Mapping[str, Any]) -> str:
    """What differs between `expected` and the files and packages of this process; empty if nothing differs."""
    here = of_project(entry_point, PROJECT) | {"environment": environment()}
    return differences({name: value for name, value in here.items() if name in expected}, expected)


def refuse(image: str, difference: str) -> click.ClickException:
    """Returns the error for an image that was built from another source.

    Args:
        image: the image, as the message names it.
        difference: the result of `label_difference` or of `difference`.
    """
    return click.ClickException(
        f"{image} was not built from the source that the workflow runs; differences (image -> workflow): {difference}; "
        "build the image from this checkout, or start the workflow from the checkout that the image was built from"
    )


def text(expected: Mapping[str, Any]) -> str:
    """Files and packages as JSON, for the variable `EXPECTED` or for an image's label (`image.LABEL`)."""
    return json.dumps(expected, sort_keys=True, separators=(",", ":"))
