"""The inputs of a step: filled in where they are empty, and their digests."""

import json
from collections.abc import Mapping
from typing import Any

import click

from purchase_predict.settings import Settings
from purchase_predict.sources import sources
from purchase_predict.workflow.completed import DIGEST, INPUTS, newest_completed, output_uri, run_of

#: For each parameter that is the output of another step, that step; the model first, because it decides which dataset
#: belongs to it.
MADE_BY = {"model": "train", "data": "load", "dataset": "process"}


def input_digests(values: Mapping[str, Any]) -> dict[str, str]:
    """The content digest of each input among a step's parameters."""
    digests = {}
    for name, value in values.items():
        if name == "source":
            digests[name] = sources.fingerprint(value, values.get("gcp_project", ""))
        elif name in MADE_BY:
            digests[name] = run_of(value).data.tags[DIGEST]
    return digests


def with_inputs(values: Mapping[str, Any], experiment_id: str) -> dict[str, Any]:
    """The parameters of a step with each empty input replaced by the newest that there is, and ENV for an empty env.

    deploy judges a model on the dataset that it was trained with, unless it is told another.
    """
    filled = dict(values)
    for name, maker in MADE_BY.items():
        if filled.get(name) == "":
            if name == "dataset" and filled.get("model"):
                filled[name] = json.loads(run_of(filled["model"]).data.tags[INPUTS])["dataset"]
                continue
            newest = newest_completed(experiment_id, maker)
            if newest is None:
                raise click.ClickException(
                    f"{name} is empty and there is no completed run of {maker} in this experiment: run {maker} first, "
                    f"or give {name}=runs:/<run id>/<path>"
                )
            filled[name] = output_uri(newest)
    if filled.get("env") == "":
        filled["env"] = Settings.read().env or ""
    return filled
