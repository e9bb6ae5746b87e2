"""Judges a challenger against the champion. The caller passes the rows in, because this package reads no table."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import click
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.evaluation.few_users import MIN_USERS
from purchase_predict.metrics import Compared, Score
from purchase_predict.registry import gate, promotion, versions
from purchase_predict.registry.gate import Contest, Decision
from purchase_predict.workflow.hints import command_line
from purchase_predict.workflow.models import MODEL_SOURCE


class Rows(Protocol):
    """Labelled rows on which models are compared (`models/held_out.py`). The methods take the URIs of models."""

    @property
    def count(self) -> int:
        """How many rows there are."""

    @property
    def users_of_the_rarer_class(self) -> float:
        """The effective number of users with bought rows, or of users with rows not bought, whichever is lower."""

    @property
    def widening(self) -> float:
        """The factor, 1 or more, by which the 95 % intervals must be widened because a class has few users."""

    def unseen_by(self, uri: str) -> "Rows":
        """The rows of sessions that a model was not trained on."""

    def scores(self, uri: str) -> Mapping[str, Score]:
        """Every metric of a model."""

    def compare(self, challenger: str, champion: str) -> Mapping[str, Compared]:
        """Every metric of both models, and how much better the challenger is."""


@dataclass(frozen=True)
class Rules:
    """What a challenger must satisfy.

    Attributes:
        metric: the metric to compare by.
        tolerance: how much worse than the champion the challenger may be, as a difference of `metric`.
        min_roc_auc: the lowest ROC AUC that passes, 0 to 1.
        promote_rolled_back: whether a version that was rolled back may pass.
        approve: whether a version that passes waits for a person's approval.
    """

    metric: str
    tolerance: float
    min_roc_auc: float
    promote_rolled_back: bool
    approve: bool = False


@dataclass(frozen=True)
class Judgement:
    """The result of judging a challenger.

    Attributes:
        version: the challenger.
        env: the environment that it may take over; empty: none.
        rules: what the challenger had to satisfy.
        scores: the challenger's metrics on the test rows that it was not trained on.
        contest: the comparison with the champion; None: there was none.
        decision: whether the challenger passed, and why.
        champion: the version that held the environment when the decision was made; None: no version did.
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
        return bool(self.env) and self.decision.passed and not self.waits

    @property
    def waits(self) -> bool:
        """Whether the challenger passed and waits for approval; a version that already holds the alias never waits."""
        holds = self.champion is not None and self.champion.version == self.version.version
        return bool(self.env) and self.decision.passed and self.rules.approve and not holds

    @property
    def outcome(self) -> str:
        """The outcome, in a few words."""
        if not self.env:
            return "registered but not promoted, because ENV is empty"
        if self.waits:
            return f"{self.env}: waits for approval"
        return f"{self.env}: {'promoted' if self.promoted else 'not promoted'}"

    @property
    def verdict(self) -> str:
        """The outcome, and the reason."""
        return f"{self.outcome} ({self.decision.reason})"

    @property
    def numbers(self) -> dict[str, str]:
        """The metric of the challenger and of the champion, and the gain, as tags of the challenger's version."""
        metric = self.rules.metric
        numbers = {f"{metric}.challenger": f"{self.scores[metric].value:.6f}"}
        if contest := self.contest:
            numbers[f"{metric}.champion"] = f"{contest.value:.6f}"
            numbers[f"{metric}.gain"] = f"{contest.gain:.6f} ({contest.low:.6f} to {contest.high:.6f})"
        return numbers

    @property
    def tags(self) -> dict[str, str]:
        """Tags for the run that judged the challenger."""
        return {
            "deploy.registry_name": self.version.name,
            "deploy.version": str(self.version.version),
            "deploy.env": self.env,
            "deploy.outcome": self.outcome,
        }

    @property
    def facts(self) -> dict[str, Any]:
        """The judgement as JSON values, for promotion.json."""
        return {
            "registry_name": self.version.name,
            "version": int(self.version.version),
            "env": self.env,
            "metric": self.rules.metric,
            "tolerance": self.rules.tolerance,
            "min_roc_auc": self.rules.min_roc_auc,
            "promote_rolled_back": self.rules.promote_rolled_back,
            "challenger": asdict(self.scores[self.rules.metric]),
            "champion": asdict(self.contest) if self.contest else None,
            "passed": self.decision.passed,
            "promoted": self.promoted,
            "waits": self.waits,
            "reason": self.decision.reason,
        }


def judge(version: ModelVersion, env: str, rows: Rows, rules: Rules) -> Judgement:
    """Decides whether a version may take over an environment.

    Args:
        version: the challenger.
        env: staging or production; empty: none, so there is no champion.
        rows: the test rows. Sessions that the challenger was trained on are left out. For the comparison,
            sessions that the champion was trained on are left out, too.
        rules: what the challenger must satisfy.

    Raises:
        click.ClickException: the challenger cannot be loaded or cannot predict, its training rows are not known, or it
            was trained on too many of the rows. `promotion.record` then records the reason.
    """
    version = versions.get_version(version.name, version.version) or version  # its tags may have changed
    rows, scores = _own_scores(version, env, rows)
    champion = versions.champion(version.name, env) if env else None
    contest, why = _contest(champion, version, env, rows, rules.metric)
    decision = gate.decide(
        rules.metric,
        scores,
        contest,
        no_contest=why.text,
        users=rows.users_of_the_rarer_class,
        widening=rows.widening,
        tolerance=rules.tolerance,
        min_roc_auc=rules.min_roc_auc,
    )
    if decision.passed and why.forbids:
        decision = Decision(False, why.text)
    note = _change_of_source(version, champion) if champion else ""
    decision = Decision(decision.passed, "; ".join(filter(None, [decision.reason, note])))
    # A rollback in the other environment does not count against a challenger that already holds this environment.
    holds = champion is not None and champion.version == version.version
    reasons = {} if holds or rules.promote_rolled_back else promotion.rolled_back(version)
    if decision.passed and reasons:
        rolled_back = f"this version was rolled back {'; '.join(reasons.values())}"
        decision = Decision(False, f"{rolled_back}; to promote it anyway, give -P force=deploy to main")
    return Judgement(version, env, rules, scores, contest, decision, champion)


def _own_scores(version: ModelVersion, env: str, rows: Rows) -> tuple[Rows, Mapping[str, Score]]:
    """The rows that the challenger was not trained on, and its metrics on them."""
    uri = versions.uri(version)
    try:
        unseen = _unseen(rows, uri, f"version {version.version}", "train again")
        if unseen.users_of_the_rarer_class < MIN_USERS and unseen.count < rows.count:
            raise click.ClickException(
                f"not comparable: version {version.version} was trained on {rows.count - unseen.count} of the "
                f"{rows.count} test rows, and the other test rows have too few users to tell; judge this version on "
                "rows that it was not trained on (-P dataset=runs:/<run id of process>/dataset)"
            )
        return unseen, unseen.scores(uri)
    except click.ClickException as error:
        reason = error.format_message()
        promotion.record(version, env, Decision(False, reason), f"Not promoted: {reason}.", {})
        raise


def _unseen(rows: Rows, uri: str, who: str, way_out: str) -> Rows:
    """The rows that a model was not trained on.

    Raises:
        click.ClickException: the model's training rows are unknown or cannot be fetched, so any row may be one of them.
    """
    try:
        return rows.unseen_by(uri)
    except click.ClickException as error:
        raise click.ClickException(
            f"not comparable: the training rows of {who} are not known ({error.format_message()}), so the test rows "
            f"may be among them: {way_out}"
        ) from error


@dataclass(frozen=True)
class _Why:
    """Why there is no contest, and whether that forbids a promotion."""

    text: str = ""
    forbids: bool = False


def _contest(
    champion: ModelVersion | None, version: ModelVersion, env: str, rows: Rows, metric: str
) -> tuple[Contest | None, _Why]:
    """The challenger compared with the champion, on rows that neither was trained on; or None, and why."""
    if champion is None:
        missing = versions.missing_champion(version.name, env) if env else ""
        return None, _Why(
            f"no champion: the alias {env} names version {missing}, which is missing" if missing else "no champion"
        )
    if champion.version == version.version:
        return None, _Why(f"this version already holds {env}")
    ours, theirs = versions.uri(version), versions.uri(champion)
    fair, obstacle = _fair(rows, champion, theirs, _by_hand(version, env))
    try:
        if obstacle:
            rows.scores(theirs)  # raises an error if the champion cannot predict
            return None, _Why(obstacle, forbids=True)
        compared = fair.compare(ours, theirs)
    except click.ClickException as error:
        # A champion that cannot predict must not block a good challenger for ever.
        return None, _Why(f"the champion cannot predict: {error.format_message()}")
    judged = compared[metric]
    contest = Contest(
        version=int(champion.version),
        value=judged.champion,
        gain=judged.difference.value,
        low=judged.difference.low,
        high=judged.difference.high,
        challenger=judged.challenger,
        rows=fair.count,
        of=rows.count,
        metrics=compared,
    )
    return contest, _Why()


def _fair(rows: Rows, champion: ModelVersion, uri: str, by_hand: str) -> tuple[Rows, str]:
    """The rows that the champion was not trained on, and the reason why they cannot be used (empty if they can)."""
    who = f"the champion (version {champion.version})"
    try:
        fair = _unseen(rows, uri, who, by_hand)
    except click.ClickException as error:
        return rows, error.format_message()
    if fair.users_of_the_rarer_class >= MIN_USERS:
        return fair, ""
    return fair, (
        f"not comparable: {who} was trained on {rows.count - fair.count} of the {rows.count} test rows, and the other "
        "test rows have too few users to tell; judge both models on rows that neither was trained on "
        f"(-P dataset=runs:/<run id of process>/dataset), or {by_hand}"
    )


def _by_hand(version: ModelVersion, env: str) -> str:
    """What the user can do if the gate cannot compare. The version then fails the gate, so `allow_failed` is needed."""
    rollback = command_line(
        "rollback", registry_name=version.name, version=version.version, env=env, allow_failed="true"
    )
    return f"decide yourself with {rollback}"


def _change_of_source(version: ModelVersion, champion: ModelVersion) -> str:
    # A version that was registered by hand lacks the tag `MODEL_SOURCE`.
    sides = {"the challenger": version, "the champion": champion}
    unknown = [side for side, known in sides.items() if MODEL_SOURCE not in known.tags]
    if unknown and champion.version != version.version:
        return f"note that the training source of {' and '.join(unknown)} is not known"
    ours, theirs = version.tags.get(MODEL_SOURCE), champion.tags.get(MODEL_SOURCE)
    if not ours or not theirs or ours == theirs:
        return ""
    return f"note that the challenger's training source ({ours}) differs from the champion's ({theirs})"
