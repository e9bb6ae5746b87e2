"""Whether a deployed version holds its environment now: another version may have been promoted since its deploy."""

from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.errors import printable
from purchase_predict.registry import promotion
from purchase_predict.registry.versions import champion_number, get_version
from purchase_predict.workflow import tags
from purchase_predict.workflow.addresses import ModelUri
from purchase_predict.workflow.hints import command_line


@dataclass(frozen=True)
class Standing:
    """Whether a version holds its environment, in words for several places.

    Attributes:
        version: the version's number.
        outcome: a few words in the past tense, which stay true: "held staging".
        sentence: a sentence in the present tense, for the terminal.
        record: the sentence in the past tense and with the time, for a page that is read later.
        serve: the URI of the model to serve: it names the environment's alias, or the version's number if there is no
            environment. Empty if no version holds the alias.
    """

    version: str
    outcome: str
    sentence: str
    record: str
    serve: str


@dataclass(frozen=True)
class _Verbs:
    """The verbs of the sentence, in one tense."""

    be: str
    hold: str
    not_hold: str
    wait: str
    name: str


_NOW = _Verbs("is", "holds", "does not hold", "has been waiting", "names")
_THEN = _Verbs("was", "held", "did not hold", "had been waiting", "named")


def standing(deployed: Run) -> Standing:
    """Reads from the registry whether the version of a deploy run holds its environment now.

    Args:
        deployed: a completed run of deploy.

    Raises:
        click.ClickException: the run's tags no longer name the version, or the registered model is gone.
    """
    name, number = (tags.required(deployed, tag) for tag in ("deploy.registry_name", "deploy.version"))
    env = deployed.data.tags.get("deploy.env", "")
    holder = champion_number(name, env) if env else ""
    version = get_version(name, number) if env and holder != number else None
    missing = bool(holder) and holder != number and get_version(name, holder) is None
    sentence, past = (
        printable(_sentence(name, number, env, holder, version, missing, verbs)) for verbs in (_NOW, _THEN)
    )
    record = f"When this run ended ({datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC), {past}."
    if not env:
        return Standing(number, "registered only", sentence, record, str(ModelUri(name, version=number)))
    if holder == number:
        outcome = f"held {env}"
    elif version and _waits(version, env):
        outcome = "waited for approval"
    else:
        outcome = f"did not hold {env}"
    return Standing(number, outcome, sentence, record, str(ModelUri(name, alias=env)) if holder and not missing else "")


def _waits(version: ModelVersion, env: str) -> str:
    """Since when and by whose deploy the version waits for approval; empty: it does not wait."""
    return str(version.tags.get(f"{promotion.WAITS}.{env}", ""))


def _sentence(
    name: str, number: str, env: str, holder: str, version: ModelVersion | None, missing: bool, verbs: _Verbs
) -> str:
    """The sentence of `Standing`, in the tense of the verbs.

    Args:
        name: the registered model.
        number: the version's number.
        env: the environment of the deploy; empty: none.
        holder: the number that the environment's alias names; empty: none.
        version: the version; None if it holds the environment or was deleted, or if `env` is empty.
        missing: whether the alias names a version that does not exist.
        verbs: the verbs.
    """
    ours = f"{name} version {number}"
    if not env:
        return f"{ours} {verbs.be} registered but not promoted, because ENV {verbs.be} empty"
    if holder == number:
        return f"{ours} {verbs.hold} {env}"
    why = f"the version {verbs.be} missing"
    if version:
        why = "; ".join(promotion.rolled_back(version).values())
        why = f"rolled back {why}" if why else promotion.failed(version, env) or "another version was promoted later"
        if waits := _waits(version, env):
            command = command_line("approve", registry_name=name, version=number, env=env)
            why = f"it {verbs.wait} {waits}; to approve it: {command}"
    other = f"version {holder} {verbs.hold} {env}" if holder else f"no version {verbs.hold} {env}"
    if missing:
        other = f"the alias {env} {verbs.name} version {holder}, which {verbs.be} missing"
    return f"{ours} {verbs.not_hold} {env}: {why}; {other}"
