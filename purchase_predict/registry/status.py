"""The status of a registered model: which version holds each environment, now or at a past time.

The present status also has the versions that wait for approval, were refused or were rolled back, and the runs in
progress.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import click
import mlflow
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.utils.mlflow_tags import MLFLOW_USER

from purchase_predict.errors import printable
from purchase_predict.registry import journal, promotion
from purchase_predict.registry.approval import waiting
from purchase_predict.registry.claim import claimants
from purchase_predict.registry.journal import Entry
from purchase_predict.registry.versions import registered_model
from purchase_predict.workflow.experiments import shared_with
from purchase_predict.workflow.models import versions

#: At most this many refusals are listed, those of the newest versions.
_REFUSED = 5


@dataclass(frozen=True)
class Environment:
    """An environment, now or at a past time.

    Attributes:
        env: staging or production.
        version: the number of the version that holds it; empty: no version holds it. For a past time, empty may also
            mean that the holder is not known (see `doubt`).
        entry: the journal's last entry up to that time; None: there was none, or the journal has a problem.
        problem: why the journal is not reliable, for example because it was changed; empty: it is reliable.
        claimed_by: ids of the runs that hold or wait for the claim; empty for a past time.
        missing: whether the alias names a version that does not exist, for example after a restore from a backup.
        doubt: what the journal does not know about the holder at that time; empty: nothing.
    """

    env: str
    version: str
    entry: Entry | None
    problem: str
    claimed_by: Sequence[str]
    missing: bool = False
    doubt: str = ""

    def lines(self, *, past: bool) -> Iterator[str]:
        """The environment in words. `past`: whether this is its state at a past time."""
        held, entry = _named(self.version), self.entry
        if self.doubt and (past or entry):
            yield f"{self.env}: {'not known' if past else held}; {self.doubt}"
        elif entry is None:
            yield f"{self.env}: {held}" + (", since before the journal began" if self.version else "")
        else:
            yield f"{self.env}: {held} since {_shown(entry.at)}, {_how(entry)}"
            yield f"{self.env}, before that: {f'version {entry.previous}' if entry.previous else 'none'}"
        if self.missing:
            yield (
                f"warning: the alias {self.env} names version {self.version}, which is missing: deploy a model, or "
                "move the alias"
            )
        if self.problem:
            yield f"warning: {self.problem}"
        for run_id in self.claimed_by:
            yield f"{self.env}: run {run_id} is deciding about this environment, or was killed while deciding"


@dataclass(frozen=True)
class Status:
    """The status of a registered model, now or at a past time. For a past time, the last four attributes are empty.

    Attributes:
        name: the registered model.
        at: the past time; None: now.
        environments: one environment or both.
        waiting: since when each waiting version has waited for approval, and who deployed it. A key reads, for example,
            "version 3 for staging".
        rolled_back: when, by whom and why each rolled-back version was rolled back. A key reads, for
            example, "version 3".
        refused: why each of the newest refused versions failed the gate; keys as in `waiting`.
        open_runs: the step and the user of each run in progress; a key is "run" and the run's id.
    """

    name: str
    at: datetime | None
    environments: Sequence[Environment]
    waiting: Mapping[str, str]
    rolled_back: Mapping[str, str]
    refused: Mapping[str, str]
    open_runs: Mapping[str, str]

    def lines(self) -> list[str]:
        """The status in words, one fact per line."""
        made = [f"{self.name} at {self.at.isoformat()}" if self.at else f"{self.name} now"]
        made += [line for environment in self.environments for line in environment.lines(past=self.at is not None)]
        made += [
            f"waiting for approval: {what}, {why.removeprefix('for approval ')}" for what, why in self.waiting.items()
        ]
        for title, facts in (
            ("rolled back", self.rolled_back),
            ("refused", self.refused),
            ("in progress", self.open_runs),
        ):
            made += [f"{title}: {what}, {why}" for what, why in facts.items()]
        return [printable(line) for line in made]

    def as_json(self) -> dict[str, Any]:
        """The status as JSON values."""
        return asdict(self) | {"at": self.at.isoformat() if self.at else None}


def status(name: str, envs: Sequence[str], at: datetime | None, experiment_id: str, mine: str) -> Status:
    """Reads the status from the registry.

    Args:
        name: the registered model.
        envs: the environments.
        at: a past time, with a time zone; None: now.
        experiment_id: the experiment whose runs in progress are listed. Those of the experiments that share runs with
            it are listed, too.
        mine: id of this process's own run, which is not listed.

    Raises:
        click.ClickException: there is no such model, `at` is in the future, or `at` is given and the journal was
            changed.
    """
    if at and at > datetime.now(UTC):
        raise click.ClickException(
            f"at={at.isoformat()} is in the future: give a past time, or leave out -P at=... to see the present state"
        )
    model = registered_model(name)
    present = sorted(versions(name), key=lambda version: -int(version.version))
    if at:
        return Status(name, at, [past(model, present, env, at) for env in envs], {}, {}, {}, {})
    now = []
    for env in envs:
        changed = journal.problem(model.tags, env, moving=_moving(present, env))
        problem = changed or _without_journal(model, present, env)
        last = None if problem else journal.newest(journal.read(model.tags, env))
        number = str(model.aliases.get(env, ""))
        missing = bool(number) and number not in {str(version.version) for version in present}
        doubt = "" if problem else _doubt(last, None, number, present, env)
        now.append(Environment(env, number, last, problem, claimants(model.tags, env), missing, doubt))
    waits = {f"version {number} for {env}": text for (number, env), text in waiting(present, envs).items()}
    out, refused = _rolled_back(present, model.aliases, envs), _refused(present, envs, model.aliases)
    return Status(name, None, now, waits, out, refused, _at_work(experiment_id, mine))


def past(model: RegisteredModel, present: Sequence[ModelVersion], env: str, at: datetime) -> Environment:
    """An environment at a past time.

    Args:
        model: the registered model as it is now.
        present: its versions now.
        env: staging or production.
        at: the past time, with a time zone.

    Raises:
        click.ClickException: the journal was changed.
    """
    entries = journal.verified(model.tags, env, moving=_moving(present, env))
    entry = journal.holder_at(entries, at)
    after = next(iter(entries[entry.number if entry else 0 :]), None)
    doubt = _doubt(entry, after, str(model.aliases.get(env, "")), present, env)
    version = entry.version if entry and not doubt else ""
    return Environment(env, version, entry, _without_journal(model, present, env), (), doubt=doubt)


def _moving(present: Sequence[ModelVersion], env: str) -> bool:
    """Whether a move of the environment to one of these versions has begun and is not completed."""
    return any(f"{promotion.MOVING}.{env}" in version.tags for version in present)


def _doubt(entry: Entry | None, after: Entry | None, now: str, present: Sequence[ModelVersion], env: str) -> str:
    """What the journal does not know about the time between an entry and the next one; empty: nothing.

    Args:
        entry: the entry; None: the time before the first entry.
        after: the next entry; None: there is none.
        now: the number of the version that the alias names now; empty: none.
        present: the versions now.
        env: staging or production.
    """
    if after and after.action != journal.FOUND:
        return ""
    seen, when = (after.version, _shown(after.at)) if after else (now, "now")
    if entry is None:
        promoted = any(_promoted(version, env, now) for version in present)
        if not seen and not promoted:
            return ""
        if after:
            return f"the journal begins at {when}, and {_named(seen)} held {env} then"
        return f"the journal has no entry, and {_named(seen)} holds {env} now"
    there = {str(version.version): version for version in present}
    deleted = bool(entry.version) and entry.version not in there
    if seen == entry.version and (after or not deleted):
        return ""
    holder = there.get(seen)
    if deleted and seen in ("", entry.version):
        what = f"version {entry.version} was deleted"
    elif not after and holder and _moving([holder], env):
        what = f"a run moved the alias to version {seen} and has not recorded it"
    else:
        what = f"the alias was moved by hand to version {seen}" if seen else "the alias was removed by hand"
    since = f"{_named(entry.version)} held {env} from {_shown(entry.at)}"
    return f"{since}; between then and {when}, {what}; the journal does not say when"


def _without_journal(model: RegisteredModel, present: Sequence[ModelVersion], env: str) -> str:
    """A warning if a version was promoted but the journal has no entry; else empty."""
    if any(tag.startswith(f"journal.{env}") for tag in model.tags):
        return ""
    promoted = [v.version for v in present if _promoted(v, env, str(model.aliases.get(env, "")))]
    if not promoted:
        return ""
    return (
        f"the journal of {env} has no entry, although version {promoted[0]} was promoted: somebody removed the "
        "journal's tags, or the version was promoted by a release of this project without a journal"
    )


def _promoted(version: ModelVersion, env: str, holder: str) -> bool:
    """Whether a deploy or rollback has ever given the environment to this version, or taken it from this version."""
    moved = (promotion.PREVIOUS, promotion.BY_HAND, promotion.ROLLED_BACK)
    if any(f"{tag}.{env}" in version.tags for tag in moved):
        return True
    # The first holder has none of these tags; it is recognized by the gate's verdict. A holder that still waits for
    # approval got the alias by hand.
    passed = version.tags.get(f"{promotion.GATE}.{env}") == "passed" and f"{promotion.WAITS}.{env}" not in version.tags
    return passed and str(version.version) == holder


def _named(number: str) -> str:
    return f"version {number}" if number else "no version"


def _how(entry: Entry) -> str:
    """Who gave a version the environment, how and why."""
    by_run = f"{entry.by} (run {entry.run_id})"
    how = {
        journal.PROMOTED: f"promoted by {by_run}",
        journal.ROLLED_BACK: f"after a rollback by {by_run}",
        journal.FOUND: f"or earlier; first recorded by {by_run}",
    }[entry.action]
    return how + (f": {entry.reason}" if entry.reason else "")


def _shown(at: str) -> str:
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M:%S} UTC"


def _at_work(experiment_id: str, mine: str) -> dict[str, str]:
    runs = mlflow.MlflowClient().search_runs(shared_with(experiment_id), "attributes.status = 'RUNNING'")
    found = {}
    for run in runs:
        step, user = (run.data.tags.get(tag, "?") for tag in ("mlflow.project.entryPoint", MLFLOW_USER))
        if run.info.run_id != mine:
            found[f"run {run.info.run_id}"] = f"{step} of {user}"
    return found


def _holds(version: ModelVersion, env: str, aliases: Mapping[str, str]) -> bool:
    return str(aliases.get(env, "")) == str(version.version)


def _rolled_back(present: Sequence[ModelVersion], aliases: Mapping[str, str], envs: Sequence[str]) -> dict[str, str]:
    found = {}
    for version in present:
        # A version that holds the environment is not listed as rolled back there. If it still has the tag,
        # it was given the alias by hand, or the run that promoted it was killed before removing the tag.
        left = [env for env in envs if not _holds(version, env, aliases)]
        marks = promotion.rolled_back(version)
        if reasons := [marks[tag] for env in left if (tag := f"{promotion.ROLLED_BACK}.{env}") in marks]:
            found[f"version {version.version}"] = "; ".join(reasons)
    return found


def _refused(present: Sequence[ModelVersion], envs: Sequence[str], aliases: Mapping[str, str]) -> dict[str, str]:
    found = {  # a version that failed but holds the environment is left out: a person or a rollback gave it the alias
        f"version {version.version} for {env}": version.tags.get(
            f"{promotion.GATE_REASON}.{env}", "no reason on record"
        )
        for version in present
        for env in envs
        if version.tags.get(f"{promotion.GATE}.{env}") == "failed" and not _holds(version, env, aliases)
    }
    return dict(list(found.items())[:_REFUSED])
