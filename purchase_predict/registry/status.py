"""Which version each environment has, now or at a past moment; refused and rolled back versions; runs in progress."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_USER

from purchase_predict.errors import printable
from purchase_predict.registry import journal, promotion
from purchase_predict.registry.approval import waiting
from purchase_predict.registry.journal import Entry
from purchase_predict.registry.versions import registered_model
from purchase_predict.workflow.experiments import shared_with
from purchase_predict.workflow.models import versions

#: Refused versions that are listed, the newest ones.
_REFUSED = 5


@dataclass(frozen=True)
class Environment:
    """An environment at a moment.

    Attributes:
        env: staging or production.
        version: the version that holds it; empty: none.
        entry: the journal's last entry at that moment; None: there was none.
        problem: the evidence that the journal was changed; empty: its entries are consistent.
        claimed_by: the runs that hold or wait for the claim; empty for a past moment.
        missing: whether the alias names a version that does not exist, as in a restored registry.
    """

    env: str
    version: str
    entry: Entry | None
    problem: str
    claimed_by: Sequence[str]
    missing: bool = False

    def lines(self) -> Iterator[str]:
        """The environment in words."""
        held = f"version {self.version}" if self.version else "no version"
        entry = self.entry
        if entry is None:
            yield f"{self.env}: {held}" + (", since before the journal began" if self.version else "")
        elif entry.version != self.version:
            before = f"version {entry.version or 'none'} held it"
            yield f"{self.env}: {held}, moved by hand since {_shown(entry.at)}, when {before}"
        else:
            yield f"{self.env}: {held} since {_shown(entry.at)}, {_how(entry)}"
            yield f"{self.env}, before that: {f'version {entry.previous}' if entry.previous else 'none'}"
        if self.missing:
            yield f"warning: {self.env} names version {self.version}, which is missing: deploy, or move the alias"
        if self.problem:
            yield f"warning: {self.problem}"
        for run_id in self.claimed_by:
            yield f"{self.env}: run {run_id} is deciding, or was killed while deciding"


@dataclass(frozen=True)
class Status:
    """The environments of a registered model at a moment.

    Attributes:
        name: of the registered model.
        at: the moment; None: now.
        environments: one or both.
        waiting: since when and by whose deploy versions wait for approval, by version and environment; empty for a past
            moment.
        rolled_back: when, by whom and why versions were rolled back, by version; empty for a past moment.
        refused: why the newest refused versions failed the gate, by version and environment; likewise.
        open_runs: the step and user of each run in progress, by run id; likewise.
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
        made += [line for environment in self.environments for line in environment.lines()]
        made += [f"waits: {what}, {why}" for what, why in self.waiting.items()]
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
        at: a past moment, with a time zone; None: now.
        experiment_id: where runs in progress are looked for.
        mine: the run that asks; it is not listed.

    Raises:
        click.ClickException: there is no such model, or `at` is given and the journal was changed.
    """
    model = registered_model(name)
    if at:
        entries = {env: journal.holder_at(journal.verified(model.tags, env), at) for env in envs}
        past = [Environment(env, entry.version if entry else "", entry, "", ()) for env, entry in entries.items()]
        return Status(name, at, past, {}, {}, {}, {})
    now = []
    present = sorted(versions(name), key=lambda version: -int(version.version))
    for env in envs:
        problem = journal.problem(model.tags, env) or ""
        last = None if problem else journal.newest(journal.read(model.tags, env))
        claims = [tag.removeprefix(f"claim.{env}.") for tag in model.tags if tag.startswith(f"claim.{env}.")]
        number = str(model.aliases.get(env, ""))
        missing = bool(number) and number not in {str(version.version) for version in present}
        now.append(Environment(env, number, last, problem, claims, missing))
    waits = {f"version {number} for {env}": text for (number, env), text in waiting(present, envs).items()}
    out, refused = _rolled_back(present, model.aliases), _refused(present, envs)
    return Status(name, None, now, waits, out, refused, _at_work(experiment_id, mine))


def _how(entry: Entry) -> str:
    """How a version came to hold the environment: by whose promotion or rollback, and why."""
    by_run = f"{entry.by} (run {entry.run_id})"
    how = {
        journal.PROMOTED: f"promoted by {by_run}",
        journal.ROLLED_BACK: f"by a rollback of {by_run}",
        journal.FOUND: "found there",
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


def _rolled_back(present: Sequence[ModelVersion], aliases: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for version in present:
        # A holder of the environment is not rolled back there: its promotion was killed before it removed the tag.
        held = {
            f"{promotion.ROLLED_BACK}.{env}" for env, number in aliases.items() if str(number) == str(version.version)
        }
        if reasons := [reason for tag, reason in promotion.rolled_back(version).items() if tag not in held]:
            found[f"version {version.version}"] = "; ".join(reasons)
    return found


def _refused(present: Sequence[ModelVersion], envs: Sequence[str]) -> dict[str, str]:
    found = {
        f"version {version.version} for {env}": version.tags.get(
            f"{promotion.GATE_REASON}.{env}", "no reason on record"
        )
        for version in present
        for env in envs
        if version.tags.get(f"{promotion.GATE}.{env}") == "failed"
    }
    return dict(list(found.items())[:_REFUSED])
