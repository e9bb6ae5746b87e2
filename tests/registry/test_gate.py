"""The rule of the gate, for every metric that it may compare by, whichever way is better."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict.evaluation.few_users import stretch
from purchase_predict.metrics import METRICS, SEARCHABLE, Score, utility
from purchase_predict.registry.gate import Contest, decide
from tests.conftest import checkout
from tests.preloaded.start import program

metrics = st.sampled_from(SEARCHABLE)


def sure(metric: str) -> dict[str, Score]:
    """Scores whose whole interval is better than the constant answer's."""
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


@pytest.mark.parametrize(("users", "passed"), [(0, False), (1, False), (9, False), (10, True), (None, True)])
def test_few_buyers_prove_nothing(users: int | None, passed: bool) -> None:
    decision = decide("roc_auc", sure("roc_auc"), None, users=users)
    assert decision.passed == passed
    assert passed or decision.reason.startswith(f"too few buyers to tell: {users} users")


@pytest.mark.parametrize(("users", "passed"), [(10, False), (20, True), (200, True), (None, True)])
def test_with_few_buyers_the_interval_is_widened(users: int | None, passed: bool) -> None:
    scores = {"roc_auc": Score(0.75, 0.54, 0.9, 0.5)}
    decision = decide("roc_auc", scores, None, users=users)
    assert decision.passed == passed
    assert passed or "widened to 0.4949 for few buyers" in decision.reason


@given(st.integers(2, 100_000))
def test_the_widening_ends_with_many_buyers(users: int) -> None:
    assert stretch(users) > stretch(users + 1) > 1
    assert stretch(users) < 1 + 3.5 / (users - 1) or users < 10
