"""Versions that wait for approval: they have passed the gate, and a person decides whether to promote them.

A version's tag `waits.<env>` records since when the version has waited, who deployed it, and the id of the deploy run.
The inputs of the deploy run name the dataset, and the run's `promotion.json` holds the rules. When the version is
approved, it is judged again on this dataset and by these rules, because the champion may have changed.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import click
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.errors import message_of
from purchase_predict.parameters import typed
from purchase_predict.registry.journal import Author
from purchase_predict.registry.judge import Rules
from purchase_predict.registry.promotion import WAITS
from purchase_predict.registry.versions import get_version, registered_model
from purchase_predict.settings import ENVIRONMENTS, Settings
from purchase_predict.workflow import tags
from purchase_predict.workflow.addresses import ModelUri, RunUri
from purchase_predict.workflow.completed import INPUTS, fetch, inputs_of, run_of
from purchase_predict.workflow.hints import command_line
from purchase_predict.workflow.models import tag_version, versions
from purchase_predict.workflow.scratch import scratch_folder

#: The fields of promotion.json that hold the rules of the deploy: all of `Rules` except `approve`, in the same order.
_RULES = ("metric", "tolerance", "min_roc_auc", "promote_rolled_back")


@dataclass(frozen=True)
class Waiting:
    """A version that waits for approval.

    Attributes:
        version: the version.
        env: the environment that it may take over.
        dataset: the URI of the dataset that it was judged on.
        rules: what the version had to satisfy.
    """

    version: ModelVersion
    env: str
    dataset: str
    rules: Rules


def ask(version: ModelVersion, env: str, author: Author) -> None:
    """Tags a version as waiting for approval. `author` is the user and the run of the deploy."""
    since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    text = f"for approval since {since}, deployed by {author.by} (run {author.run_id})"
    tag_version(version, f"{WAITS}.{env}", text)


def waiting(present: Sequence[ModelVersion], envs: Sequence[str] = ENVIRONMENTS) -> dict[tuple[str, str], str]:
    """The versions that wait, as (version number, environment), each with the text of its tag `waits.<env>`."""
    texts = {(str(version.version), env): version.tags.get(f"{WAITS}.{env}") for version in present for env in envs}
    return {place: text for place, text in texts.items() if text}


def waiting_version(name: str, number: str, env: str) -> Waiting:
    """The version to approve, with the dataset and the rules of its deploy.

    Args:
        name: the registered model.
        number: the version's number.
        env: the environment. If it is empty, the only environment that the version waits for is used, or the setting
            ENV if the version waits for several.

    Raises:
        click.ClickException: there is no such model or version, the version does not wait for approval in `env`, or the
            dataset or rules of its deploy cannot be read.
    """
    registered_model(name)
    version = get_version(name, number) if number else None
    if version is None:
        others = ", ".join(f"{number} ({env})" for number, env in waiting(versions(name))) or "none"
        what = f"{name} has no version {number}" if number else "version is empty"
        raise click.ClickException(f"{what}: choose a version with -P version=<number>; waiting for approval: {others}")
    envs = [env for _, env in waiting([version])]
    env = env or (envs[0] if len(envs) == 1 else Settings.read().env or "")
    if env not in envs:
        where = f" in {env}" if env else ""
        more = f"; it is waiting for approval in {' and '.join(envs)}" if envs else ""
        raise click.ClickException(f"{name} version {number} is not waiting for approval{where}{more}")
    return _judged(version, env)


def _judged(version: ModelVersion, env: str) -> Waiting:
    # The last "(run <id>)" names the deploy run. An earlier one may be part of the user's name, which precedes it.
    match = re.search(r".*\(run (\w+)\)", version.tags[f"{WAITS}.{env}"], re.DOTALL)
    uri = str(RunUri(match[1] if match else "-", "promotion.json"))
    try:
        dataset = inputs_of(run_of(uri)).get("dataset") or tags.unreadable(run_of(uri), INPUTS)
        with scratch_folder() as folder:  # `fetch` checks the checksum, so changed rules are refused
            facts = json.loads(fetch(uri, folder).read_text(encoding="utf-8"))
        rules = Rules(*(typed(name, facts[name]) for name in _RULES))
    except (click.ClickException, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = message_of(error)
        if isinstance(error, TypeError):
            why = "promotion.json is not what deploy wrote"
        elif isinstance(error, KeyError):
            why = f"promotion.json lacks {error}"
        model = ModelUri(version.name, version=str(version.version))
        again = command_line("deploy", model=model, registry_name=version.name, env=env, approve="true")
        raise click.ClickException(
            f"{version.name} version {version.version} cannot be judged again, because the dataset or the rules of its "
            f"deploy cannot be read ({why}); deploy it again: {again}"
        ) from error
    return Waiting(version, env, dataset, rules)
