"""The contest of a challenger with the champion, on rows that neither side touches here: deploy hands them in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import click
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.metrics import Difference, Score, utility
from purchase_predict.registry import gate, promotion, versions
from purchase_predict.registry.gate import Contest, Decision


class Rows(Protocol):
    """Labelled rows that models, named by URI, are compared on (`models/held_out.py`)."""

    @property
    def users_of_the_rarer_class(self) -> int:
        """How many different users have rows that were bought, or rows that were not, whichever is less."""

    def scores(self, uri: str) -> Mapping[str, Score]:
        """Every metric of a model."""

    def difference(self, metric: str, challenger: str, champion: str) -> Difference:
        """How much better one model is than another."""


@dataclass(frozen=True)
class Rules:
    """What a challenger must satisfy.

    Attributes:
        metric: what is compared.
        tolerance: how much worse than the champion the challenger may be.
        min_roc_auc: the least ROC AUC that passes, 0 to 1.
        promote_rolled_back: whether a version that was rolled back may pass.
    """

    metric: str
    tolerance: float
    min_roc_auc: float
    promote_rolled_back: bool


@dataclass(frozen=True)
class Judgement:
    """What came of judging a challenger.

    Attributes:
        version: the challenger.
        env: the environment that it may take over; empty: none.
        rules: what it had to satisfy.
        scores: its metrics.
        contest: against the champion; None where there was none.
        decision: the gate's.
        champion: the version that held the environment when the decision was made.
    """

    version: ModelVersion
    env: str
    rules: Rules
    scores: Mapping[str, Score]
    contest: Contest | None
    decision: Decision
    champion: ModelVersion | None

    @property
    def promoted(self) -> bool:
        """Whether the challenger takes over the environment."""
        return bool(self.env) and self.decision.passed

    @property
    def outcome(self) -> str:
        """What happens, in a few words."""
        if not self.env:
            return "registered only, ENV is empty"
        return f"{self.env}: {'promoted' if self.promoted else 'not promoted'}"

    @property
    def numbers(self) -> dict[str, str]:
        """Both sides' metric and their difference, as tags of the challenger's version."""
        metric = self.rules.metric
        numbers = {f"{metric}.challenger": f"{self.scores[metric].value:.6f}"}
        if contest := self.contest:
            numbers[f"{metric}.champion"] = f"{contest.value:.6f}"
            numbers[f"{metric}.gain"] = f"{contest.gain:.6f} ({contest.low:.6f} to {contest.high:.6f})"
        return numbers

    @property
    def tags(self) -> dict[str, str]:
        """What the deploy run is tagged with."""
        return {
            "deploy.registry_name": self.version.name,
            "deploy.version": str(self.version.version),
            "deploy.outcome": self.outcome,
        }

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, for promotion.json."""
        return {
            "registry_name": self.version.name,
            "version": int(self.version.version),
            "env": self.env,
            "metric": self.rules.metric,
            "tolerance": self.rules.tolerance,
            "min_roc_auc": self.rules.min_roc_auc,
            "challenger": asdict(self.scores[self.rules.metric]),
            "champion": asdict(self.contest) if self.contest else None,
            "passed": self.decision.passed,
            "promoted": self.promoted,
            "reason": self.decision.reason,
        }


def judge(version: ModelVersion, env: str, rows: Rows, rules: Rules) -> Judgement:
    """Decides whether a version may take over an environment.

    Args:
        version: the challenger.
        env: staging or production; empty: there is nobody to beat.
        rows: what both sides answer.
        rules: what the challenger must satisfy.

    Raises:
        click.ClickException: the challenger cannot be loaded or cannot answer; its version then says so.
    """
    scores = _scores(version, env, rows)
    champion = _champion(version, env)
    while True:
        contest, no_contest = _contest(champion, version, env, rows, rules.metric, scores[rules.metric].value)
        decision = gate.decide(
            rules.metric,
            scores,
            contest,
            no_contest=no_contest,
            users=rows.users_of_the_rarer_class,
            tolerance=rules.tolerance,
            min_roc_auc=rules.min_roc_auc,
        )
        # Another deploy may promote while this one judges: the challenger must beat what it would replace.
        now = _champion(version, env)
        if (now and now.version) == (champion and champion.version):
            break
        champion = now
    if decision.passed and not rules.promote_rolled_back and (reasons := promotion.rolled_back(version)):
        reason = f"rolled back {'; '.join(reasons.values())}; force=deploy promotes it all the same"
        decision = Decision(False, reason)
    return Judgement(version, env, rules, scores, contest, decision, champion)


def _scores(version: ModelVersion, env: str, rows: Rows) -> Mapping[str, Score]:
    try:
        return rows.scores(versions.uri(version))
    except click.ClickException as error:
        reason = error.format_message()
        promotion.record(version, env, Decision(False, reason), f"Not promoted: {reason}.", {})
        raise


def _champion(version: ModelVersion, env: str) -> ModelVersion | None:
    return versions.champion(version.name, env) if env else None


def _contest(
    champion: ModelVersion | None, version: ModelVersion, env: str, rows: Rows, metric: str, value: float
) -> tuple[Contest | None, str]:
    """The challenger against the champion; where there is no contest, why."""
    if champion is None:
        return None, "no champion"
    if champion.version == version.version:
        return None, f"it holds {env} already"
    try:
        gain = rows.difference(metric, versions.uri(version), versions.uri(champion))
    except click.ClickException as error:
        # A champion that nobody can use must not keep a sound challenger out for ever.
        return None, f"the champion does not answer: {error.format_message()}"
    champions_value = utility(metric, utility(metric, value) - gain.value)
    return Contest(int(champion.version), champions_value, gain.value, gain.low, gain.high), ""
