"""The plan of a step: its parameters with every input filled in, and the key computed from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import click
from mlflow.entities import Run

from purchase_predict.parameters import MADE_BY, resolve
from purchase_predict.settings import Settings
from purchase_predict.workflow import models, tags
from purchase_predict.workflow.completed import KEY_PARTS, digest_of, newest_completed, output_uri, run_of
from purchase_predict.workflow.key import GROUPS, differences, key_of, key_parts, search_key_of

#: The type of `sources.fingerprint`, which computes a source's content digest from its name and a Google Cloud project.
#: The function is passed as an argument, so that only the steps that read a source depend on its code.
Fingerprint = Callable[[str, str], str]


@dataclass(frozen=True)
class Plan:
    """What a step is about to do.

    Attributes:
        entry_point: the step.
        values: all parameters of the step, typed; every input has a value.
        parts: the parts of the step's key (`key.key_parts`).
    """

    entry_point: str
    values: dict[str, Any]
    parts: dict[str, Any]

    @classmethod
    def make(
        cls, entry_point: str, given: Mapping[str, object], experiment_id: str, fingerprint: Fingerprint | None = None
    ) -> "Plan":
        """Makes the plan of a step. Main makes the plan to look for a run to reuse; the step's process makes it again.

        Args:
            entry_point: the step.
            given: parameters; the others get MLproject's defaults. `with_inputs` says how empty inputs are filled in.
            experiment_id: the experiment to search for completed runs, together with the one that it shares runs with
                (see `experiments`).
            fingerprint: the function that computes a source's content digest; needed by a step that reads a source.

        Raises:
            click.ClickException: a value is wrong, or an input is missing.
        """
        values = with_inputs(resolve(entry_point, given), experiment_id)
        return cls(entry_point, values, key_parts(entry_point, values, input_digests(values, fingerprint)))

    @cached_property
    def key(self) -> str:
        """The step's key."""
        return key_of(self.parts)

    @cached_property
    def search_key(self) -> str:
        """The search key: searches with the same search key compute the same trials."""
        return search_key_of(self.parts)

    @property
    def input_digests(self) -> dict[str, str]:
        """The content digest of each input."""
        return dict(self.parts["inputs"])

    @property
    def inputs(self) -> dict[str, str]:
        """The URI of each input that is another step's output."""
        return {name: value for name, value in self.values.items() if name in MADE_BY}

    def differs_from(self, earlier: Run | None) -> str:
        """Why this step cannot reuse `earlier`, its newest completed run (None: there is none), in a few words."""
        if earlier is None:
            return "no completed run yet"
        try:
            before = tags.json_object(earlier, KEY_PARTS)
            if not all(isinstance(before.get(group, {}), dict) for group in GROUPS):
                tags.unreadable(earlier, KEY_PARTS)
        except click.ClickException as error:
            return error.format_message()
        return differences(before, self.parts) or "no completed run left"


def input_digests(values: Mapping[str, Any], fingerprint: Fingerprint | None) -> dict[str, str]:
    """The content digest of each input among the parameters of a step, by the input's name."""
    digests = {}
    for name, value in values.items():
        if name == "source":
            assert fingerprint, "a step that reads a source needs its fingerprint"
            digests[name] = fingerprint(value, values.get("gcp_project", ""))
        elif name in MADE_BY:
            digests[name] = models.find(value).digest if name == "model" else digest_of(_output(name, value))
    return digests


def _output(name: str, uri: str) -> Run:
    """The completed run that made the input `name` of a step.

    Raises:
        click.ClickException: the URI is not the output of the step that makes this input.
    """
    run = run_of(uri)
    step = run.data.tags.get("mlflow.project.entryPoint", MADE_BY[name])
    if step != MADE_BY[name] or uri != output_uri(run):
        raise click.ClickException(
            f"{name}={uri}: must be the output of {MADE_BY[name]}; run {run.info.run_id} is a run of {step} with the "
            f"output {output_uri(run)}"
        )
    return run


def with_inputs(values: Mapping[str, Any], experiment_id: str) -> dict[str, Any]:
    """Fills in the empty inputs among a step's parameters, and an empty `env` with the value of ENV.

    An empty input gets the output of the newest completed run of the step that makes it. There is one exception: if the
    step has a model, given or filled in, an empty dataset becomes the dataset that the model was trained with.

    Raises:
        click.ClickException: there is no such run, or the model's dataset is not known.
    """
    filled = dict(values)
    for name, maker in MADE_BY.items():
        if filled.get(name) == "":
            if name == "dataset" and filled.get("model"):
                filled[name] = models.find(filled["model"]).dataset
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
