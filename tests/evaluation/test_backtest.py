"""The backtest: no fit sees its own period or a later one, and the trend claims no more than the scores show."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict.evaluation import backtest as module
from purchase_predict.evaluation.backtest import METRICS, Backtest, Period, backtest
from purchase_predict.evaluation.few_users import MIN_USERS, effective_users
from purchase_predict.metrics import Score

START = int(datetime(2024, 3, 4, tzinfo=UTC).timestamp()) * 10**9


def moments(rows: int, days: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return START + (rng.random(rows) * days * 86_400).astype(np.int64) * 10**9


def labels(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed + 1)
    return rng.integers(0, 2, rows), rng.integers(0, 10**6, rows)


@given(st.integers(200, 1500), st.floats(0.5, 120), st.integers(0, 20))
def test_each_period_is_predicted_from_what_came_before_it(rows: int, days: float, seed: int) -> None:
    ended = moments(rows, days, seed)
    y, users = labels(rows, seed)
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def fit_and_predict(before: np.ndarray, inside: np.ndarray) -> np.ndarray:
        seen.append((before, inside))
        return np.full(len(inside), 0.5)

    made = backtest("roc_auc", ended, y, users, fit_and_predict)
    for before, inside in seen:
        assert ended[before].max() < ended[inside].min()
        assert set(before) == set(np.flatnonzero(ended < ended[inside].min()))  # all earlier rows, not a window of them
    assert len(made.periods) <= module.MAX_PERIODS
    assert [period.start for period in made.periods] == sorted(period.start for period in made.periods)
    assert all(one.end == next_.start for one, next_ in itertools.pairwise(made.periods))
    assert made.periods[-1].end > datetime.fromtimestamp(int(ended.max()) // 10**9, UTC)
    if made.unit == "week":
        assert all(period.end - period.start == timedelta(days=7) for period in made.periods)
    else:
        assert made.periods[-1].rows == pytest.approx(rows / 10, abs=2 + rows / 100)
    for period in made.periods:
        enough = [
            min(effective_users(users[chosen & (y == label)]) for label in (0, 1)) >= MIN_USERS
            for chosen in (nanoseconds_before(ended, period.start), inside_of(ended, period))
        ]
        assert bool(period.scores) == all(enough)


def nanoseconds_before(ended: np.ndarray, time: datetime) -> np.ndarray:
    before: np.ndarray = ended < _nanoseconds(time)
    return before


def inside_of(ended: np.ndarray, period: Period) -> np.ndarray:
    inside: np.ndarray = (ended >= _nanoseconds(period.start)) & (ended < _nanoseconds(period.end))
    return inside


def _nanoseconds(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def test_the_scores_are_those_of_the_predictions() -> None:
    ended, (y, users) = moments(3000, 60), labels(3000)
    made = backtest("log_loss", ended, y, users, lambda before, inside: np.where(y[inside] == 1, 0.9, 0.2))
    assert made.unit == "week"
    assert len(made.scored) >= 7
    for period in made.scored:
        assert tuple(period.scores) == METRICS
        assert period.scores["roc_auc"].value == 1
        bought = y[inside_of(ended, period)]
        expected = -np.mean(np.where(bought == 1, np.log(0.9), np.log(0.8)))
        assert period.scores["log_loss"].value == pytest.approx(expected)
        before = y[nanoseconds_before(ended, period.start)].mean()
        assert period.scores["log_loss"].baseline == pytest.approx(
            -np.mean(np.where(bought == 1, np.log(before), np.log(1 - before)))
        )


def test_when_the_time_is_over_the_earlier_periods_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, (y, users) = moments(3000, 60), labels(3000)
    clock = itertools.count()
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    made = backtest("roc_auc", ended, y, users, lambda before, inside: np.full(len(inside), 0.5), max_seconds=3)
    assert len(made.periods) == 3
    assert made.left_out > 3
    assert made.periods[-1].end > datetime.fromtimestamp(int(ended.max()) // 10**9, UTC)


def of_scores(values: np.ndarray, half: np.ndarray, metric: str = "roc_auc", baseline: float = 0.5) -> Backtest:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    week = timedelta(days=7)
    periods = [
        Period(
            start + number * week,
            start + (number + 1) * week,
            100,
            100,
            0.3,
            {metric: Score(value, value - wide, value + wide, baseline)},
        )
        for number, (value, wide) in enumerate(zip(values, half, strict=True))
    ]
    return Backtest("week", metric, periods, 0, 1.0)


@pytest.mark.parametrize(
    ("metric", "slope", "said"),
    [
        ("roc_auc", 0.02, "gets better with time"),
        ("roc_auc", -0.02, "gets worse with time"),
        ("log_loss", 0.02, "gets worse with time"),
        ("log_loss", -0.02, "gets better with time"),
        ("roc_auc", 0.0, "no clear trend over time yet"),
    ],
)
def test_the_verdict_follows_a_clear_trend(metric: str, slope: float, said: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.002, 8)
    assert said in of_scores(0.6 + slope * np.arange(8) + noise, np.full(8, 0.01), metric, 0.65).verdict


@pytest.mark.parametrize("scatter", [1.0, 3.0])
def test_noise_alone_is_seldom_a_trend(scatter: float) -> None:
    """At most 5 % of the intervals exclude 0, even if the weeks scatter more than their own intervals suggest."""
    rng = np.random.default_rng(1)
    error = rng.uniform(0.01, 0.02, 8)
    wrong = 0
    for _ in range(1000):
        trend = of_scores(0.7 + scatter * rng.normal(0, error), 1.96 * error).trend
        assert trend
        wrong += trend.low > 0 or trend.high < 0
    assert wrong / 1000 < 0.05 + 2 * (0.05 * 0.95 / 1000) ** 0.5


def with_constant(made: Backtest, *numbers: int) -> Backtest:
    periods = [replace(period, constant=number in numbers) for number, period in enumerate(made.periods)]
    return replace(made, periods=periods)


def naive_slope(values: Sequence[float], halves: Sequence[float], at: Sequence[float]) -> float:
    """The slope of a weighted least-squares line. No weight is above 4 times that of a period with the median width."""
    floor = sorted(halves)[len(halves) // 2] / 2 if len(halves) % 2 else float(np.median(halves)) / 2
    roots = [1 / max(half, floor) for half in halves]
    design = np.array([[root, root * moment] for root, moment in zip(roots, at, strict=True)])
    solved = np.linalg.lstsq(design, np.array(values) * roots, rcond=None)[0]
    return float(solved[1])


@pytest.mark.parametrize("width", [0.0, 0.03])
def test_a_period_whose_model_could_not_learn_does_not_count(width: float) -> None:
    falling = np.array([0.8, 0.78, 0.76, 0.74, 0.72, 0.70, 0.68])
    made = of_scores(np.array([0.5, *falling]), np.array([width, *np.full(7, 0.03)]))
    if width:  # as for log loss and average precision; for ROC AUC, the interval of a constant answer has a width of 0
        made = with_constant(made, 0)
    assert made.trend == of_scores(falling, np.full(7, 0.03)).trend
    assert made.trend
    assert made.trend.value == pytest.approx(-0.02)
    assert "gets worse with time" in made.verdict
    assert "Not counted for the trend: 1 " in made.verdict


def test_a_constant_answer_is_noticed_where_the_interval_has_a_width() -> None:
    ended, (y, users) = moments(3000, 60), labels(3000)
    calls = itertools.count()

    def fit_and_predict(before: np.ndarray, inside: np.ndarray) -> np.ndarray:
        skill = 0.0 if next(calls) == 2 else 0.4
        return 0.3 + skill * y[inside]

    made = backtest("log_loss", ended, y, users, fit_and_predict)
    (constant,) = [period for period in made.periods if period.constant]
    assert constant is made.periods[-3]
    assert constant.scores["log_loss"].high > constant.scores["log_loss"].low
    assert constant in made.scored
    assert constant not in made.counted


@given(
    st.lists(st.tuples(st.floats(0.5, 0.95), st.floats(1e-6, 0.2), st.booleans()), min_size=5, max_size=10),
)
def test_the_slope_is_that_of_a_naive_reference(weeks: list[tuple[float, float, bool]]) -> None:
    values, halves, constant = (np.array(column) for column in zip(*weeks, strict=True))
    made = with_constant(of_scores(values, halves), *np.flatnonzero(constant))
    kept = np.flatnonzero(~constant)
    if len(kept) < module.MIN_SCORED:
        assert made.trend is None
        return
    slope = naive_slope(values[kept] - 0.5, halves[kept], kept)
    assert made.trend
    assert made.trend.value == pytest.approx(slope, abs=1e-7)


def test_one_period_with_a_narrow_interval_does_not_decide() -> None:
    values = np.array([0.5, 0.8, 0.78, 0.76, 0.74, 0.72, 0.70, 0.68])
    trend = of_scores(values, np.array([1e-4, *np.full(7, 0.03)])).trend
    assert trend
    assert trend.low < 0 < trend.high


def test_the_verdict_says_that_later_models_have_more_rows() -> None:
    for slope in (-0.02, 0.0, 0.02):
        assert "trained on more rows" in of_scores(0.6 + slope * np.arange(8), np.full(8, 0.01)).verdict


def test_few_periods_tell_no_trend() -> None:
    made = of_scores(np.array([0.5, 0.6, 0.7, 0.8]), np.full(4, 0.001))
    assert made.trend is None
    assert "cannot be measured" in made.verdict


def test_the_record_is_the_same_whatever_time_it_took() -> None:
    ended, (y, users) = moments(900, 3), labels(900)
    records = [
        json.dumps(backtest("roc_auc", ended, y, users, lambda before, inside: np.full(len(inside), 0.5)).as_json())
        for _ in range(2)
    ]
    assert records[0] == records[1]
    assert json.loads(records[0])["unit"] == "tenth"
