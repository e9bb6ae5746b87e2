"""Promotion and rollback: records the gate's decision, and moves the alias and the stage."""

from collections.abc import Mapping

import mlflow
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.registry import journal
from purchase_predict.registry.gate import Decision
from purchase_predict.registry.journal import Author
from purchase_predict.registry.stages import move_alias, settle_stages
from purchase_predict.registry.versions import champion, champion_number, get_version
from purchase_predict.workflow.artifacts import TAG_LENGTH

GATE, GATE_REASON = "gate", "gate.reason"
#: Tag `previous.<env>`: the version that held the environment before.
PREVIOUS = "previous"
#: Tag `rolled_back.<env>`: when, by whom and why the version was rolled back.
ROLLED_BACK = "rolled_back"
#: Tag `moved_by_hand.<env>`: when, by whom and why a rollback gave the environment to the version.
BY_HAND = "moved_by_hand"
#: Tag `waits.<env>`: since when and by whose deploy the version waits for approval.
WAITS = "waits"


def record(version: ModelVersion, env: str, decision: Decision, description: str, tags: Mapping[str, str]) -> None:
    """Writes the gate's decision to the version, before anything is promoted.

    The verdict belongs to one environment: the tags `gate.<env>` and `gate.reason.<env>`. The tags `gate` and
    `gate.reason` and the description show the latest verdict. A version that holds an alias is the exception: it keeps
    them if it fails.

    Args:
        version: the version that was judged.
        env: the environment that it was judged for; empty: none.
        decision: the gate's.
        description: the version's, as Markdown.
        tags: further ones.
    """
    client = mlflow.MlflowClient()
    verdict = {GATE: "passed" if decision.passed else "failed", GATE_REASON: decision.reason}
    written = {f"{key}.{env}": value for key, value in verdict.items()} if env else {}
    holders = client.get_registered_model(version.name).aliases.values()
    if decision.passed or str(version.version) not in map(str, holders):
        client.update_model_version(version.name, version.version, description)
        written |= {**tags, **verdict}
    for key, value in written.items():
        client.set_model_version_tag(version.name, version.version, key, value[:TAG_LENGTH])


def promote(version: ModelVersion, env: str, before: ModelVersion | None, author: Author) -> bool:
    """Gives the environment's alias, and its stage where the registry has stages, to a version.

    The tag `previous.<env>` names the holder before, for a rollback; that holder's stage becomes Archived. Tags about
    earlier rollbacks of the version are removed: the user has decided to promote it again.

    Args:
        version: the new holder, as read when it was judged.
        env: staging or production.
        before: the holder that it was judged against.
        author: who promotes it, for the journal.

    Returns:
        False if the holder has changed since or the version was rolled back meanwhile; then nothing has moved.
    """
    client = mlflow.MlflowClient()
    holder, now = champion_number(version.name, env), get_version(version.name, version.version)
    if now is None or holder != _number(before) or rolled_back(now) != rolled_back(version):
        return False
    if holder not in ("", _number(version)):
        client.set_model_version_tag(version.name, version.version, f"{PREVIOUS}.{env}", holder)
    move_alias(version, env)
    if holder != _number(version):
        journal.append(version.name, env, journal.PROMOTED, _number(version), holder, author)
    # After the move: if this process is killed before it, the tag stays and the next workflow does not promote it.
    for tag in rolled_back(version):
        client.delete_model_version_tag(version.name, version.version, tag)
    no_longer_waits(now, env)
    settle_stages(version.name)
    return True


def no_longer_waits(version: ModelVersion, env: str) -> None:
    """Removes the tag of a version that waits for approval, if there is one."""
    if f"{WAITS}.{env}" in version.tags:
        mlflow.MlflowClient().delete_model_version_tag(version.name, version.version, f"{WAITS}.{env}")


def _number(version: ModelVersion | None) -> str:
    return str(version.version) if version else ""


def mend(name: str, env: str, author: Author) -> None:
    """Repairs what a killed deploy or rollback left half done, and records moves by hand in the journal.

    Call it while `claim.sole_right` is held. If the holder has the tag `rolled_back.<env>` of its own environment, a
    rollback was killed before it moved the alias; the tag is then removed.

    Args:
        name: the registered model.
        env: staging or production.
        author: the caller, for the journal.
    """
    holder = champion(name, env)
    journal.settle(name, env, _number(holder), author)
    if holder is None:
        return
    if f"{ROLLED_BACK}.{env}" in holder.tags:
        mlflow.MlflowClient().delete_model_version_tag(name, holder.version, f"{ROLLED_BACK}.{env}")
    settle_stages(name)


def rolled_back(version: ModelVersion) -> dict[str, str]:
    """The tags that say when, by whom and why the version was rolled back; empty where it was not."""
    return {tag: reason for tag, reason in version.tags.items() if tag.startswith(f"{ROLLED_BACK}.")}


def failed(version: ModelVersion, env: str) -> str | None:
    """Why the version failed the gate of an environment; None where it passed, or was never judged."""
    if version.tags.get(f"{GATE}.{env}", version.tags.get(GATE)) != "failed":
        return None
    return version.tags.get(f"{GATE_REASON}.{env}") or version.tags.get(GATE_REASON) or "no reason on record"


def roll_back(
    holder: ModelVersion, target: ModelVersion, env: str, record: str, author: Author, *, blame: bool
) -> bool:
    """Moves the environment from `holder` to `target`.

    The target's tag `moved_by_hand.<env>` records when, by whom and why.

    Args:
        holder: the version that holds the environment.
        target: the version that is to hold it.
        env: staging or production.
        record: when, by whom and why.
        author: who moves it, for the journal.
        blame: whether to tag `holder` as rolled back, so that the workflow does not promote it again. Otherwise
            `holder` becomes the target's previous version.

    Returns:
        False if another version holds the environment by now; then nothing has moved.
    """
    client = mlflow.MlflowClient()
    if champion_number(holder.name, env) != _number(holder):
        return False
    blamed = (holder, f"{ROLLED_BACK}.{env}", record) if blame else (target, f"{PREVIOUS}.{env}", _number(holder))
    for version, tag, value in (blamed, (target, f"{BY_HAND}.{env}", record)):
        client.set_model_version_tag(version.name, version.version, tag, value[:TAG_LENGTH])
    move_alias(target, env)
    action = journal.ROLLED_BACK if blame else journal.PROMOTED
    journal.append(target.name, env, action, _number(target), _number(holder), author)
    for tag in rolled_back(target):
        client.delete_model_version_tag(target.name, target.version, tag)
    no_longer_waits(target, env)
    settle_stages(target.name)
    return True
