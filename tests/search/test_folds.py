"""Folds that follow time, and folds grouped by user, which are used if the rows cannot be split by time."""

import itertools
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
from tests.search.tables import table, timed


@given(st.integers(60, 800), st.integers(5, 400), st.integers(0, 50), st.integers(0, 3))
def test_each_fold_learns_from_what_came_before_what_it_is_judged_on(
    rows: int, days: int, seed: int, split: int
) -> None:
    made = timed(rows, days=days, seed=seed)
    assert made.ended is not None
    folds = forward_folds(made, split)
    if not folds:  # too few rows of a class, or too few days
        return
    assert 2 <= len(folds) <= FORWARD_FOLDS
    for train, judged in folds:
        assert made.ended[train].max() < made.ended[judged].min()  # so no session is on both sides
        # A fold trains on all earlier rows, not only on a window of them.
        assert set(train) == set(np.flatnonzero(made.ended < made.ended[judged].min()))
    starts = [made.ended[judged].min() for _, judged in folds]
    assert starts == sorted(starts, reverse=True)
    assert made.ended[folds[0][1]].max() == made.ended.max()
    every = np.concatenate([judged for _, judged in folds])
    assert len(every) == len(set(every))


def test_three_folds_of_like_size_follow_a_history() -> None:
    made = timed(6000, days=6000)
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
    assert len(found.out_of_fold) == len(found.searched.y) == len(judged)
    assert not np.isnan(found.out_of_fold).any()
    assert 0 < found.threshold < 1


def test_a_column_that_names_the_day_wins_nothing_on_folds_that_look_forward() -> None:
    """On some days most visitors buy. So the day of a row predicts other rows of this day, but no later rows."""
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
    assert found.fold_kind == "4 folds that are grouped by user"
    assert sum(fold.rows for fold in found.folds) == len(found.searched.y)


def moments(ended: list[int], bought: list[int]) -> LabelledRows:
    """Rows whose sessions end at the times `ended`. Each row has a user of its own."""
    made = table(len(ended))
    return replace(made, y=np.array(bought), ended=np.array(ended), user=np.arange(len(ended)))


def cuttable(ended: list[int], bought: list[int], parts: int) -> bool:
    """Whether rows can be split by time into this many parts that each have both classes. Tries each choice of cuts."""
    order = sorted(set(ended))
    classes = [{label for at, label in zip(ended, bought, strict=True) if at == moment} for moment in order]
    return any(
        all(
            set[int]().union(*classes[start:end]) == {0, 1} for start, end in itertools.pairwise((0, *cuts, len(order)))
        )
        for cuts in itertools.combinations(range(1, len(order)), parts - 1)
    )


carts_at_moments = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0, 0, 0, 1])), min_size=4, max_size=60)


@given(carts_at_moments, st.integers(0, 3))
def test_there_are_three_forward_folds_wherever_any_cuts_allow_them(carts: list[tuple[int, int]], split: int) -> None:
    ended, bought = [at for at, _ in carts], [label for _, label in carts]
    made = moments(ended, bought)
    assert made.ended is not None
    folds = forward_folds(made, split)
    possible = [count for count in (3, 2) if cuttable(ended, bought, count + 1)]
    assert len(folds) == (possible[0] if possible else 0)
    for train, judged in folds:
        assert made.ended[train].max() < made.ended[judged].min()
        assert all(0 < made.y[side].sum() < len(side) for side in (train, judged))
    if folds:
        assert sorted(np.concatenate([folds[-1][0], *(judged for _, judged in folds)])) == list(range(len(ended)))


def planned(rows: LabelledRows, split: int) -> list[tuple[list[int], list[int]]]:
    """The folds at the planned cuts, even if a part does not have both classes."""
    assert rows.ended is not None
    history = 0.6 + 0.05 * (0, -1, 1, -2)[split]  # as in `forward_folds`, so that both round alike
    order = sorted(rows.ended)
    cuts = [order[int(share * len(order))] for share in history + (1 - history) * np.arange(3) / 3]
    return [
        ([n for n, at in enumerate(rows.ended) if at < cut], [n for n, at in enumerate(rows.ended) if cut <= at < end])
        for cut, end in zip(cuts, [*cuts[1:], order[-1] + 1], strict=True)
    ][::-1]


@given(st.integers(60, 400), st.integers(5, 400), st.integers(0, 50), st.integers(0, 3))
def test_cuts_stay_where_they_are_planned_if_each_part_has_both_classes(
    rows: int, days: int, seed: int, split: int
) -> None:
    made = timed(rows, days=days, seed=seed)
    plan = planned(made, split)
    if all({*made.y[side]} == {0, 1} for fold in plan for side in fold):
        assert [(list(train), list(judged)) for train, judged in forward_folds(made, split)] == plan


def few_purchases() -> LabelledRows:
    """Rows without a purchase in the last planned block."""
    made = timed(600, days=600)
    assert made.ended is not None
    return replace(made, y=np.where(made.ended >= np.quantile(made.ended, 0.8), 0, made.y))


def one_moment() -> LabelledRows:
    """Rows of which more than 40 % have the same, latest time."""
    made = timed(600, days=600)
    assert made.ended is not None
    return replace(made, ended=np.minimum(made.ended, int(np.quantile(made.ended, 0.55))))


@pytest.mark.parametrize("made", [few_purchases(), one_moment()], ids=["few purchases", "one moment"])
def test_where_a_planned_block_lacks_a_class_the_cuts_move(made: LabelledRows, capsys: pytest.CaptureFixture) -> None:
    assert not all({*made.y[side]} == {0, 1} for fold in planned(made, 0) for side in fold)
    found = search(made, 1, "roc_auc", 1)
    assert found.fold_kind == "3 folds that follow time"
    spans = [(fold.start, fold.end) for fold in found.folds]
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    assert all(0 < fold.base_rate < 1 for fold in found.folds)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("days", "kind", "parts"),
    [(3, "2 folds that follow time", 4), (2, "4 folds that are grouped by user", 3), (1, "4 folds that are", 3)],
)
def test_folds_that_are_not_the_planned_ones_are_said(
    days: int, kind: str, parts: int, capsys: pytest.CaptureFixture
) -> None:
    found = search(timed(600, days=days), 1, "roc_auc", 1)
    assert found.fold_kind.startswith(kind)
    why = f", instead of 3 folds that follow time. The training rows cannot be split by time into {parts} parts that"
    assert why in found.fold_kind
    assert capsys.readouterr().out == f"train: the search uses {found.fold_kind}\n"
    spans = [(fold.start, fold.end) for fold in found.folds]
    if "follow time" in kind:
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    else:
        assert {*spans} == {("", "")}
