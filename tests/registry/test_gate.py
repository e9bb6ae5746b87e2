"""The gate's rule, with every metric that it may compare by (higher or lower is better), and with few users."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import few_buyers
from purchase_predict.evaluation.few_users import MIN_USERS, effective_users, stretch, widening
from purchase_predict.evaluation.scores import Ranked
from purchase_predict.metrics import METRICS, SEARCHABLE, Score, utility
from purchase_predict.registry.gate import Contest, decide
from tests.conftest import checkout
from tests.preloaded.start import program

metrics = st.sampled_from(SEARCHABLE)


def sure(metric: str) -> dict[str, Score]:
    """Scores whose whole 95 % interval is better than the baseline."""
    better = Score(0.4, 0.35, 0.45, 0.69) if METRICS[metric].less_is_better else Score(0.8, 0.75, 0.85, 0.5)
    return {"roc_auc": Score(0.8, 0.75, 0.85, 0.5), metric: better}


@pytest.mark.parametrize("metric", SEARCHABLE)
def test_a_tie_does_not_promote(metric: str) -> None:
    assert not decide(metric, sure(metric), Contest(1, 0.8, 0.0, 0.0, 0.0)).passed


@given(gain=st.floats(-1, 1), tolerance=st.floats(0, 1), metric=metrics)
def test_the_gate_lets_pass_what_is_better_or_within_the_tolerance(gain: float, tolerance: float, metric: str) -> None:
    decision = decide(metric, sure(metric), Contest(3, 0.7, gain, gain, gain), tolerance=tolerance)
    assert decision.passed == (gain > 0 or (tolerance > 0 and gain >= -tolerance))
    assert "version 3" in decision.reason


@given(worst=st.floats(0, 1), baseline=st.floats(0, 1), metric=metrics)
def test_the_worse_end_of_the_interval_must_beat_the_constant_answer(
    worst: float, baseline: float, metric: str
) -> None:
    if METRICS[metric].less_is_better:
        score, better = Score(0.0, 0.0, worst, baseline), worst < baseline
    else:
        score, better = Score(1.0, worst, 1.0, baseline), worst > baseline
    assert decide(metric, {**sure("roc_auc"), metric: score}, None).passed == better


@pytest.mark.parametrize("metric", SEARCHABLE)
def test_a_metric_that_is_no_number_passes_nothing(metric: str) -> None:
    nan = float("nan")
    assert not decide(metric, {**sure("roc_auc"), metric: Score(nan, nan, nan, 0.5)}, None).passed
    assert not decide(metric, sure(metric), Contest(1, 0.8, nan, nan, nan), tolerance=0.1).passed


def test_a_roc_auc_below_the_least_does_not_pass() -> None:
    assert not decide("log_loss", sure("log_loss"), None, min_roc_auc=0.81).passed
    assert decide("log_loss", sure("log_loss"), None, min_roc_auc=0.8).passed


@given(value=st.floats(-10, 10), metric=st.sampled_from(list(METRICS)))
def test_utility_turns_a_loss_round_and_nothing_else(value: float, metric: str) -> None:
    assert utility(metric, value) == (-value if METRICS[metric].less_is_better else value)
    assert utility(metric, utility(metric, value)) == value


#: A program that searches and decides by the Brier score. It runs in a copy of the project in which this metric is
#: searchable.
_ANOTHER_LOSS = """
from purchase_predict.metrics import SEARCHABLE, Score
from purchase_predict.parameters import typed
from purchase_predict.registry.gate import decide
from purchase_predict.search.search import search
from tests.search.tables import table

assert typed("metric", "brier") == "brier"
found = search(table(), 2, "brier", 1)
finished = [trial.score for trial in found.trials if trial.state == "finished"]
assert found.best.score == min(finished), finished
scores = {"roc_auc": Score(0.8, 0.75, 0.85, 0.5), "brier": Score(0.1, 0.09, 0.11, 0.2)}
assert decide("brier", scores, None).passed
assert not decide("brier", {**scores, "brier": Score(0.3, 0.29, 0.31, 0.2)}, None).passed
"""


def test_another_loss_becomes_searchable_by_one_line(tmp_path: Path) -> None:
    project = checkout(tmp_path / "project")
    file = project / "purchase_predict/metrics.py"
    before = 'Metric("brier", "Brier score", less_is_better=True)'
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, before[:-1] + ', searchable=True, early_stopping="log_loss")'))
    subprocess.run([program("python"), "-c", _ANOTHER_LOSS], cwd=project, check=True)


@pytest.mark.parametrize(("users", "passed"), [(0, False), (1, False), (9.99, False), (10, True), (None, True)])
def test_few_buyers_prove_nothing(users: float | None, passed: bool) -> None:
    decision = decide("roc_auc", sure("roc_auc"), None, users=users)
    assert decision.passed == passed
    assert passed or decision.reason.startswith(
        "too few users to tell: the test rows need at least 10 users who bought and 10 who did not, but the effective "
        f"number of users in one of these groups is only {str(users)[:3]} ("
    )


@pytest.mark.parametrize(("users", "passed"), [(10, False), (20, True), (200, True)])
def test_with_few_buyers_the_interval_is_widened(users: int, passed: bool) -> None:
    scores = {"roc_auc": Score(0.75, 0.54, 0.9, 0.5)}
    decision = decide("roc_auc", scores, None, users=users, widening=stretch(users))
    assert decision.passed == passed
    assert passed or "its lower end counts as 0.4949 because one class has few users" in decision.reason


@pytest.mark.parametrize("metric", SEARCHABLE)
def test_whatever_the_metric_roc_auc_must_beat_a_coin_too(metric: str) -> None:
    scores = {**sure(metric), "roc_auc": Score(0.55, 0.51, 0.6, 0.5)}
    assert decide(metric, scores, None, widening=1.2).passed
    decision = decide(metric, scores, None, widening=1.3)
    assert not decision.passed
    assert decision.reason.startswith("roc_auc 0.5500: its 95 % interval (0.5100 to 0.6000; its lower end counts as")


#: The number of rows of each user.
rows_of_users = st.lists(st.integers(1, 30), min_size=1, max_size=60)


def users_of(rows: list[int]) -> list[int]:
    """The user of each row, given the number of rows of each user."""
    return [user for user, count in enumerate(rows) for _ in range(count)]


@given(rows_of_users, st.integers(2, 4))
def test_users_with_more_rows_than_others_count_as_fewer(rows: list[int], times: int) -> None:
    found = effective_users(users_of(rows))
    pairs = [(one, other) for one in users_of(rows) for other in users_of(rows)]
    assert found == pytest.approx(len(pairs) / sum(one == other for one, other in pairs))
    assert 1 <= found <= len(rows) + 1e-9
    assert effective_users(users_of([count * times for count in rows])) == pytest.approx(found)
    assert effective_users(users_of([5] * len(rows))) == len(rows)
    assert stretch(max(MIN_USERS, len(rows))) - 1e-9 <= widening(users_of(rows)) <= stretch(MIN_USERS)
    assert widening(users_of([5] * len(rows))) == pytest.approx(stretch(max(MIN_USERS, len(rows))))


def test_many_small_users_do_not_hide_that_a_few_decide() -> None:
    assert widening(users_of([100] * 5 + [1] * 1000)) == stretch(MIN_USERS)
    assert widening(users_of([1] * 1000)) < 1.01


def test_the_benchmark_of_the_gate_scores_users_as_the_workflow_scores_their_rows() -> None:
    rng = np.random.default_rng(0)
    users = few_buyers.drawn(rng, few_buyers.CASES["100, Pareto (exponent 1.2)"], True, 0.0)
    weights = rng.integers(0, 3, (5, len(users.bought)))
    rows = np.repeat(np.arange(len(users.bought)), users.bought + users.others)
    decided, y = 30, (users.bought > 0)[rows].astype(int)
    ranked = Ranked(y, users.probability[rows], users.probability[decided - 1])
    for metric, found in few_buyers.metrics_of(users, weights, decided).items():
        assert found == pytest.approx([ranked.score(metric, each[rows]) for each in weights])


@pytest.mark.parametrize("few_buy", [True, False])
@pytest.mark.parametrize("case", ["20, of whom 4 have 95 % of the rows", "20, of whom 1 has 60 %", "5 equal"])
def test_a_model_without_skill_is_not_promoted_by_a_few_users(case: str, few_buy: bool) -> None:
    assert few_buyers.promoted(case, few_buy, 0.0, 100, 1).max() <= 2


def test_a_model_with_skill_passes_although_one_user_is_large() -> None:
    assert few_buyers.promoted("100, of whom 1 has 25 %", True, 1.0, 20, 1)[0] >= 15


@given(st.integers(2, 100_000))
def test_the_widening_ends_with_many_buyers(users: int) -> None:
    assert stretch(users) > stretch(users + 1) > 1
    assert stretch(users) < 1 + 3.5 / (users - 1) or users < 10
