"""Folds that look forward in time, and folds that cannot."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from purchase_predict.search.fold_scores import fold_scores
from purchase_predict.search.folds import FORWARD_FOLDS, confirmation_folds, forward_folds, search_folds
from purchase_predict.search.objective import Objective
from purchase_predict.search.search import search
from purchase_predict.search.space import STARTING_POINTS
from purchase_predict.search.trial import LabelledRows
from tests.search.tables import table


def timed(rows: int = 600, days: int = 60, seed: int = 0) -> LabelledRows:
    """Rows of sessions that end on some day; the rows are in no order of time."""
    made = table(rows, seed=seed)
    return replace(made, ended=np.random.default_rng(seed).integers(0, days, rows) * 86_400 * 10**9)


@given(st.integers(60, 800), st.integers(5, 400), st.integers(0, 50), st.integers(0, 3))
def test_each_fold_learns_from_what_came_before_what_it_is_judged_on(
    rows: int, days: int, seed: int, split: int
) -> None:
    made = timed(rows, days, seed)
    assert made.ended is not None
    folds = forward_folds(made, split)
    if not folds:  # too few rows of a class, or too few days
        return
    assert 2 <= len(folds) <= FORWARD_FOLDS
    for train, judged in folds:
        assert made.ended[train].max() < made.ended[judged].min()  # so no session is on both sides
        # All that came before, not a window.
        assert set(train) == set(np.flatnonzero(made.ended < made.ended[judged].min()))
    starts = [made.ended[judged].min() for _, judged in folds]
    assert starts == sorted(starts, reverse=True)
    assert made.ended[folds[0][1]].max() == made.ended.max()
    every = np.concatenate([judged for _, judged in folds])
    assert len(every) == len(set(every))


def test_three_folds_of_like_size_follow_a_history() -> None:
    made = timed(6000, 6000)
    folds = search_folds(made, 1)
    assert [len(judged) for _, judged in folds] == pytest.approx([800] * 3, abs=5)
    assert [len(train) for train, _ in folds] == pytest.approx([5200, 4400, 3600], abs=5)
    others = [confirmation_folds(made, 1, split) for split in (1, 2)]
    assert len({len(train) for folds in (folds, *others) for train, _ in folds}) == 9


def test_without_a_time_the_folds_are_grouped_by_user() -> None:
    made = table()
    for train, judged in search_folds(made, 1):
        assert not set(made.user[train]) & set(made.user[judged])


def test_scores_threshold_and_predictions_are_of_the_judged_rows_alone() -> None:
    made = timed()
    folds = search_folds(made, 1)
    trial = Objective(made, folds, "roc_auc", 1)(0, dict(STARTING_POINTS[0]), None)
    assert trial.out_of_fold is not None
    judged = np.sort(np.concatenate([positions for _, positions in folds]))
    assert np.array_equal(np.flatnonzero(~np.isnan(trial.out_of_fold)), judged)
    found = search(made, 2, "roc_auc", 1)
    assert found.best.out_of_fold is not None
    assert len(found.best.out_of_fold) == len(found.searched.y) == len(judged)
    assert not np.isnan(found.best.out_of_fold).any()
    assert 0 < found.threshold < 1


def test_a_column_that_names_the_day_wins_nothing_on_folds_that_look_forward() -> None:
    """On some days most visitors buy: who knows the day of a row knows much, and of tomorrow nothing."""
    rng = np.random.default_rng(3)
    days = rng.integers(0, 60, 3000)
    mood = rng.normal(0, 1.5, 60)[days]
    signal = rng.normal(size=3000)
    y = (signal + mood + rng.normal(size=3000) > 0).astype(int)

    def scored(columns: list[np.ndarray], forward: bool) -> float:
        rows = LabelledRows(
            np.column_stack(columns), y, rng.integers(0, 10**6, 3000), [f"c{n}" for n in range(len(columns))], [],
            days * 86_400 * 10**9 if forward else None,
        )  # fmt: skip
        score = Objective(rows, search_folds(rows, 1), "roc_auc", 1)(0, dict(STARTING_POINTS[0]), None).score
        assert score is not None
        return score

    day = days.astype(float)
    assert scored([signal, day], forward=False) - scored([signal], forward=False) > 0.05
    assert scored([signal, day], forward=True) - scored([signal], forward=True) < 0.005


def test_each_fold_is_scored_by_itself_in_the_order_of_time() -> None:
    made = timed()
    folds = search_folds(made, 1)
    trial = Objective(made, folds, "roc_auc", 1)(0, dict(STARTING_POINTS[0]), None)
    assert trial.out_of_fold is not None
    scored = fold_scores(made, folds, trial.out_of_fold, "roc_auc")
    assert [fold.start for fold in scored] == sorted(fold.start for fold in scored)
    for fold, (train, judged) in zip(scored, folds[::-1], strict=True):
        assert made.ended is not None
        assert (fold.train_rows, fold.rows) == (len(train), len(judged))
        assert fold.score == pytest.approx(roc_auc_score(made.y[judged], trial.out_of_fold[judged]))
        assert fold.base_rate == pytest.approx(made.y[judged].mean())
        assert datetime.fromisoformat(fold.start).timestamp() == made.ended[judged].min() / 1e9
        assert datetime.fromisoformat(fold.end).timestamp() == made.ended[judged].max() / 1e9
    assert search(made, 2, "roc_auc", 1).folds[0].start == scored[0].start


def test_folds_by_user_have_no_span() -> None:
    found = search(table(), 1, "roc_auc", 1)
    assert len(found.folds) == 4
    assert {fold.start for fold in found.folds} == {""}
    assert sum(fold.rows for fold in found.folds) == len(found.searched.y)
