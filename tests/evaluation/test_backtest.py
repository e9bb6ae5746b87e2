"""The backtest: no period sees itself or what comes later, and the trend says what the scores can tell."""

import itertools
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict.evaluation import backtest as module
from purchase_predict.evaluation.backtest import METRICS, Backtest, Period, backtest
from purchase_predict.evaluation.few_users import MIN_USERS
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
        assert set(before) == set(np.flatnonzero(ended < ended[inside].min()))  # all of it, not a window
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
            min(len(set(users[chosen & (y == label)])) for label in (0, 1)) >= MIN_USERS
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
    """At most 5 % of the intervals exclude 0, also where weeks differ by more than their own intervals say."""
    rng = np.random.default_rng(1)
    error = rng.uniform(0.01, 0.02, 8)
    wrong = 0
    for _ in range(1000):
        trend = of_scores(0.7 + scatter * rng.normal(0, error), 1.96 * error).trend
        assert trend
        wrong += trend.low > 0 or trend.high < 0
    assert wrong / 1000 < 0.05 + 2 * (0.05 * 0.95 / 1000) ** 0.5


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
