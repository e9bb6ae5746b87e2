"""The gate: whether a challenger may replace the champion."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """A metric of a model on the test set (`value`), its 95 % interval, and the constant baseline's."""

    value: float
    low: float
    high: float
    baseline: float


@dataclass(frozen=True)
class Contest:
    """The champion's version and metric on the challenger's test rows, and how much better the challenger is.

    `gain` is above 0 where the challenger is better, whatever the metric's sign; `low` to `high` is its 95 % interval.
    """

    version: int
    value: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Decision:
    """Whether a challenger passed the gate, and why."""

    passed: bool
    reason: str


def decide(
    metric: str,
    standings: Mapping[str, Standing],
    contest: Contest | None,
    *,
    without_contest: str = "no champion",
    tolerance: float = 0.0,
    min_roc_auc: float = 0.0,
) -> Decision:
    """The gate: is the challenger surely better than a constant answer, good enough, and better than the champion?

    Args:
        metric: what is compared; of log_loss less is better, of the others more.
        standings: the challenger's, on the test set: that of `metric` and of roc_auc.
        contest: against the champion on the same rows, or None.
        without_contest: why there is no contest, for the reason.
        tolerance: 0: only a challenger that is strictly better passes; above: one that is up to so much worse, too.
        min_roc_auc: the least roc_auc that passes, 0 to 1.
    """
    standing, auc = standings[metric], standings["roc_auc"].value
    sign = -1.0 if metric == "log_loss" else 1.0
    worst = standing.high if sign < 0 else standing.low
    # `not >` and not `<=`: a metric that is NaN passes nothing.
    if not sign * (worst - standing.baseline) > 0:
        return Decision(
            False,
            f"{metric} {standing.value:.4f} (95 % interval {standing.low:.4f} to {standing.high:.4f}) is not "
            f"surely better than the constant answer's {standing.baseline:.4f}",
        )
    if min_roc_auc > 0 and not auc >= min_roc_auc:
        return Decision(False, f"roc_auc {auc:.4f} is below min_roc_auc {min_roc_auc:g}")
    if contest is None:
        return Decision(
            True,
            f"{metric} {standing.value:.4f} beats the constant answer's {standing.baseline:.4f}; {without_contest}",
        )
    against = (
        f"{metric} {standing.value:.4f} against {contest.value:.4f} of the champion, version {contest.version}: "
        f"better by {contest.gain:.4f} (95 % interval {contest.low:.4f} to {contest.high:.4f})"
    )
    if contest.gain > 0:
        return Decision(True, against)
    if tolerance > 0 and contest.gain >= -tolerance:
        return Decision(True, f"{against}, within the tolerance of {tolerance:g}")
    return Decision(False, f"{against}, " + (f"beyond the tolerance of {tolerance:g}" if tolerance else "no better"))
