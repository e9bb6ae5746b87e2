import ctypes
import threading
import time
from dataclasses import replace

import click
import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purchase_predict import metrics
from purchase_predict.evaluation import scores
from purchase_predict.search import finish, folds, objective, search
from purchase_predict.search.folds import grouped_folds
from purchase_predict.search.objective import Objective
from purchase_predict.search.space import DEFAULTS, SPACE, STARTING_POINTS
from purchase_predict.search.suggest import next_point
from purchase_predict.search.trial import Trial, best_of, trials_frame
from tests.search.tables import MadeRows, both_kinds, table


def test_the_first_trial_is_lightgbms_defaults_and_the_best_is_no_worse() -> None:
    found = search.search(table(), 6, "roc_auc", 1)
    assert [trial.number for trial in found.trials] == list(range(6))
    assert [trial.point for trial in found.trials[:4]] == list(STARTING_POINTS)
    assert all(trial.point not in STARTING_POINTS for trial in found.trials[4:])
    assert found.trials[0].params == {
        **DEFAULTS,
        "max_depth": -1,
        "lambda_l1": 0.0,
        "lambda_l2": 0.0,
    }
    assert found.best.score == max(trial.score for trial in found.trials if trial.state == "finished")
    assert found.best.score > 0.75


def test_folds_that_run_at_once_do_not_change_lightgbms_global_thread_number() -> None:
    # LightGBM has one default thread number per process. Changing it while another fold was fitted crashed the process.
    shared = ctypes.c_int.in_dll(lightgbm.basic._LIB, "LGBM_DEFAULT_NUM_THREADS")
    whole = table()
    trial = Objective(whole, grouped_folds(whole, 4, 1), "roc_auc", 1)(0, DEFAULTS, None)
    assert (trial.state, shared.value) == ("finished", 1)


@pytest.mark.parametrize("count", [1, 2, 5])
@both_kinds
def test_max_evals_is_the_number_of_trials(made_rows: MadeRows, count: int) -> None:
    seen: list[int] = []
    found = search.search(made_rows(), count, "log_loss", 1, lambda trial: seen.append(trial.number))
    assert seen == [trial.number for trial in found.trials] == list(range(count))


@both_kinds
def test_the_same_seed_gives_the_same_model_and_another_another(made_rows: MadeRows) -> None:
    count = len(STARTING_POINTS) + 2
    one, again, other = (search.search(made_rows(), count, "roc_auc", seed) for seed in (7, 7, 8))
    assert one.booster.model_to_string() == again.booster.model_to_string()
    assert one.threshold == again.threshold
    suggested = [[trial.params for trial in found.trials[len(STARTING_POINTS) :]] for found in (one, again, other)]
    assert suggested[0] == suggested[1] != suggested[2]


@pytest.mark.parametrize("after", [1, 4, 7, 9])
@both_kinds
def test_an_interrupted_search_that_is_resumed_gives_the_same_result(made_rows: MadeRows, after: int) -> None:
    whole = search.search(made_rows(), 9, "roc_auc", 5)
    kept = [replace(trial, out_of_fold=None) for trial in whole.trials[:after]]
    made: list[int] = []
    resumed = search.search(made_rows(), 9, "roc_auc", 5, lambda trial: made.append(trial.number), kept)
    assert made == list(range(after, 9))
    assert [trial.point for trial in resumed.trials] == [trial.point for trial in whole.trials]
    assert [trial.loss for trial in resumed.trials] == [trial.loss for trial in whole.trials]
    assert resumed.booster.model_to_string() == whole.booster.model_to_string()
    assert resumed.threshold == whole.threshold


def test_after_many_trials_the_leader_that_scores_best_on_other_folds_is_used() -> None:
    rows, many = table(), 30
    found = search.search(rows, many, "roc_auc", 1)
    finished = [trial for trial in found.trials if trial.state == "finished"]
    leaders = sorted(finished, key=lambda trial: trial.loss)[: many // finish.TRIALS_PER_LEADER]

    def score_on_other_folds(leader: Trial) -> float:
        return float(
            np.mean(
                [
                    Objective(rows, grouped_folds(rows, 4, [1, split]), "roc_auc", 1)(0, leader.point, None).score
                    for split in (1, 2)
                ]
            )
        )

    assert len(leaders) == 3
    best = max(leaders, key=score_on_other_folds)
    assert best.number != leaders[0].number, "these rows and this seed must tell the two apart"
    assert found.best.number == best.number
    kept = [replace(trial, out_of_fold=None) for trial in found.trials[:25]]
    resumed = search.search(rows, many, "roc_auc", 1, earlier=kept)
    assert resumed.booster.model_to_string() == found.booster.model_to_string()

    evaluate = Objective(rows, grouped_folds(rows, 4, 1), "roc_auc", 1)
    for seconds, chosen in ((1000.0, best.number), (0.0, leaders[0].number)):
        ranked = finish.ranked(found.trials, evaluate, rows, time.monotonic() + seconds)
        assert ranked[0].number == chosen
        assert {trial.number for trial in finished} - {trial.number for trial in ranked} <= {
            trial.number for trial in leaders
        }


def test_with_many_rows_no_leader_is_scored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "MANY_ROWS", 600)
    found = search.search(table(), 30, "roc_auc", 2)
    assert found.best == best_of(found.trials)


def test_no_point_is_tried_twice() -> None:
    points = [tuple(trial.point.items()) for trial in search.search(table(), 30, "log_loss", 5).trials]
    assert len(set(points)) == 30


def test_a_trial_that_fails_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    real = objective.fit_fold

    def sometimes(params: dict[str, object], *args: object, **kwargs: object) -> object:
        if params["feature_fraction"] != 1:
            raise RuntimeError("no such luck")
        return real(params, *args, **kwargs)

    monkeypatch.setattr(objective, "fit_fold", sometimes)
    found = search.search(table(), 3, "roc_auc", 1)
    assert [trial.state for trial in found.trials] == ["finished", "failed", "failed"]
    assert found.trials[1].error == "RuntimeError: no such luck"
    assert found.best.number == 0


def test_a_search_whose_trials_all_fail_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(objective, "fit_fold", never)
    with pytest.raises(
        click.ClickException,
        match=r"all trials of the search failed \(2 in total\); error of trial 1: RuntimeError: no such",
    ):
        search.search(table(), 2, "roc_auc", 1)


def test_a_pruned_trial_trailed_the_best_and_took_less() -> None:
    found = search.search(table(), 12, "roc_auc", 1)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        best = best_of(found.trials[: trial.number])
        assert best is not None
        assert trial.first_folds_score < best.first_folds_score
        assert trial.loss > best.loss


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss"])
def test_a_trial_within_the_margin_of_the_best_is_not_pruned(metric: str) -> None:
    rows = table()
    evaluate = Objective(rows, grouped_folds(rows, 4, 1), metric, 1)
    best = evaluate(0, DEFAULTS, None)
    sign = -1 if metric == "log_loss" else 1
    for lead, state in ((0.001, "finished"), (0.05, "pruned")):
        better = replace(best, first_folds_score=best.first_folds_score + sign * lead, fold_utilities=[])
        assert evaluate(1, DEFAULTS, better).state == state


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision", "log_loss", "f1"])
def test_a_fold_is_compared_by_the_metric_that_lightgbm_stops_on(metric: str) -> None:
    rows = table()
    folds = grouped_folds(rows, 4, 1)
    trial = Objective(rows, folds, metric, 1)(0, DEFAULTS, None)
    stop_on = "log_loss" if metric == "f1" else metric
    assert list(trial.fold_utilities) == pytest.approx(
        [metrics.utility(stop_on, scores.score(stop_on, rows.y[check], trial.out_of_fold[check])) for _, check in folds]
    )


@pytest.mark.parametrize("metric", ["auc", "binary_logloss"])
def test_a_fold_stops_at_its_best_evaluation_and_has_less_patience_when_behind(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table()
    (train, validation), *_ = grouped_folds(rows, 4, 1)
    params = {"objective": "binary", "metric": metric, "verbosity": -1, "num_threads": 1}
    ran: list[int] = []
    update = lightgbm.Booster.update

    def counted(booster: lightgbm.Booster, **more: object) -> bool:
        if threading.current_thread() is threading.main_thread():  # an earlier test's fit may still run in a pool
            ran.append(1)
        return bool(update(booster, **more))

    monkeypatch.setattr(lightgbm.Booster, "update", counted)

    def fitted(behind_below: float | None) -> tuple[int, int, float, np.ndarray]:
        """The number of rounds run, and the rounds, the utility and the probabilities of the best evaluation."""
        whole = objective.lightgbm_dataset(rows)
        ran.clear()
        rounds, utility, probability = objective.fit_fold(
            params, whole.subset(train), whole.subset(validation), behind_below
        )
        return len(ran), rounds, utility, probability

    run, rounds, utility, probability = fitted(None)
    plain = lightgbm.train(params, objective.lightgbm_dataset(rows).subset(train), run)
    evaluations = range(objective.EVALUATION_INTERVAL, run + 1, objective.EVALUATION_INTERVAL)
    score = {"auc": "roc_auc", "binary_logloss": "log_loss"}[metric]
    by_hand = {
        at: metrics.utility(
            score, scores.score(score, rows.y[validation], plain.predict(rows.x[validation], num_iteration=at))
        )
        for at in evaluations
    }
    assert (rounds, run) == (max(by_hand, key=by_hand.__getitem__), rounds + objective.PATIENCE)
    assert utility == pytest.approx(by_hand[rounds])
    np.testing.assert_allclose(probability, plain.predict(rows.x[validation], num_iteration=rounds))
    assert fitted(utility - 0.1)[:3] == (run, rounds, utility)
    assert fitted(utility + 0.1)[:3] == (rounds + objective.PATIENCE_BEHIND, rounds, utility)


def test_rows_are_binned_once_and_no_trial_leaves_a_trace_on_the_next() -> None:
    rows = table()
    folds = grouped_folds(rows, 4, 1)
    used = Objective(rows, folds, "roc_auc", 1)
    points = [{**DEFAULTS, "min_child_samples": samples, "num_leaves": 7.0} for samples in (100.0, 5.0, 40.0)]
    for number, point in enumerate(points):
        one, fresh = used(number, point, None), Objective(rows, folds, "roc_auc", 1)(number, point, None)
        assert one.error is None
        assert replace(one, seconds=0.0) == replace(fresh, seconds=0.0)
        assert np.array_equal(one.out_of_fold, fresh.out_of_fold)


@both_kinds
def test_the_time_limit_ends_the_search_but_never_before_the_first_trial(made_rows: MadeRows) -> None:
    assert len(search.search(made_rows(), 5, "roc_auc", 1, max_seconds=0).trials) == 1


def test_row_by_row_or_feature_by_feature_the_model_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    for share in (0.0, 2.0):
        monkeypatch.setattr(objective, "ROW_WISE_FEATURE_FRACTION", share)
        model = search.search(table(), 2, "roc_auc", 1).booster.model_to_string()
        models.append([line for line in model.splitlines() if "_wise" not in line])
    assert models[0] == models[1]


@both_kinds
def test_a_trial_that_would_overrun_is_not_started(made_rows: MadeRows) -> None:
    whole = search.search(made_rows(), 3, "roc_auc", 1)
    slow = [replace(trial, seconds=1000.0) for trial in whole.trials]
    assert len(search.search(made_rows(), 5, "roc_auc", 1, earlier=slow, max_seconds=900).trials) == 3
    assert len(search.search(made_rows(), 5, "roc_auc", 1, earlier=slow, max_seconds=4000).trials) == 5


@both_kinds
def test_the_number_of_cores_does_not_change_the_model(made_rows: MadeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "ROWS_PER_THREAD", 2000)
    trees = []
    for cores in (1, 3):
        monkeypatch.setattr(finish, "available_cores", lambda cores=cores: cores)
        found = search.search(made_rows(6000, 1000), 2, "roc_auc", 1)
        assert [member.params["num_threads"] for member in found.members] == [cores] * len(found.members)
        trees.append(found.booster.model_to_string().partition("\nparameters:")[0])
    assert trees[0] == trees[1]


@both_kinds
def test_trials_of_a_batch_do_not_depend_on_each_other_and_an_interrupted_batch_is_completed(
    made_rows: MadeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search.search(made_rows(), 7, "roc_auc", 5, parallelism=3)
    wider = search.search(made_rows(), 7, "roc_auc", 5, parallelism=7)
    assert [trial.point for trial in wider.trials[:3]] == [trial.point for trial in whole.trials[:3]]
    assert {trial.state for trial in wider.trials} == {"finished"}  # the only batch has no best trial to prune against
    kept = [replace(trial, out_of_fold=None) for trial in whole.trials[:5]]
    suggest, asked = next_point, []  # `asked`: the number of earlier trials, and the new trial's number

    def noted(earlier: list[Trial], number: int, seed: int) -> dict[str, float]:
        asked.append((len(earlier), number))
        return suggest(earlier, number, seed)

    monkeypatch.setattr(search, "next_point", noted)
    resumed = search.search(made_rows(), 7, "roc_auc", 5, earlier=kept, parallelism=3)
    assert asked == [(3, 5), (6, 6)]  # trial 5 learns from trials 0 to 2, like the rest of its batch
    assert [trial.point for trial in resumed.trials] == [trial.point for trial in whole.trials]
    assert [trial.state for trial in resumed.trials] == [trial.state for trial in whole.trials]
    assert len({tuple(trial.point.items()) for trial in whole.trials}) == 7


def test_a_large_table_is_searched_on_whole_users_and_fitted_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SEARCH_ROWS", 300)
    rows = table(1200, 200)
    some = search.sample_users(rows, 1)
    assert 300 <= len(some.y) < 320
    kept = np.isin(rows.user, some.user)
    assert kept.sum() == len(some.y)
    found = search.search(rows, 2, "roc_auc", 1)
    assert len(found.out_of_fold) == len(some.y)
    assert found.booster.current_iteration() >= found.best.rounds


def test_integers_are_integers_and_lie_in_their_bounds() -> None:
    found = search.search(table(), 6, "roc_auc", 3)
    for trial in found.trials:
        for name in ("num_leaves", "max_depth", "min_child_samples"):
            assert isinstance(trial.params[name], int)
        assert set(trial.params) == set(SPACE) == set(DEFAULTS)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_no_user_is_in_two_folds_and_every_row_is_validated_once(seed: int) -> None:
    rows = table(120, 30, seed)
    folds = grouped_folds(rows, 4, seed)
    checked = np.concatenate([check for _, check in folds])
    assert sorted(checked) == list(range(120))
    for learn, check in folds:
        assert not set(rows.user[learn]) & set(rows.user[check])


@pytest.mark.parametrize(("count", "seed"), [(2, 3), (4, 3), (4, 5)])
def test_folds_are_alike_in_users_rows_and_purchases(count: int, seed: int) -> None:
    rows = table(3000, 400)
    _, first = np.unique(rows.user, return_index=True)
    rows = replace(rows, y=np.isin(np.arange(3000), first[::50]).astype(int))
    checks = [check for _, check in grouped_folds(rows, count, seed)]
    assert len(checks) == count
    for each in (lambda check: len(set(rows.user[check])), lambda check: rows.y[check].sum()):
        assert np.ptp([each(check) for check in checks]) <= 1
    assert np.ptp([len(check) for check in checks]) < 0.05 * 3000
    assert rows.y.sum() == 8  # 8 buyers with 1 purchase each: with random folds, a fold might get none


def test_a_table_with_many_rows_has_fewer_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    for many, count in ((601, folds.FOLDS), (600, folds.FOLDS_FOR_MANY_ROWS)):
        monkeypatch.setattr(folds, "MANY_ROWS", many)
        found = search.search(table(), 1, "roc_auc", 1)
        assert len(found.best.fold_utilities) == count
        rounds = round(found.best.rounds * finish.FINAL_RATE_DIVISOR * (count / (count - 1)) ** (1 / 3))
        assert found.booster.current_iteration() == rounds


def test_fewer_users_than_folds_is_an_error() -> None:
    with pytest.raises(click.ClickException, match="users in the training rows: 3; the search needs at least 4 users"):
        search.search(table(60, 3), 1, "roc_auc", 1)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision", "log_loss", "f1"])
def test_every_metric_can_be_searched(metric: str) -> None:
    found = search.search(table(), 2, metric, 1)
    sign = -1 if metric == "log_loss" else 1
    finished = [trial.score for trial in found.trials if trial.state == "finished"]
    assert sign * found.best.score == max(sign * value for value in finished)
    frame = trials_frame(found.trials)
    assert list(frame["number"]) == [0, 1]
    assert {"state", "score", "rounds", "seconds", *SPACE} <= set(frame.columns)
