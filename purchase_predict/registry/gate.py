"""The gate: whether a challenger may replace the champion."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from purchase_predict.evaluation.few_users import MIN_USERS
from purchase_predict.metrics import METRICS, Compared, Score, utility


@dataclass(frozen=True)
class Contest:
    """A challenger compared with the champion on the test rows that neither was trained on.

    Attributes:
        version: the champion's version number.
        value: the champion's metric.
        gain: how much better the challenger is; above 0 if it is better, also for metrics where less is better.
        low, high: the ends of the gain's 95 % interval.
        challenger: the challenger's metric on the rows of the contest; None: the same as in `scores` of `decide`.
        rows: how many rows the contest used.
        of: how many test rows the challenger was not trained on.
        metrics: every metric of both models, for `promotion.json`.
    """

    version: int
    value: float
    gain: float
    low: float
    high: float
    challenger: float | None = None
    rows: int = 0
    of: int = 0
    metrics: Mapping[str, Compared] = field(default_factory=dict)


#: The interval of a metric is widened by a factor if one class has few users. A decision's reason mentions the widening
#: only if the factor is above this value. If all users have equally many rows, this is the case for up to 30 users.
_NAMED_WIDENING = 1.06


@dataclass(frozen=True)
class Decision:
    """Whether a challenger passed the gate, and why."""

    passed: bool
    reason: str


def decide(
    metric: str,
    scores: Mapping[str, Score],
    contest: Contest | None,
    *,
    no_contest: str = "no champion",
    users: float | None = None,
    widening: float = 1.0,
    tolerance: float = 0.0,
    min_roc_auc: float = 0.0,
) -> Decision:
    """The gate: a challenger must beat the baseline, reach `min_roc_auc`, and be better than the champion.

    The challenger must beat the baseline both in `metric` and in roc_auc, because only roc_auc has the same expected
    value for every model without skill. Average precision, for example, does not. Its baseline is the share of bought
    rows. If a few users have most of the rows not bought, even a random order of the users scores above this baseline.

    Args:
        metric: the metric to compare by.
        scores: the challenger's scores on the test set, by metric: at least those of `metric` and roc_auc.
        contest: the comparison with the champion; None: there is none.
        no_contest: why there is no contest, for the reason of the decision.
        users: the effective number of users of the rarer class in the test rows (`few_users.effective_users`); the gate
            needs at least `few_users.MIN_USERS`. None: not checked.
        widening: the factor, 1 or more, by which the intervals must be widened for few users.
        tolerance: how much worse than the champion the challenger may be; 0: it must be strictly better.
        min_roc_auc: the lowest roc_auc that passes, 0 to 1; 0: any.
    """
    if users is not None and users < MIN_USERS:
        counted = math.floor(users * 10) / 10  # rounded down, so that 9.97 is not shown as 10
        return Decision(
            False,
            f"too few users to tell: the test rows need at least {MIN_USERS} users who bought and {MIN_USERS} who did "
            f"not, but the effective number of users in one of these groups is only {counted:g} (it is lower than the "
            "number of users if a few of them have most of the rows)",
        )
    for name in dict.fromkeys((metric, "roc_auc")):
        if doubt := _doubt(name, scores[name], widening):
            return Decision(False, doubt)
    score, auc = scores[metric], scores["roc_auc"].value
    if min_roc_auc > 0 and not auc >= min_roc_auc:
        return Decision(False, f"roc_auc {auc:.4f} is below min_roc_auc {min_roc_auc:g}")
    if contest is None:
        return Decision(
            True,
            f"{metric} {score.value:.4f} beats the baseline's {score.baseline:.4f}; {no_contest}",
        )
    ours = score.value if contest.challenger is None else contest.challenger
    fair = f", on the {contest.rows} of {contest.of} test rows that neither model was trained on"
    against = (
        f"{metric} {ours:.4f} against {contest.value:.4f} of the champion, version {contest.version}"
        f"{fair if contest.rows < contest.of else ''}: "
        f"{_change(contest.gain)} (95 % interval {_change(contest.low)} to {_change(contest.high)})"
    )
    if contest.gain > 0:
        return Decision(True, against)
    if tolerance > 0 and contest.gain >= -tolerance:
        return Decision(True, f"{against}, within the tolerance of {tolerance:g}")
    return Decision(False, against + (f", beyond the tolerance of {tolerance:g}" if tolerance else ""))


def _doubt(metric: str, score: Score, widening: float) -> str:
    """Why it is not certain that a metric beats the baseline; empty if it is certain."""
    end = score.high if METRICS[metric].less_is_better else score.low
    worst = score.value + (end - score.value) * widening if widening > 1 else end
    # With `>` a NaN does not pass; with `not <=` it would.
    if utility(metric, worst) > utility(metric, score.baseline):
        return ""
    worse = "upper" if METRICS[metric].less_is_better else "lower"
    few = (
        f"; its {worse} end counts as {worst:.4f} because one class has few users" if widening > _NAMED_WIDENING else ""
    )
    return (
        f"{metric} {score.value:.4f}: its 95 % interval ({score.low:.4f} to {score.high:.4f}{few}) "
        f"is not wholly better than the baseline's {score.baseline:.4f}"
    )


def _change(gain: float) -> str:
    return f"{abs(gain):.4f} {'better' if gain > 0 else 'worse'}" if gain else "no difference"
