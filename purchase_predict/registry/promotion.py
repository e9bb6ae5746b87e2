"""Promotion and rollback: records the gate's decision, and moves the alias and the stage.

A move (a change of an environment's holder) takes several writes, and a process may be killed between any two. So the
whole move is first written into one tag of the new holder (`_Move`). The alias moves next, and every other tag follows.
`mend` completes the move if the alias has moved, and drops the move if the alias has not.

A run that has lost its claim on the environment (`claim.holds`) moves no alias and appends nothing to the journal.
The run that now holds the claim completes or drops the unfinished move (`mend`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import click
import mlflow
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.registry import journal
from purchase_predict.registry.claim import holds
from purchase_predict.registry.gate import Decision
from purchase_predict.registry.journal import Author
from purchase_predict.registry.stages import move_alias, settle_stages
from purchase_predict.registry.versions import champion, champion_number, get_version, registered_model
from purchase_predict.workflow.artifacts import TAG_LENGTH
from purchase_predict.workflow.models import tag_version, versions

#: Tags `gate` and `gate.<env>`: the verdict, "passed" or "failed"; `gate.reason` and `gate.reason.<env>`: its reason.
GATE, GATE_REASON = "gate", "gate.reason"
#: Tag `previous.<env>`: the version that held the environment before.
PREVIOUS = "previous"
#: Tag `rolled_back.<env>`: when, by whom and why the version was rolled back.
ROLLED_BACK = "rolled_back"
#: Tag `moved_by_hand.<env>`: when, by whom and why a rollback gave the environment to the version.
BY_HAND = "moved_by_hand"
#: Tag `waits.<env>`: since when and by whose deploy the version waits for approval.
WAITS = "waits"
#: Tag `moving.<env>`: the move that gives the environment to the version (`_Move`); it is removed
#: once the move is recorded.
MOVING = "moving"
#: Values of `_Move.action`.
_ACTIONS = (journal.PROMOTED, journal.ROLLED_BACK)


def record(version: ModelVersion, env: str, decision: Decision, description: str, tags: Mapping[str, str]) -> None:
    """Writes the gate's decision to the version, before anything is promoted.

    The tags `gate.<env>` and `gate.reason.<env>` hold the verdict for one environment. The tags `gate` and
    `gate.reason`, the further tags and the description show the latest verdict for any environment.

    A version that already holds an environment may be judged again, perhaps on other rows or by other rules. If it then
    fails, it still holds the environment, so the verdict for this environment stays unchanged. If a version that holds
    any alias fails, the latest verdict for any environment stays unchanged, too.

    Args:
        version: the version that was judged.
        env: the environment that it was judged for; empty: none.
        decision: the gate's decision.
        description: the version's description, as Markdown.
        tags: further tags of the version.
    """
    client = mlflow.MlflowClient()
    verdict = {GATE: "passed" if decision.passed else "failed", GATE_REASON: decision.reason}
    aliases = client.get_registered_model(version.name).aliases
    held = [alias for alias, number in aliases.items() if str(number) == str(version.version)]
    written = {}
    if env and (decision.passed or env not in held):
        written = {f"{key}.{env}": value for key, value in verdict.items()}
    if decision.passed or not held:
        client.update_model_version(version.name, version.version, description)
        written |= {**tags, **verdict}
    for key, value in written.items():
        tag_version(version, key, value[:TAG_LENGTH])


def promote(version: ModelVersion, env: str, before: ModelVersion | None, author: Author, claim: str = "") -> bool:
    """Gives the environment's alias, and its stage where the registry has stages, to a version.

    The version's tag `previous.<env>` names the earlier holder, for a rollback. The stage of the earlier holder becomes
    Archived, unless that version holds the other alias. The tag `rolled_back.<env>` of the new holder is removed,
    because the user has decided to promote the version again. A tag about a rollback in the other environment stays.

    Args:
        version: the new holder, as read when it was judged.
        env: staging or production.
        before: the holder that the version was judged against; None: there was none.
        author: who promotes the version, for the journal.
        claim: the caller's claim, from `claim.sole_right`; empty: nobody else decides about the environment.

    Returns:
        False if the claim was lost, or if one of these happened after the judgement: the holder changed, or the
        version was rolled back or deleted. The alias has then not moved.
    """
    now, model = get_version(version.name, version.version), registered_model(version.name)
    # In a restored registry, the alias may name a version that does not exist. Then there is no holder.
    holder = _number(get_version(version.name, str(model.aliases.get(env, ""))))
    if now is None or holder != _number(before) or rolled_back(now) != rolled_back(version):
        return False
    return holds(model.tags, claim) and _move(now, env, _Move(journal.PROMOTED, holder, author), claim)


@dataclass(frozen=True)
class _Move:
    """A change of an environment's holder, with everything that must be recorded about it.

    Attributes:
        action: `journal.PROMOTED` or `journal.ROLLED_BACK`.
        before: the number of the holder before; empty: none.
        author: who moves the environment, for the journal.
        by_hand: when, by whom and why, if a rollback moves the environment; empty: the gate promotes the version.
    """

    action: str
    before: str
    author: Author
    by_hand: str = ""

    @classmethod
    def read(cls, version: ModelVersion, env: str) -> "_Move | None":
        """The move that was begun and not completed; None if there is none.

        Raises:
            click.ClickException: the tag was changed and cannot be read.
        """
        tag = f"{MOVING}.{env}"
        if tag not in version.tags:
            return None
        try:
            facts = json.loads(version.tags[tag])
            move = cls(**(facts | {"author": Author(**facts["author"])}))
            if not all(map(journal.well_typed, (move, move.author))) or move.action not in _ACTIONS:
                raise ValueError(move)
            return move
        except (ValueError, TypeError, KeyError, RecursionError):
            raise click.ClickException(
                f"{version.name} version {version.version}: its tag {tag} was changed and cannot be read: delete "
                "the tag"
            ) from None

    @property
    def text(self) -> str:
        """The value of the tag `moving.<env>`."""
        author = replace(self.author, reason=self.author.reason[:TAG_LENGTH])
        return json.dumps(asdict(replace(self, author=author)), sort_keys=True)


def _move(version: ModelVersion, env: str, move: _Move, claim: str) -> bool:
    """Moves the alias and records the move.

    Returns False if the claim was lost or the version was deleted meanwhile. The alias has then not moved. MLflow has
    no conditional move of an alias, so the claim is checked in the last call before the move.
    """
    tag = f"{MOVING}.{env}"
    tag_version(version, tag, move.text)
    if claim:
        now = get_version(version.name, version.version)
        if now is None or now.tags.get(tag) != move.text or not holds(registered_model(version.name).tags, claim):
            return False
    move_alias(version, env)
    _complete(version, env, move, claim)
    return True


def _complete(version: ModelVersion, env: str, move: _Move, claim: str) -> None:
    """Writes the tags, the journal entry and the stages of a move, after the alias has moved.

    If the process is killed before the end, `mend` calls this function again: repeating a write does no harm.
    """
    client, name = mlflow.MlflowClient(), version.name
    if move.before != _number(version):
        written = [(version, BY_HAND, move.by_hand)]
        if move.action == journal.PROMOTED:
            written.append((version, PREVIOUS, move.before))
        elif left := get_version(name, move.before):
            written.append((left, ROLLED_BACK, move.by_hand))
        for tagged, tag, value in written:
            if value:
                tag_version(tagged, f"{tag}.{env}", value)
        if not journal.append(name, env, move.action, _number(version), move.before, move.author, claim):
            return
    if f"{ROLLED_BACK}.{env}" in version.tags:
        client.delete_model_version_tag(name, version.version, f"{ROLLED_BACK}.{env}")
    no_longer_waits(version, env)
    settle_stages(name)
    client.delete_model_version_tag(name, version.version, f"{MOVING}.{env}")


def no_longer_waits(version: ModelVersion, env: str) -> None:
    """Removes the tag `waits.<env>` of a version, if it has the tag."""
    if f"{WAITS}.{env}" in version.tags:
        mlflow.MlflowClient().delete_model_version_tag(version.name, version.version, f"{WAITS}.{env}")


def _number(version: ModelVersion | None) -> str:
    return str(version.version) if version else ""


def mend(name: str, env: str, author: Author, claim: str = "") -> None:
    """Completes or drops a move that a killed run left unfinished, and adds a missing entry to the journal.

    An entry is missing, for example, if the alias was moved by hand. Call this function while `claim.sole_right` is
    held. A tag `rolled_back.<env>` on the version that holds this environment is removed: in an earlier release of this
    project, a rollback wrote the tag before it moved the alias, and it may have been killed in between.

    Args:
        name: the registered model.
        env: staging or production.
        author: the caller, for the journal.
        claim: the caller's claim, as in `promote`.

    Raises:
        click.ClickException: the journal, or the tag of a move that was not completed, cannot be read.
    """
    for version in versions(name):
        if move := _Move.read(version, env):
            if _number(version) == champion_number(name, env):
                _complete(version, env, move, claim)
            else:  # the alias did not move, or somebody has moved it again
                mlflow.MlflowClient().delete_model_version_tag(name, version.version, f"{MOVING}.{env}")
    holder = champion(name, env)
    journal.settle(name, env, _number(holder), author, claim)
    if holder is None:
        return
    if f"{ROLLED_BACK}.{env}" in holder.tags:
        mlflow.MlflowClient().delete_model_version_tag(name, holder.version, f"{ROLLED_BACK}.{env}")
    settle_stages(name)


def rolled_back(version: ModelVersion) -> dict[str, str]:
    """The version's tags `rolled_back.<env>`: when, by whom and why it was rolled back; empty: it was not."""
    return {tag: reason for tag, reason in version.tags.items() if tag.startswith(f"{ROLLED_BACK}.")}


def failed(version: ModelVersion, env: str) -> str | None:
    """Why the version failed the gate of an environment; None if it passed or was never judged.

    If there is no verdict for this environment, the latest verdict for any environment counts.
    """
    if version.tags.get(f"{GATE}.{env}", version.tags.get(GATE)) != "failed":
        return None
    return version.tags.get(f"{GATE_REASON}.{env}") or version.tags.get(GATE_REASON) or "no reason on record"


def roll_back(
    holder: ModelVersion, target: ModelVersion, env: str, record: str, author: Author, claim: str = "", *, blame: bool
) -> bool:
    """Moves the environment from `holder` to `target`.

    The target's tag `moved_by_hand.<env>` records when, by whom and why. If `blame` is set, the tag `rolled_back.<env>`
    of `holder` records the same.

    Args:
        holder: the version that holds the environment.
        target: the version that is to hold it.
        env: staging or production.
        record: when, by whom and why.
        author: who moves the environment, for the journal.
        claim: the caller's claim, as in `promote`.
        blame: whether to tag `holder` as rolled back, so that the workflow does not promote it again. Otherwise the
            move counts as a promotion: the journal records one, and the target's tag `previous.<env>` names `holder`.

    Returns:
        False if `holder` no longer holds the environment, or the claim was lost; the alias has then not moved.
    """
    model = registered_model(holder.name)
    if str(model.aliases.get(env, "")) != _number(holder) or not holds(model.tags, claim):
        return False
    action = journal.ROLLED_BACK if blame else journal.PROMOTED
    return _move(target, env, _Move(action, _number(holder), author, record[:TAG_LENGTH]), claim)
