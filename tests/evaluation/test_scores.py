import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from purchase_predict.evaluation import scores
from purchase_predict.evaluation.scores import baselines, best_threshold, evaluate, score
from purchase_predict.evaluation.weaknesses import slices, suspicious
from purchase_predict.metrics import METRICS, SEARCHABLE, Score
from purchase_predict.search import search, trial
from tests.conftest import examples


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of both classes, probabilities with many ties, and integer weights, above 0 for some row of each class."""
    size = draw(st.integers(4, 40))
    y = draw(hnp.arrays(int, size, elements=st.integers(0, 1)))
    y[0], y[1] = 0, 1
    probability = draw(hnp.arrays(float, size, elements=st.sampled_from([0.01, 0.2, 0.25, 0.5, 0.75, 0.9, 0.99])))
    weights = draw(hnp.arrays(int, size, elements=st.integers(0, 3)))
    weights[:2] += 1
    return y, probability, weights


@given(answers())
@settings(max_examples=examples(200), deadline=None)
def test_the_weighted_metrics_are_scikit_learns(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    y, probability, weights = drawn
    ranked = scores.Ranked(y, probability, 0.7)
    bins = np.floor(probability * 10)
    gaps = [abs(np.sum((weights * (y - probability))[bins == number])) for number in range(10)]
    expected = {
        "roc_auc": metrics.roc_auc_score(y, probability, sample_weight=weights),
        "average_precision": metrics.average_precision_score(y, probability, sample_weight=weights),
        "log_loss": metrics.log_loss(y, probability, sample_weight=weights),
        "brier": metrics.brier_score_loss(y, probability, sample_weight=weights),
        "calibration_error": sum(gaps) / weights.sum(),
    }
    for suffix, threshold in (("", 0.7), ("_at_half", 0.5)):
        decided = probability >= threshold
        for name in ("f1", "precision", "recall"):
            function = getattr(metrics, f"{name}_score")
            expected[name + suffix] = function(y, decided, sample_weight=weights, zero_division=0)
    assert ranked.scores(list(METRICS), weights) == pytest.approx(expected)


@given(answers())
@settings(max_examples=examples(60), deadline=None)
def test_no_threshold_gives_a_higher_f1_than_the_best(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    y, probability, _ = drawn
    threshold = best_threshold(y, probability)
    highest = max(metrics.f1_score(y, probability >= other) for other in set(probability))
    assert metrics.f1_score(y, probability >= threshold) == pytest.approx(highest)
    assert score("f1", y, probability) == pytest.approx(highest)


@pytest.mark.parametrize("rate", [0.86, 0.14])
def test_the_baselines_are_what_constant_answers_score(rate: float) -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(2000) < rate + 0.04).astype(int)
    # With the constant itself as the threshold, every row counts as "buys". With 0.5, a constant of 0.14 never does.
    scored = scores.Ranked(y, np.full(len(y), rate), rate).scores(list(METRICS))
    assert baselines(rate, y) == pytest.approx(scored)
    assert set(baselines(rate, y)) == set(METRICS)
    assert scored["log_loss"] == pytest.approx(metrics.log_loss(y, np.full(len(y), rate)))
    assert scored["f1"] == pytest.approx(metrics.f1_score(y, np.ones_like(y)))


def simulated(seed: int, users: int = 300, rows: int = 900) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows)
    probability = rng.random(rows)
    return (rng.random(rows) < probability).astype(int), probability, user


def test_the_interval_holds_the_value_and_narrows_with_more_rows() -> None:
    few, many = (evaluate(*simulated(1, rows // 3, rows), 0.5, 0.5) for rows in (300, 12_000))
    for name in SEARCHABLE:
        assert few[name].low < few[name].value < few[name].high
        assert few[name].high - few[name].low > 3 * (many[name].high - many[name].low)


def test_rows_of_one_user_do_not_count_as_independent() -> None:
    y, probability, user = simulated(2, 100, 100)
    user = np.arange(100)
    once = evaluate(y, probability, user, 0.5, 0.5)["roc_auc"]
    tenfold = evaluate(np.tile(y, 10), np.tile(probability, 10), np.tile(user, 10), 0.5, 0.5)["roc_auc"]
    # Ten copies of the rows of 100 users hold no more information than one copy.
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=0.25)


def test_random_answers_have_half_in_their_interval() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random(3000) < 0.3).astype(int)
    found = evaluate(y, rng.random(3000), rng.integers(0, 800, 3000), 0.5, 0.3)["roc_auc"]
    assert found.low < 0.5 < found.high


def test_the_names_others_rely_on() -> None:
    assert scores.as_metrics({"roc_auc": Score(0.8, 0.7, 0.9, 0.5)}) == {
        "test_roc_auc": 0.8,
        "test_roc_auc_low": 0.7,
        "test_roc_auc_high": 0.9,
        "baseline_roc_auc": 0.5,
    }


def test_every_reported_metric_has_its_interval_and_its_baseline() -> None:
    scores = evaluate(*simulated(5), 0.4, 0.5)
    assert list(scores) == list(METRICS)
    for name, found in scores.items():
        assert found.low < found.high, name
        if name != "calibration_error":  # resampling adds noise, which raises this error
            assert found.low < found.value < found.high, name
    assert scores["calibration_error"].value < 0.05
    assert scores["recall"].value > scores["recall_at_half"].value


def test_a_slice_without_signal_shows_as_weak() -> None:
    rng = np.random.default_rng(16)
    rows = 6000
    signal = rng.random(rows)
    category = rng.choice(["phones", "shoes", None], rows)
    chance = np.where(category == "shoes", 0.5, signal)
    y = (rng.random(rows) < chance).astype(int)
    frame = pd.DataFrame(
        {
            "user_id": rng.integers(0, 900, rows),
            "category": category,
            "price": rng.integers(1, 101, rows).astype(float),
            "num_prev_sessions": rng.choice([0.0, 3.0, np.nan], rows),
        }
    )
    found = {(part.by, part.name): part for part in slices(frame, y, signal)}
    assert sum(part.rows for key, part in found.items() if key[0] == "category") == rows
    assert {name for by, name in found if by == "user"} == {"new", "returning"}
    assert next(iter(found)) == ("category", "shoes")  # the weakest comes first
    weak, strong = found["category", "shoes"].roc_auc, found["category", "phones"].roc_auc
    assert weak is not None
    assert strong is not None
    assert weak.low < 0.5 < weak.high
    assert strong.low > 0.75
    cheapest = next(part for part in found.values() if part.name.startswith("1.00 to "))
    assert cheapest.rows == (frame["price"] <= frame["price"].quantile(0.25)).sum()
    assert found["category", "no category"].rows == (frame["category"].isna()).sum()
    phones = frame["category"] == "phones"
    assert strong.value == pytest.approx(metrics.roc_auc_score(y[phones], signal[phones]))
    assert found["category", "phones"].base_rate == pytest.approx(y[phones].mean())


def test_a_slice_of_buyers_only_has_no_area() -> None:
    frame = pd.DataFrame({"user_id": range(40), "category": ["a"] * 20 + ["b"] * 20})
    found = slices(frame, np.array([1] * 20 + [0, 1] * 10), np.linspace(0, 1, 40))
    assert [(part.name, part.roc_auc is None, part.few) for part in found] == [
        ("b", False, ()),
        ("a", True, ("non-buyers",)),
    ]


@pytest.mark.parametrize(
    ("label", "users", "few"), [(0, 9, ("non-buyers",)), (0, 10, ()), (1, 9, ("buyers",)), (1, 10, ())]
)
def test_a_slice_with_few_users_of_a_class_is_not_judged(label: int, users: int, few: tuple[str, ...]) -> None:
    """The users count, not the rows: the rarer class has 50 rows in each case."""
    user = [*range(100, 1000), *(number % users for number in range(50))]
    y = np.array([1 - label] * 900 + [label] * 50)
    frame = pd.DataFrame({"user_id": user, "category": ["a"] * len(y)})
    (part,) = slices(frame, y, np.linspace(0, 1, len(y)))
    assert part.few == few
    assert (part.roc_auc is None) == bool(few)


def test_rare_categories_share_one_slice() -> None:
    names = [f"c{number}" for number in range(12) for _ in range(20 - number)]
    frame = pd.DataFrame({"user_id": range(len(names)), "category": names})
    found = slices(frame, np.arange(len(names)) % 2, np.zeros(len(names)))
    assert {part.name for part in found} == {*(f"c{number}" for number in range(8)), "all others"}


def test_a_copy_of_the_label_is_suspicious_and_nothing_else_is() -> None:
    rng = np.random.default_rng(8)
    y = (rng.random(1000) < 0.3).astype(int)
    x = np.column_stack(
        [
            y,  # the label
            1 - y,  # the label, reversed
            np.where(y == 1, 7.0, np.nan),  # filled in for buyers only
            rng.permutation(4)[y + 2 * rng.integers(0, 2, 1000)],  # category codes: each is always bought or never
            np.arange(1000),  # a category of its own for each row predicts nothing
            y + rng.normal(0, 0.5, 1000),  # a strong feature, but no copy of the label
        ]
    )
    names = ["copy", "reverse", "filled", "codes", "ids", "strong"]
    assert set(suspicious(x, y, names, ["codes", "ids"])) == {"copy", "reverse", "filled", "codes"}


def test_a_random_label_is_not_learned() -> None:
    rng = np.random.default_rng(9)
    holds = []
    for _ in range(20):
        x, y, user = rng.random((3000, 4)), rng.integers(0, 2, 3000), rng.integers(0, 700, 3000)
        learn = user < 450
        table = trial.LabelledRows(x[learn], y[learn], user[learn], ["a", "b", "c", "d"], [])
        found = search.search(table, 2, "roc_auc", 1)
        area = evaluate(y[~learn], found.booster.predict(x[~learn]), user[~learn], found.threshold, 0.5)["roc_auc"]
        holds.append(area.low < 0.5 < area.high)
    # A 95 % interval misses the true value 0.5 in 1 of 20 draws on average. By chance, it misses 5 or more of 20 draws
    # once in 400 times.
    assert sum(holds) > 15
    assert suspicious(table.x, table.y, table.features) == {}
