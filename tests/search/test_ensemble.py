"""The model is the mean of the best few trials' fits, in one booster."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict.metrics import SEARCHABLE
from purchase_predict.search import ensemble, finish, objective, search
from purchase_predict.search.ensemble import Member, fit, mean_of, mean_probability, wall_time
from purchase_predict.search.folds import grouped_folds
from purchase_predict.search.objective import Objective, lightgbm_dataset
from purchase_predict.search.space import STARTING_POINTS
from purchase_predict.search.trial import LabelledRows, Trial
from tests.search.tables import MadeRows, both_kinds, table


def rows_with_gaps(seed: int, count: int = 300) -> LabelledRows:
    """A table with a column of categories, missing values, and a constant column."""
    rows = table(count, 60, seed)
    random = np.random.default_rng(seed)
    x = np.column_stack([rows.x, random.integers(0, 7, count), np.ones(count)])
    x[random.random(x.shape) < 0.1] = np.nan
    names = [f"column_{number}" for number in range(x.shape[1])]
    return replace(rows, x=x, features=names, categorical=[names[-2]])


def member(trial: int, leaves: int = 7, rounds: int = 5, **params: float) -> Member:
    fixed = {"objective": "binary", "verbosity": -1, "num_threads": 1, "seed": trial, "deterministic": True}
    return Member(
        trial, {**fixed, "num_leaves": leaves, "feature_fraction": 0.6, "min_child_samples": 5, **params}, rounds
    )


@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(2, 20), st.integers(1, 12), st.sampled_from([0, 1e9])), min_size=2, max_size=4),
)
def test_the_model_is_the_mean_of_its_members_in_log_odds(seed: int, shapes: list[tuple[int, int, float]]) -> None:
    rows = rows_with_gaps(seed)
    # With a min_gain_to_split of 1e9, no tree has a split. LightGBM writes such trees in a special format.
    members = [member(n, leaves, rounds, min_gain_to_split=gain) for n, (leaves, rounds, gain) in enumerate(shapes)]
    boosters = fit(members, lightgbm_dataset(rows).construct(), 1)
    mean = mean_of(boosters)
    for options in ({"raw_score": True}, {"pred_contrib": True}):
        of_each = [np.asarray(booster.predict(rows.x, **options)) for booster in boosters]
        assert np.asarray(mean.predict(rows.x, **options)) == pytest.approx(np.mean(of_each, axis=0), abs=1e-12)
    probability = mean_probability([np.asarray(booster.predict(rows.x)) for booster in boosters])
    assert np.asarray(mean.predict(rows.x)) == pytest.approx(probability, abs=1e-12)
    assert mean.current_iteration() == sum(booster.current_iteration() for booster in boosters)
    assert mean.feature_name() == boosters[0].feature_name()
    again = lightgbm.Booster(model_str=mean.model_to_string())
    assert np.array_equal(np.asarray(again.predict(rows.x)), np.asarray(mean.predict(rows.x)))


def test_a_single_booster_is_its_own_mean() -> None:
    rows = rows_with_gaps(1)
    (booster,) = fit([member(0)], lightgbm_dataset(rows).construct(), 1)
    assert mean_of([booster]).model_to_string() == booster.model_to_string()
    assert np.array_equal(np.asarray(mean_of([booster]).predict(rows.x)), np.asarray(booster.predict(rows.x)))


@given(st.lists(st.lists(st.floats(0, 1) | st.just(np.nan), min_size=3, max_size=3), min_size=1, max_size=4))
def test_mean_probabilities_lie_between_and_rows_without_a_prediction_stay_without(given: list[list[float]]) -> None:
    mean = mean_probability([np.array(one) for one in given])
    for values, found in zip(zip(*given, strict=True), mean, strict=True):
        if any(np.isnan(values)):
            assert np.isnan(found)
        else:
            assert min(values) - 1e-12 <= found <= max(values) + 1e-12


@pytest.mark.parametrize("at_once", [2, 3])
def test_members_that_are_fitted_at_the_same_time_are_the_same(at_once: int) -> None:
    rows, members = rows_with_gaps(3), [member(number, 5 + number, 20 + number) for number in range(3)]
    one_by_one, at_once = (fit(members, lightgbm_dataset(rows).construct(), count) for count in (1, at_once))
    assert [one.model_to_string() for one in one_by_one] == [one.model_to_string() for one in at_once]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_fit_that_fails_ends_the_others(failing: int) -> None:
    def failing_soon(one: Member, done: int) -> bool:
        if one.trial == failing and done == 20:
            raise MemoryError("no more trees")
        return False

    endless = [member(number, rounds=10**6) for number in range(2)]
    with pytest.raises(MemoryError, match="no more trees"):
        fit(endless, lightgbm_dataset(rows_with_gaps(4)).construct(), 2, stopped=failing_soon)


@pytest.mark.parametrize("moment", ["the second fit is submitted", "the fits are awaited"])
def test_ctrl_c_ends_all_fits(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test raises the exception of Ctrl-C itself. Python would drop that of a real signal within a destructor."""
    begun, rounds = threading.Event(), 0

    def interrupt(*_: Any, **__: Any) -> None:
        begun.wait()
        raise KeyboardInterrupt

    class Pool(ThreadPoolExecutor):
        def submit(self, fitted: Any, member: Member) -> Any:  # type: ignore[override]
            if member.trial == 1 and moment == "the second fit is submitted":
                interrupt()
            return super().submit(fitted, member)

    def count() -> None:
        nonlocal rounds
        rounds += 1
        begun.set()

    monkeypatch.setattr(ensemble, "ThreadPoolExecutor", Pool)
    if moment == "the fits are awaited":
        monkeypatch.setattr(ensemble, "wait", interrupt)
    endless = [member(number, rounds=10**6) for number in range(2)]
    with pytest.raises(KeyboardInterrupt):
        fit(endless, lightgbm_dataset(rows_with_gaps(4)).construct(), 2, count)
    assert rounds < 10**6


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_fit_that_has_not_begun_when_the_time_is_over_is_left_out(at_once: int) -> None:
    def stopped(one: Member, done: int) -> bool:
        return one.trial == 1 and done == 0

    members = [member(number) for number in range(3)]
    (only,) = fit(members, lightgbm_dataset(rows_with_gaps(5)).construct(), at_once, stopped=stopped)
    assert only.current_iteration() == members[0].rounds


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=4), st.integers(1, 4))
def test_the_wall_time_is_that_of_a_pool(seconds: list[float], at_once: int) -> None:
    free, clock = [0.0] * at_once, 0.0  # `free`: when each worker is free; fits start in the order of `seconds`
    for one in seconds:
        place = min(range(at_once), key=free.__getitem__)
        free[place] += one
        clock = max(clock, free[place])
    assert wall_time(seconds, at_once) == clock
    assert max(seconds) <= wall_time(seconds, at_once) <= sum(seconds) + 1e-9
    assert wall_time([10, 10, 10], 2) == 20


@pytest.mark.parametrize("metric", SEARCHABLE)
def test_only_trials_that_are_not_behind_the_first_become_the_model(metric: str) -> None:
    rows = table()
    evaluate = Objective(rows, grouped_folds(rows, 4, 1), metric, 1)
    first = evaluate(0, STARTING_POINTS[0], None)
    assert first.loss is not None
    trials = [replace(first, number=number, loss=first.loss + number * 1e-6) for number in range(5)]
    twin = replace(first, number=7)  # stands for a trial with other parameters but equal trees
    assert [trial.number for trial in finish.members_of([trials[0], twin, trials[1]], evaluate)] == [0, 1]
    far = replace(first, number=9, loss=first.loss + 10)
    assert [trial.number for trial in finish.members_of(trials, evaluate)] == [0, 1, 2]
    assert [trial.number for trial in finish.members_of([trials[0], far, trials[1]], evaluate)] == [0, 1]
    assert [trial.number for trial in finish.members_of([trials[3], far], evaluate)] == [3]
    # The first trial may have a higher loss on the search's folds: it is first because it was better on other folds.
    assert [trial.number for trial in finish.members_of([trials[4], trials[0]], evaluate)] == [4, 0]


def seen(trials: list[Trial]) -> set[tuple[float | None, int]]:
    return {(trial.loss, trial.rounds) for trial in trials}


@both_kinds
def test_a_search_ends_with_the_mean_of_its_best_trials(made_rows: MadeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "PRUNE_MARGIN", 0.2)
    rows = made_rows()
    found = search.search(rows, 6, "roc_auc", 1)
    finished = sorted((trial for trial in found.trials if trial.state == "finished"), key=lambda trial: trial.loss)
    chosen = [trial for trial in finished if trial.number in [member.trial for member in found.members]]
    assert 2 <= len(chosen) <= finish.MAX_MEMBERS
    different = [trial for n, trial in enumerate(finished) if (trial.loss, trial.rounds) not in seen(finished[:n])]
    assert chosen == different[: len(chosen)]
    boosters = [
        lightgbm.train(member.params, lightgbm_dataset(rows), num_boost_round=member.rounds) for member in found.members
    ]
    raw = np.mean([np.asarray(booster.predict(rows.x, raw_score=True)) for booster in boosters], axis=0)
    assert np.asarray(found.booster.predict(rows.x, raw_score=True)) == pytest.approx(raw, abs=1e-12)
    out_of_fold = mean_probability([trial.out_of_fold for trial in chosen if trial.out_of_fold is not None])
    assert found.out_of_fold == pytest.approx(out_of_fold[~np.isnan(out_of_fold)], abs=0)


def test_a_resumed_search_runs_only_those_trials_again_that_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "PRUNE_MARGIN", 0.2)
    whole = search.search(table(), 6, "roc_auc", 1)
    assert len(whole.members) > 1
    again: list[int] = []
    run = Objective.__call__

    def noted(self: Objective, number: int, point: dict[str, float], best: Trial | None) -> Trial:
        again.append(number)
        return run(self, number, point, best)

    monkeypatch.setattr(Objective, "__call__", noted)
    for seconds, max_seconds, count in ((0.1, float("inf"), len(whole.members)), (1000.0, 60.0, 1)):
        again.clear()
        kept = [replace(trial, out_of_fold=None, seconds=seconds) for trial in whole.trials]
        resumed = search.search(table(), 6, "roc_auc", 1, earlier=kept, max_seconds=max_seconds)
        assert again == [member.trial for member in resumed.members] == [m.trial for m in whole.members][:count]
