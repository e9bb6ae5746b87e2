import click
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purchase_predict import search
from purchase_predict.search import DEFAULTS, SPACE, Table


def table(rows: int = 600, users: int = 150, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4))
    x[:, 3] = rng.integers(0, 5, rows)
    x[rng.random((rows, 4)) < 0.1] = np.nan
    y = (np.nan_to_num(x[:, 0]) + (np.nan_to_num(x[:, 3]) == 2) + rng.normal(0, 0.7, rows) > 0.3).astype(int)
    return Table(x, y, rng.integers(0, users, rows), ["a", "b", "c", "kind"], ["kind"])


def test_the_first_trial_is_lightgbms_defaults_and_the_best_is_no_worse() -> None:
    found = search.search(table(), 4, "roc_auc", 1)
    assert [trial.number for trial in found.trials] == [0, 1, 2, 3]
    assert found.trials[0].params == {
        **DEFAULTS,
        "max_depth": -1,
        "lambda_l1": 0.0,
        "lambda_l2": 0.0,
    }
    assert found.best.score == max(trial.score for trial in found.trials)
    assert found.best.score > 0.75


@pytest.mark.parametrize("count", [1, 2, 5])
def test_as_many_trials_as_asked_for(count: int) -> None:
    seen: list[int] = []
    found = search.search(table(), count, "log_loss", 1, lambda trial: seen.append(trial.number))
    assert seen == [trial.number for trial in found.trials] == list(range(count))


def test_the_same_seed_gives_the_same_model_and_another_another() -> None:
    one, again, other = (search.search(table(), 3, "roc_auc", seed) for seed in (7, 7, 8))
    assert one.booster.model_to_string() == again.booster.model_to_string()
    assert one.threshold == again.threshold
    assert [t.params for t in one.trials[1:]] != [t.params for t in other.trials[1:]]


def test_integers_are_integers_and_lie_in_their_bounds() -> None:
    found = search.search(table(), 6, "roc_auc", 3)
    for trial in found.trials:
        for name in ("num_leaves", "max_depth", "min_child_samples"):
            assert isinstance(trial.params[name], int)
        assert set(trial.params) == set(SPACE) == set(DEFAULTS)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_no_user_is_in_two_folds_and_every_row_is_checked_once(seed: int) -> None:
    rows = table(120, 30, seed)
    folds = search._folds(rows, seed)
    checked = np.concatenate([check for _, check in folds])
    assert sorted(checked) == list(range(120))
    for learn, check in folds:
        assert not set(rows.user[learn]) & set(rows.user[check])


def test_fewer_users_than_folds_is_said() -> None:
    with pytest.raises(click.ClickException, match="3 user"):
        search.search(table(60, 3), 1, "roc_auc", 1)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision", "log_loss", "f1"])
def test_every_metric_can_be_searched(metric: str) -> None:
    found = search.search(table(), 2, metric, 1)
    sign = -1 if metric == "log_loss" else 1
    assert sign * found.best.score == max(sign * trial.score for trial in found.trials)
    frame = search.trials_frame(found.trials)
    assert list(frame["number"]) == [0, 1]
    assert {"score", "rounds", "seconds", *SPACE} <= set(frame.columns)
