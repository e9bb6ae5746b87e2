import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from purchase_predict import evaluation
from purchase_predict.evaluation import METRICS, Score, baselines, best_threshold, evaluate, figures, score


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of both classes, probabilities with many ties, and whole weights that leave both classes."""
    size = draw(st.integers(4, 40))
    y = draw(hnp.arrays(int, size, elements=st.integers(0, 1)))
    y[0], y[1] = 0, 1
    probability = draw(hnp.arrays(float, size, elements=st.sampled_from([0.01, 0.2, 0.25, 0.5, 0.75, 0.9, 0.99])))
    weights = draw(hnp.arrays(int, size, elements=st.integers(0, 3)))
    weights[:2] += 1
    return y, probability, weights


@given(answers())
@settings(max_examples=200, deadline=None)
def test_the_weighted_metrics_are_scikit_learns(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    y, probability, weights = drawn
    ranked = evaluation._Ranked(y, probability, 0.5)
    expected = {
        "roc_auc": metrics.roc_auc_score(y, probability, sample_weight=weights),
        "average_precision": metrics.average_precision_score(y, probability, sample_weight=weights),
        "log_loss": metrics.log_loss(y, probability, sample_weight=weights),
        "f1": metrics.f1_score(y, probability >= 0.5, sample_weight=weights),
    }
    assert {name: ranked.score(name, weights) for name in METRICS} == pytest.approx(expected)


@given(answers())
@settings(max_examples=60, deadline=None)
def test_no_threshold_gives_a_higher_f1_than_the_best(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    y, probability, _ = drawn
    threshold = best_threshold(y, probability)
    highest = max(metrics.f1_score(y, probability >= other) for other in set(probability))
    assert metrics.f1_score(y, probability >= threshold) == pytest.approx(highest)
    assert score("f1", y, probability) == pytest.approx(highest)


def test_the_baselines_are_what_constant_answers_score() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(2000) < 0.9).astype(int)
    constant = np.full(len(y), 0.86)
    assert baselines(0.86, y) == pytest.approx(
        {
            "roc_auc": metrics.roc_auc_score(y, constant),
            "average_precision": metrics.average_precision_score(y, constant),
            "log_loss": metrics.log_loss(y, constant),
            "f1": metrics.f1_score(y, np.ones_like(y)),
        }
    )


def simulated(seed: int, users: int = 300, rows: int = 900) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows)
    probability = rng.random(rows)
    return (rng.random(rows) < probability).astype(int), probability, user


def test_the_interval_holds_the_value_and_narrows_with_more_rows() -> None:
    few, many = (evaluate(*simulated(1, rows // 3, rows), 0.5, 0.5) for rows in (300, 12_000))
    for name in METRICS:
        assert few[name].low < few[name].value < few[name].high
        assert few[name].high - few[name].low > 3 * (many[name].high - many[name].low)


def test_rows_of_one_user_do_not_count_as_independent() -> None:
    y, probability, user = simulated(2, 100, 100)
    user = np.arange(100)
    once = evaluate(y, probability, user, 0.5, 0.5)["roc_auc"]
    tenfold = evaluate(np.tile(y, 10), np.tile(probability, 10), np.tile(user, 10), 0.5, 0.5)["roc_auc"]
    # The same hundred users told ten times over know no more than once.
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=0.25)


def test_random_answers_have_half_in_their_interval() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random(3000) < 0.3).astype(int)
    found = evaluate(y, rng.random(3000), rng.integers(0, 800, 3000), 0.5, 0.3)["roc_auc"]
    assert found.low < 0.5 < found.high


def test_the_names_others_rely_on() -> None:
    assert evaluation.as_metrics({"roc_auc": Score(0.8, 0.7, 0.9, 0.5)}) == {
        "test_roc_auc": 0.8,
        "test_roc_auc_low": 0.7,
        "test_roc_auc_high": 0.9,
        "baseline_roc_auc": 0.5,
    }


def test_the_plots_are_drawn(tmp_path: object) -> None:
    y, probability, user = simulated(4)
    scores = evaluate(y, probability, user, 0.5, 0.5)
    figures(y, probability, 0.5, scores, {"price": 0.7, "hour": 0.3}, tmp_path)  # type: ignore[arg-type]
    names = {file.name for file in tmp_path.iterdir()}  # type: ignore[attr-defined]
    assert names == {"precision_recall.png", "roc.png", "calibration.png", "importance.png"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.iterdir())  # type: ignore[attr-defined]
