"""What a deployed version holds in the registry now, which may differ from what its deploy run decided."""

from dataclasses import dataclass

from mlflow.entities import Run

from purchase_predict.errors import printable
from purchase_predict.registry import promotion
from purchase_predict.registry.versions import champion_number, get_version
from purchase_predict.workflow import tags
from purchase_predict.workflow.addresses import ModelUri


@dataclass(frozen=True)
class Standing:
    """What a version holds now.

    Attributes:
        version: its number.
        outcome: what it holds, in a few words.
        sentence: the same in a sentence.
        serve: the URI of the model to serve; empty where there is none.
    """

    version: str
    outcome: str
    sentence: str
    serve: str


def standing(deployed: Run) -> Standing:
    """Reads from the registry what the version of a deploy run holds now.

    Args:
        deployed: a completed run of deploy.

    Raises:
        click.ClickException: its tags no longer name the version.
    """
    name, number = (tags.required(deployed, tag) for tag in ("deploy.registry_name", "deploy.version"))
    env = deployed.data.tags.get("deploy.env", "")
    ours = f"{name} version {number}"
    if not env:
        sentence = f"{ours} is registered only: ENV is empty"
        return Standing(number, "registered only", sentence, str(ModelUri(name, version=number)))
    holder = champion_number(name, env)
    if holder == number:
        return Standing(number, f"holds {env}", f"{ours} holds {env}", str(ModelUri(name, alias=env)))
    version = get_version(name, number)
    why, outcome = "it is gone", f"does not hold {env}"
    if version:
        why = "; ".join(promotion.rolled_back(version).values())
        why = f"rolled back {why}" if why else promotion.failed(version, env) or "another version was promoted since"
        if waits := version.tags.get(f"{promotion.WAITS}.{env}"):
            outcome, why = "waits for approval", f"it waits {waits}; mlflow run . -e approve -P version={number}"
    if holder and not get_version(name, holder):
        other, holder = f"{env} names version {holder}, which is missing", ""
    else:
        other = f"version {holder} holds {env}" if holder else f"no version holds {env}"
    sentence = printable(f"{ours} does not hold {env}: {why}; {other}")
    return Standing(number, outcome, sentence, str(ModelUri(name, alias=env)) if holder else "")
