"""A backtest: the model's metrics in each past week, after training on the rows before that week.

Each week has its own fit, which has seen neither that week nor a later one. All fits use the parameters that the
search chose. The search has seen the weeks of the training set, so their metrics may be slightly too good.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from purchase_predict import metrics
from purchase_predict.evaluation.few_users import MIN_USERS, NORMAL, effective_users, student_t
from purchase_predict.evaluation.scores import evaluate
from purchase_predict.metrics import Difference, Score

#: The metrics of a backtest. They need no threshold.
METRICS = ("roc_auc", "average_precision", "log_loss")
#: The latest weeks are measured, at most MAX_PERIODS of them. If there are fewer than MIN_WEEKS whole weeks, the
#: periods are tenths of the rows instead.
MAX_PERIODS, MIN_WEEKS = 10, 5
#: A trend is computed only if at least this many periods count for it (`Backtest.counted`).
MIN_SCORED = 5
#: The minimum width of a period's interval in the trend, as a share of the median width. Narrower intervals count as
#: this wide, because the bootstrap interval of few rows may be too narrow by chance. So no period weighs more than 4
#: times as much as one with the median width.
MIN_WIDTH = 0.5
#: Time limit in seconds: after it no further period is started. The latest periods are measured first.
MAX_SECONDS = 120.0

#: A week in nanoseconds.
_WEEK = 7 * 86_400 * 10**9

#: Fits a model on some rows and predicts other rows. Takes the positions of the rows to fit and of those to predict;
#: returns the probability of each predicted row, 0 to 1.
FitAndPredict = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Period:
    """A past week, or a tenth of the rows.

    Attributes:
        start: the start of the period (UTC), included.
        end: the end of the period, excluded; the next period starts here.
        train_rows: the number of rows before the period, on which its model is trained.
        rows: the number of rows in the period.
        base_rate: the share of purchases among the period's rows, 0 to 1; None without rows.
        scores: the scores in `METRICS`, by name. Empty if a class has an effective number of users below `MIN_USERS`
            in the period or before it.
        constant: whether the period's model gave every row the same probability, because it could not learn.
    """

    start: datetime
    end: datetime
    train_rows: int
    rows: int
    base_rate: float | None
    scores: Mapping[str, Score]
    constant: bool = False


@dataclass(frozen=True)
class Backtest:
    """The result of a backtest.

    Attributes:
        unit: "week" or "tenth".
        metric: the metric of the trend.
        periods: in the order of time.
        left_out: the number of periods that were not measured because the time limit was reached.
        seconds: the duration of the backtest in seconds.
    """

    unit: str
    metric: str
    periods: Sequence[Period]
    left_out: int
    seconds: float

    @property
    def scored(self) -> list[Period]:
        """The periods with scores."""
        return [period for period in self.periods if period.scores]

    @property
    def counted(self) -> list[Period]:
        """The scored periods that count for the trend: the model could learn, and the interval's width is above 0."""
        return [period for period in self.scored if not period.constant and _width(period.scores[self.metric]) > 0]

    @property
    def trend(self) -> Difference | None:
        """The change per period of the gain over the baseline; None if fewer than `MIN_SCORED` periods count.

        It is the slope of a weighted straight line through the gains. A period's weight is 1 / (standard error)². The
        standard error is computed from the width of the period's interval. A narrow interval counts as wider
        (`MIN_WIDTH`). If the gains scatter more than their intervals suggest, the slope's interval is widened
        accordingly (Birge, The Calculation of Errors by the Method of Least Squares, 1932). Student's t accounts for
        the small number of periods.
        """
        counted = self.counted
        if len(counted) < MIN_SCORED:
            return None
        of_periods = [period.scores[self.metric] for period in counted]
        gain = np.array([metrics.utility(self.metric, score.value - score.baseline) for score in of_periods])
        width = np.array([_width(score) for score in of_periods])
        weight = (2 * NORMAL / np.maximum(width, MIN_WIDTH * np.median(width))) ** 2
        first, last = self.periods[0].start, self.periods[-1].start
        mean_distance = (last - first) / (len(self.periods) - 1)  # between two periods in a row, counted or not
        at = np.array([(period.start - first) / mean_distance for period in counted])
        centred = at - np.average(at, weights=weight)
        spread = float(np.sum(weight * centred**2))
        slope = float(np.sum(weight * centred * gain) / spread)
        residual = gain - np.average(gain, weights=weight) - slope * centred
        scatter = max(1.0, float(np.sum(weight * residual**2)) / (len(at) - 2))
        half = student_t(len(at) - 2) * math.sqrt(scatter / spread)
        return Difference(slope, slope - half, slope + half)

    @property
    def verdict(self) -> str:
        """A text that says whether the model gets better or worse over time, and how many periods do not count."""
        return " ".join(filter(None, [self._direction, self._not_counted]))

    @property
    def _direction(self) -> str:
        trend, label = self.trend, metrics.METRICS[self.metric].label
        if trend is None:
            return f"A trend over time cannot be measured, because fewer than {MIN_SCORED} {self.unit}s can be used."
        change = f"{trend.value:+.4f} per {self.unit} (95 % interval {trend.low:+.4f} to {trend.high:+.4f})"
        gain = f"its gain over the baseline in {label} changes by {change}"
        more_rows = f"the model of each later {self.unit} is trained on more rows"
        if trend.low > 0:
            return f"The model gets better with time: {gain}. The reason may be that {more_rows}."
        if trend.high < 0:
            return f"The model gets worse with time: {gain}, although {more_rows}."
        return (
            f"The model shows no clear trend over time yet: {gain}. A decline may be hidden: {more_rows}, and this "
            "alone may improve the scores."
        )

    @property
    def _not_counted(self) -> str:
        few = len(self.periods) - len(self.scored)
        constant = sum(period.constant for period in self.scored)
        reasons = {
            f"with too few buyers or non-buyers in or before the {self.unit}": few,
            "whose model could not learn and gave every cart the same answer": constant,
            "whose score has an interval with a width of 0": len(self.scored) - constant - len(self.counted),
        }
        listed = [
            f"{number} {self.unit}{'s' if number > 1 else ''} {reason}" for reason, number in reasons.items() if number
        ]
        return f"Not counted for the trend: {'; '.join(listed)}." if listed else ""

    def as_json(self) -> dict[str, Any]:
        """The backtest as JSON values, without the duration.

        So the same rows give the same values, unless the time limit was reached.
        """
        return {
            "unit": self.unit,
            "metric": self.metric,
            "periods": [
                {**asdict(period), "start": period.start.isoformat(), "end": period.end.isoformat()}
                for period in self.periods
            ],
            "left_out": self.left_out,
            "verdict": self.verdict,
        }


def backtest(
    metric: str,
    ended: np.ndarray,
    y: np.ndarray,
    users: np.ndarray,
    fit_and_predict: FitAndPredict,
    max_seconds: float = MAX_SECONDS,
) -> Backtest:
    """Measures a model's metrics in each past period.

    Args:
        metric: the metric of the trend; one of `METRICS`.
        ended: when the session of each row ended, in nanoseconds since 1970 (UTC). Periods are cut by this time, so no
            session is divided.
        y: labels, 0 or 1.
        users: each row's user.
        fit_and_predict: fits a model on the rows before a period and predicts the rows of the period.
        max_seconds: no further period is started after this many seconds.
    """
    started = time.monotonic()
    unit, edges = _edges(ended)

    def measure(start: int, end: int) -> Period | None:
        if time.monotonic() - started > max_seconds:
            return None
        before, inside = np.flatnonzero(ended < start), np.flatnonzero((ended >= start) & (ended < end))
        scores, constant = {}, False
        if min(_rarer_users(y[rows], users[rows]) for rows in (before, inside)) >= MIN_USERS:
            probability, known_rate = fit_and_predict(before, inside), float(y[before].mean())
            scores = evaluate(y[inside], probability, users[inside], 0.5, known_rate, names=METRICS)
            constant = bool(np.ptp(probability) == 0)
        base_rate = float(y[inside].mean()) if len(inside) else None
        return Period(_moment(start), _moment(end), len(before), len(inside), base_rate, scores, constant)

    measured = [measure(start, end) for start, end in list(pairwise(edges))[::-1]]
    periods = [period for period in measured[::-1] if period]
    return Backtest(unit, metric, periods, len(measured) - len(periods), time.monotonic() - started)


def _edges(ended: np.ndarray) -> tuple[str, list[int]]:
    """The unit, and the edges of the periods in nanoseconds since 1970 (UTC).

    The periods are whole weeks up to the midnight after the last row. With too few weeks, they are tenths of the rows.
    The first tenth is left out, because no rows lie before it.
    """
    day = _WEEK // 7
    end = (int(ended.max()) // day + 1) * day
    weeks = (end - int(ended.min())) // _WEEK
    if weeks >= MIN_WEEKS:
        return "week", [end - _WEEK * number for number in range(min(weeks, MAX_PERIODS), -1, -1)]
    cuts = np.unique(np.sort(ended)[(np.arange(1, 10) * len(ended)) // 10])
    return "tenth", [*map(int, cuts[cuts > ended.min()]), end]


def _width(score: Score) -> float:
    """The width of a score's interval."""
    return score.high - score.low


def _rarer_users(y: np.ndarray, users: np.ndarray) -> float:
    """The effective number of buyers or of other users, whichever is smaller."""
    return min(effective_users(users[y == label].tolist()) for label in (0, 1))


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC)
