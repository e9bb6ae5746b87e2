"""The hyperparameter search: hyperopt's TPE over LightGBM, folds grouped by user, early stopping, pruning.

What is tried next depends on the trials so far, the seed and the trial's number, and on nothing else. So a search that
was interrupted goes on from its finished trials as if it had never stopped.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import click
import hyperopt
import joblib
import lightgbm
import numpy as np
import pandas as pd
from hyperopt import hp

from purchase_predict import metrics
from purchase_predict.evaluation import scores

#: Folds, and those of a table where half the rows are enough to learn from: six searches of 30 s on 50,000 rows of
#: the real primary table made 42 trials with two folds and ended at a median test ROC AUC of 0.8593, with four 26 and
#: 0.8585. On 25,000 with four, searches ended up to 0.006 lower: what they chose by was a matter of chance.
FOLDS, FOLDS_OF_MANY, MANY_ROWS = 4, 2, 40_000
#: A trial that clearly trails the best after so many folds ends there: by more than this share of what the best gains
#: over a constant answer. Where all that trail ended there, searches of the real events found 0.003 of ROC AUC less.
_FIRST_FOLDS = 2
_CLEARLY = 0.01
_MAX_ROUNDS = 1000
#: Rounds without a gain that end a fold, and those that end one that clearly trails the best trial's there. With 15, a
#: trial of the real primary table took 0.55 s and not 0.69; with 7 it took 0.43, but then one fold in two of points as
#: good as the best was given up on a flat stretch of its curve.
_PATIENCE, _PATIENCE_BEHIND = 30, 15
#: Rounds between two looks at how a fold does. A look at each took, with the predictions made anew at the end, two
#: thirds of the time of a fold of the real primary table.
_EVERY = 5
#: The last fit goes in so many times as many steps, each so much smaller. Half the rate scored 0.001 to 0.002 better on
#: the real primary table, and as well or better on the other data sets; a third of it no better than half.
_FINER = 2
#: The share of the features from which on a tree's rows are summed up row by row, and not feature by feature: with one
#: thread the model is the same, byte for byte, in 0.80 to 0.99 of the time; with fewer, in up to 1.28 times it.
_ROW_WISE_FROM = 0.7
#: Rounds that tell how long the last fit will take, where its time is bounded.
_PROBED = 5
#: The share of a fold's time that goes into learning, not into looking how it does: 0.6 to 0.8, as measured; and the
#: rows that a round is as long for as for what it takes whatever their number: 20,000 to 50,000.
_LEARNING, _ROWS_OF_A_ROUND = 0.75, 30_000
#: One trial in so many, so many at most, is a leader, which is tried on so many other splits into folds, too.
_TRIALS_OF_A_LEADER, _MOST_LEADERS, _CONFIRMATIONS = 10, 10, 2
#: A larger table is searched on so many of its rows, by whole users, and the best parameters are fitted on all.
SEARCH_ROWS = 50_000
#: Rows for each thread of the last fit. Two threads that had a core each took 0.6 of the time of one; where something
#: else ran on one of the cores, 3 to 8 times that of one, as they wait for each other at every split. One thread takes
#: 19 s for 1,000 rounds on 280,000 rows.
_ROWS_OF_A_THREAD = 1_000_000
#: Depth and penalties at their bounds stand for LightGBM's "unlimited" and "none".
_NO_LIMIT = 16
_NO_PENALTY = 1e-8

#: Around LightGBM's defaults, most on a log scale. Lower learning rates are for the last fit; of the best five of the
#: random points tried on each of three data sets, one in all had a bagging fraction below 0.6.
SPACE = {
    "learning_rate": hp.loguniform("learning_rate", math.log(0.06), math.log(0.2)),
    "num_leaves": hp.qloguniform("num_leaves", math.log(4), math.log(128), 1),
    "max_depth": hp.quniform("max_depth", 3, _NO_LIMIT, 1),
    "min_child_samples": hp.qloguniform("min_child_samples", math.log(5), math.log(100), 1),
    "feature_fraction": hp.uniform("feature_fraction", 0.4, 1),
    "bagging_fraction": hp.uniform("bagging_fraction", 0.6, 1),
    "lambda_l1": hp.loguniform("lambda_l1", math.log(_NO_PENALTY), math.log(10)),
    "lambda_l2": hp.loguniform("lambda_l2", math.log(_NO_PENALTY), math.log(10)),
    "cat_smooth": hp.loguniform("cat_smooth", math.log(1), math.log(100)),
}

_WHOLE = ("num_leaves", "max_depth", "min_child_samples")

#: LightGBM's defaults as a point of the space: the first trial, which no search may end below.
DEFAULTS = {
    "learning_rate": 0.1,
    "num_leaves": 31.0,
    "max_depth": float(_NO_LIMIT),
    "min_child_samples": 20.0,
    "feature_fraction": 1.0,
    "bagging_fraction": 1.0,
    "lambda_l1": _NO_PENALTY,
    "lambda_l2": _NO_PENALTY,
    "cat_smooth": 10.0,
}

#: The first trials: the defaults, then trees that see half the features, of three sizes. Where there is time for few
#: trials only, as on a large table, random points found nothing as good (the first thing that LightGBM's tuning guides
#: and Optuna's tuner change is the fraction of features, too).
STARTS = (
    DEFAULTS,
    *({**DEFAULTS, "feature_fraction": 0.5, "num_leaves": leaves} for leaves in (31.0, 15.0, 63.0)),
)

#: What a fold stops early on, and LightGBM's name for it: the metric of the search, save f1, which needs a threshold.
_STOP_ON = {
    "roc_auc": ("roc_auc", "auc"),
    "average_precision": ("average_precision", "average_precision"),
    "log_loss": ("log_loss", "binary_logloss"),
    "f1": ("log_loss", "binary_logloss"),
}


@dataclass(frozen=True)
class Table:
    """Rows to learn from: encoded features (float64, rows by features), labels (0/1), and each row's user."""

    x: np.ndarray
    y: np.ndarray
    user: np.ndarray
    features: Sequence[str]
    categorical: Sequence[str]


@dataclass(frozen=True)
class Trial:
    """One point of the search, what it scored, and what it took.

    `state` is finished, pruned (it clearly trailed the best after the first folds) or failed. `loss` is what TPE
    learns from: minus the utility of the out-of-fold score; for a pruned trial that of the best, plus how far it
    trailed.
    """

    number: int
    state: str
    point: dict[str, float]
    params: dict[str, Any]
    loss: float | None
    score: float | None
    rounds: int
    seconds: float
    error: str | None = None
    #: The score of the first folds together, and how well each fold did by what LightGBM stops on (more is better):
    #: what later trials are held against where this one is the best.
    first_score: float | None = None
    fold_bests: list[float] = field(default_factory=list)
    #: The predictions, where this process made the trial.
    out_of_fold: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Found:
    """What the search ended with: all trials in their order, the best of them, its model and threshold.

    Of many trials the best is the one that does best on other folds, too: not always the one with the lowest loss.

    `searched` are the rows that trials were made on, those of `best.out_of_fold`.
    """

    trials: list[Trial]
    best: Trial
    booster: lightgbm.Booster
    threshold: float
    searched: Table


def search(
    table: Table,
    max_evals: int,
    metric: str,
    seed: int,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    earlier: Sequence[Trial] = (),
    max_seconds: float = math.inf,
    run: "Runner | None" = None,
    parallelism: int = 1,
) -> Found:
    """Searches, tries the leaders of many trials on other folds, then fits the best parameters on all rows.

    Trials go in batches of `parallelism`: each is suggested, and pruned, by what the batches before its own have told,
    and by nothing else. So the same trials come out wherever they run, and where an interrupted search goes on.

    Args:
        table: the training rows.
        max_evals: trials; LightGBM's defaults are the first, three more are given too, then TPE suggests.
        metric: roc_auc, average_precision, log_loss or f1, of the out-of-fold predictions of all folds together.
        seed: the same seed and rows give the same model, whatever the number of cores.
        on_trial: called after each new trial.
        earlier: the trials of an interrupted search over the same rows, metric and seed; they are not run again.
        max_seconds: no new trial is begun that would, as the trials so far tell, end the search and its last fit after
            so long; the first batch is always run. What is left then bounds the last fit: it goes in coarser steps
            where the time asks for it, and ends when it is over, but not before half its rounds.
        run: what runs a batch; None: this process, one trial after the other.
        parallelism: trials of a batch.

    Raises:
        click.ClickException: fewer users than folds, or every trial failed.
    """
    started = time.monotonic()
    searched = _some_users(table, seed)
    folds = FOLDS_OF_MANY if len(searched.y) >= MANY_ROWS else FOLDS
    objective = Objective(searched, grouped_folds(searched, folds, seed), metric, seed)
    trials = list(earlier[:max_evals])
    while len(trials) < max_evals and (
        not trials or time.monotonic() - started + _seconds_to_come(trials, objective, table) <= max_seconds
    ):
        known = trials[: len(trials) - len(trials) % parallelism]
        numbers = range(len(trials), min(len(known) + parallelism, max_evals))
        points = {number: _next_point(known, number, seed) for number in numbers}
        trials += (run or one_after_the_other)(objective, points, best_of(known), on_trial)
    best = _confirmed(trials, objective, table, started + max_seconds)
    if best is None:
        raise click.ClickException(f"all {len(trials)} trials of the search failed, the first with: {trials[0].error}")
    if best.out_of_fold is None:
        # It came from an interrupted search: its predictions, which the threshold is chosen on, are made again, held
        # against the same trial as then.
        best = objective(best.number, best.point, best_of(trials[: best.number - best.number % parallelism]))
        trials[best.number] = replace(best, seconds=trials[best.number].seconds)
    assert best.out_of_fold is not None
    booster = _last_fit(best, objective, table, started + max_seconds)
    threshold = scores.best_threshold(searched.y, best.out_of_fold)
    return Found(trials, best, booster, threshold, searched)


def one_after_the_other(
    objective: "Objective",
    points: Mapping[int, dict[str, float]],
    best: Trial | None,
    on_trial: Callable[[Trial], None],
) -> list[Trial]:
    """Runs a batch in this process."""
    made = []
    for number, point in points.items():
        made.append(objective(number, point, best))
        on_trial(made[-1])
    return made


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the lowest loss, the first of several; None where none finished."""
    return next(iter(_best_first(trials)), None)


def _best_first(trials: Sequence[Trial]) -> list[Trial]:
    finished = [trial for trial in trials if trial.state == "finished" and trial.loss is not None]
    return sorted(finished, key=lambda trial: (trial.loss, trial.number))


def _confirmed(trials: Sequence[Trial], objective: "Objective", table: Table, end: float) -> Trial | None:
    """The best of the leaders, by folds that none of them was chosen for doing well on; None where no trial finished.

    The best of many trials owes part of its lead to the folds. Searches of 150 trials on the real events, four seeds,
    had a mean test ROC AUC of 0.682 by the folds searched on, and 0.684 to 0.686 by others.

    Args:
        end: on the monotonic clock; leaders for which there is no time before it, with the last fit, are left out.
    """
    searched, seed = objective.table, objective.seed
    best, leaders = best_of(trials), _leaders(trials, len(searched.y))
    if best is None or not leaders:
        return best
    end -= _FINER * _last_fit_seconds(best, objective, table)
    others = [
        Objective(searched, grouped_folds(searched, FOLDS, [seed, again]), objective.metric, seed)
        for again in range(1, _CONFIRMATIONS + 1)
    ]
    lowest = math.inf
    for leader in leaders:
        if time.monotonic() + _CONFIRMATIONS * leader.seconds > end:
            break
        losses = [other(leader.number, leader.point, None).loss for other in others]
        loss = sum(math.inf if made is None else made for made in losses)
        if loss < lowest:
            lowest, best = loss, leader
    return best


def _leaders(trials: Sequence[Trial], rows: int) -> list[Trial]:
    """The best of so many trials on so few rows that the best may be so by chance; else none.

    With MANY_ROWS, what this costs is better spent on more trials: three searches of the real primary table for 30 s
    ended at a median test ROC AUC of 0.8568 with it, after 30 trials, and at 0.8593 without, after 37.
    """
    if rows >= MANY_ROWS:
        return []
    leaders = _best_first(trials)[: min(len(trials) // _TRIALS_OF_A_LEADER, _MOST_LEADERS)]
    return leaders if len(leaders) > 1 else []


def _some_users(table: Table, seed: int) -> Table:
    if len(table.y) <= SEARCH_ROWS:
        return table
    users, of = np.unique(table.user, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(users))
    rows_of = np.bincount(of)
    chosen = np.zeros(len(users), bool)
    chosen[order[: np.searchsorted(np.cumsum(rows_of[order]), SEARCH_ROWS) + 1]] = True
    rows = chosen[of]
    return replace(table, x=table.x[rows], y=table.y[rows], user=table.user[rows])


def _last_fit(best: Trial, objective: "Objective", table: Table, end: float) -> lightgbm.Booster:
    """Fits the parameters on all rows, in time for `end`, on the monotonic clock, or with half the rounds it takes."""
    dataset = _lightgbm_dataset(table).construct()
    params = _params(best.params, objective.metric, objective.seed, _last_fit_threads(len(table.y)))
    rounds = best.rounds * _more_rounds(table, objective)
    finer = float(_FINER)
    if end < math.inf:
        started = time.monotonic()
        lightgbm.train(params, dataset, num_boost_round=_PROBED)
        now = time.monotonic()
        finer = min(_FINER, max(1 / _FINER, (end - now) / rounds * _PROBED / (now - started)))

    def stop(env: lightgbm.callback.CallbackEnv) -> None:
        made, asked = env.iteration + 1, env.end_iteration
        if time.monotonic() > end and asked / 2 <= made < asked:
            click.echo(f"search: its time is over: the last fit ends after {made} of {asked} rounds")
            raise lightgbm.callback.EarlyStopException(env.iteration, [])

    return lightgbm.train(
        params | {"learning_rate": best.params["learning_rate"] / finer},
        dataset,
        num_boost_round=max(1, round(rounds * finer)),
        callbacks=[stop],
    )


def _more_rounds(table: Table, objective: "Objective") -> float:
    """How many times the rounds of a fold the last fit takes: more rows carry more, about as the cube root of them."""
    return float(len(table.y) / _fold_rows(objective)) ** (1 / 3)


def _fold_rows(objective: "Objective") -> float:
    return float(np.mean([len(learn) for learn, _ in objective.folds]))


def _last_fit_threads(rows: int) -> int:
    return min(_cores(), 1 + rows // _ROWS_OF_A_THREAD)


def _seconds_to_come(trials: Sequence[Trial], objective: "Objective", table: Table) -> float:
    """What takes place once more and at the end, if it is like the trials so far: a trial as long as the longest."""
    trial = max(trial.seconds for trial in trials)
    best = best_of(trials)
    if best is None:
        return trial
    leaders = _leaders(trials, len(objective.table.y))
    confirming = _CONFIRMATIONS * sum(leader.seconds for leader in leaders)
    # A trial of the points to start from is worth more than finer steps.
    finer = 1 / _FINER if len(trials) < len(STARTS) else _FINER
    return trial + confirming + finer * _last_fit_seconds(best, objective, table)


def _last_fit_seconds(best: Trial, objective: "Objective", table: Table) -> float:
    """What a last fit takes in steps as large as the trial's."""
    # A trial is a fit on each fold, as many at a time as there are cores, each with rounds in vain.
    folds = len(objective.folds)
    one_fold = best.seconds * min(_cores(), folds) / folds * best.rounds / (best.rounds + _PATIENCE)
    longer = (_ROWS_OF_A_ROUND + len(table.y)) / (_ROWS_OF_A_ROUND + _fold_rows(objective))
    return _LEARNING * one_fold * longer * _more_rounds(table, objective) / _last_fit_threads(len(table.y))


def _next_point(known: Sequence[Trial], number: int, seed: int) -> dict[str, float]:
    """A trial's starting point, then TPE's suggestion after the known ones, from the trial's own random numbers."""
    if number < len(STARTS):
        return dict(STARTS[number])
    suggested: list[dict[str, float]] = []

    def note(point: dict[str, float]) -> dict[str, Any]:
        suggested.append(point)
        return {"status": hyperopt.STATUS_OK, "loss": 0.0}  # for hyperopt's eyes alone: the history is made anew

    hyperopt.fmin(
        note,
        SPACE,
        algo=hyperopt.tpe.suggest,
        max_evals=len(known) + 1,
        trials=_history(known),
        rstate=np.random.default_rng([seed, number]),
        show_progressbar=False,
        verbose=False,
        return_argmin=False,
    )
    (point,) = suggested
    return {name: float(value) for name, value in point.items()}


def _history(trials: Sequence[Trial]) -> hyperopt.Trials:
    """hyperopt's record of these trials."""
    history = hyperopt.Trials()
    for trial in trials:
        result: dict[str, Any] = {"status": hyperopt.STATUS_FAIL}
        if trial.loss is not None:
            result = {"status": hyperopt.STATUS_OK, "loss": trial.loss}
        misc = {
            "tid": trial.number,
            "cmd": None,
            "idxs": {name: [trial.number] for name in trial.point},
            "vals": {name: [value] for name, value in trial.point.items()},
        }
        (document,) = history.new_trial_docs([trial.number], [None], [result], [misc])
        document["state"] = hyperopt.JOB_STATE_DONE
        history.insert_trial_doc(document)
    history.refresh()
    return history


def grouped_folds(table: Table, count: int, seed: int | Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows to learn from and to check on, for each fold; no user is on both sides.

    Users are dealt out in the order of their purchases and rows, chance among equals, so that folds have alike of both.
    (scikit-learn's StratifiedGroupKFold looks at every user by itself: on 50,000 rows that took 3 s of CPU, as much
    as four fits.)

    Raises:
        click.ClickException: fewer users than folds.
    """
    users, of = np.unique(table.user, return_inverse=True)
    if len(users) < count:
        raise click.ClickException(f"{len(users)} user(s) in the training rows: the search needs {count} at least")
    chance = np.random.default_rng(seed).random(len(users))
    order = np.lexsort((chance, np.bincount(of), np.bincount(of, table.y)))
    fold = np.empty(len(users), int)
    fold[order] = np.arange(len(users)) % count
    folds = [(np.flatnonzero(fold[of] != number), np.flatnonzero(fold[of] == number)) for number in range(count)]
    return [(learn, check) for learn, check in folds if 0 < table.y[learn].sum() < len(learn)]


def _cores() -> int:
    return int(joblib.cpu_count())  # those that this process may use: a container may have been given less


@dataclass(frozen=True)
class Objective:
    """Evaluates points of the space on the folds, as many folds at a time as there are `threads`."""

    table: Table
    folds: list[tuple[np.ndarray, np.ndarray]]
    metric: str
    seed: int
    threads: int = field(default_factory=_cores)
    #: The folds of the rows as LightGBM bins them, once for all trials: of a short fit that was a third.
    binned: list[tuple[lightgbm.Dataset, lightgbm.Dataset]] = field(default_factory=list, init=False, repr=False)

    def __call__(self, number: int, point: dict[str, float], best: Trial | None) -> Trial:
        """Runs a trial; one that raises is a failed trial, not the end of the search.

        Args:
            best: the best trial known, against which this one is pruned; None: it is not pruned.
        """
        started = time.monotonic()
        params = lightgbm_params(point)
        trial = Trial(number, "failed", point, params, None, None, 0, 0.0)
        try:
            return replace(self._evaluate(trial, best), seconds=time.monotonic() - started)
        except Exception as error:  # whatever it is, it is this point's
            return replace(trial, seconds=time.monotonic() - started, error=f"{type(error).__name__}: {error}"[:500])

    def _evaluate(self, trial: Trial, best: Trial | None) -> Trial:
        y = self.table.y
        out_of_fold = np.full(len(y), y.mean())
        numbers = range(len(self.folds))
        rounds, fold_bests = self._fit(trial.params, numbers[:_FIRST_FOLDS], out_of_fold, best)
        seen = np.concatenate([check for _, check in self.folds[:_FIRST_FOLDS]])
        first = scores.score(self.metric, y[seen], out_of_fold[seen])
        trial = replace(trial, first_score=first, fold_bests=fold_bests)
        if best and best.loss is not None and best.first_score is not None:
            ahead, mine = (metrics.utility(self.metric, x) for x in (best.first_score, first))
            if mine < self._clearly_below(ahead, self.metric, seen):
                return replace(trial, state="pruned", loss=best.loss + ahead - mine, rounds=round(np.mean(rounds)))
        more_rounds, more_bests = self._fit(trial.params, numbers[_FIRST_FOLDS:], out_of_fold, best)
        score = scores.score(self.metric, y, out_of_fold)
        if not math.isfinite(score):
            raise ValueError(f"{self.metric} of the out-of-fold predictions is {score}")
        return replace(
            trial,
            state="finished",
            loss=-metrics.utility(self.metric, score),
            score=score,
            fold_bests=fold_bests + more_bests,
            rounds=max(1, round(np.mean(rounds + more_rounds))),
            out_of_fold=out_of_fold,
        )

    def _clearly_below(self, ahead: float, metric: str, rows: np.ndarray) -> float:
        """Below which utility a trial clearly trails one that has `ahead` on these rows."""
        y = self.table.y
        constant = metrics.utility(metric, scores.baselines(float(y.mean()), y[rows])[metric])
        return ahead - _CLEARLY * max(0.0, ahead - constant)

    def _fit(
        self, params: dict[str, Any], numbers: Sequence[int], out_of_fold: np.ndarray, best: Trial | None
    ) -> tuple[list[int], list[float]]:
        """Fills in the predictions of these folds; answers with the rounds and the utility that each was best with."""

        def fit(number: int) -> tuple[int, float, np.ndarray]:
            learning, checking = self.binned[number]
            (stop_on, _), (_, check) = _STOP_ON[self.metric], self.folds[number]
            behind = self._clearly_below(best.fold_bests[number], stop_on, check) if best and best.fold_bests else None
            return _fit_until_no_gain(_params(params, self.metric, self.seed), learning, checking, behind)

        if not self.binned:
            rows = _lightgbm_dataset(self.table)
            for fold in self.folds:
                # Made here: a fold's thread that finds them not yet made crashes the process.
                learning, checking = (rows.subset(side).construct() for side in fold)
                self.binned.append((learning, checking))
        # A thread for each fold, each with one of LightGBM's: threads that share a fold wait for each other at every
        # split, which on a busy machine costs more than they bring.
        rounds, bests = [], []
        with ThreadPoolExecutor(self.threads) as pool:
            for number, (at, reached, predicted) in zip(numbers, pool.map(fit, numbers), strict=True):
                out_of_fold[self.folds[number][1]] = predicted
                rounds.append(at)
                bests.append(reached)
        return rounds, bests


def _fit_until_no_gain(
    params: dict[str, Any], learning: lightgbm.Dataset, checking: lightgbm.Dataset, clearly_below: float | None
) -> tuple[int, float, np.ndarray]:
    """Fits a fold; answers with the rounds that did best on the rows to check on, their utility and probabilities.

    Args:
        clearly_below: a fold whose best is a utility below this one is given up sooner; None: it is not.
    """
    booster = lightgbm.Booster(params, learning).add_valid(checking, "check")
    rounds, reached, probability = 0, -math.inf, np.empty(0)
    latest: list[np.ndarray] = []

    def keep(predicted: np.ndarray, of: lightgbm.Dataset) -> tuple[str, float, bool]:
        latest[:] = [predicted]
        return "kept", 0.0, True

    for now in range(_EVERY, _MAX_ROUNDS + 1, _EVERY):
        for _ in range(_EVERY):
            booster.update()
        (_, _, value, more_is_better), _ = booster.eval_valid(keep)
        utility = value if more_is_better else -value
        if utility > reached:
            rounds, reached, probability = now, utility, latest[0].copy()  # LightGBM writes the next ones there
        elif now - rounds >= (_PATIENCE if clearly_below is None or reached >= clearly_below else _PATIENCE_BEHIND):
            break
    if not rounds:
        raise ValueError(f"LightGBM's {params['metric']} of the rows to check on is {value}")
    return rounds, reached, probability


#: Runs the points of a batch, by trial number, pruned against a trial or against none; calls back with each trial as it
#: ends, and answers with all in the order of their numbers.
Runner = Callable[
    [Objective, Mapping[int, dict[str, float]], Trial | None, Callable[[Trial], None]],
    list[Trial],
]


def lightgbm_params(point: Mapping[str, float]) -> dict[str, Any]:
    """LightGBM's parameters at a point of the space: whole numbers whole, bounds that mean "none" as LightGBM's."""
    params: dict[str, Any] = {name: round(value) if name in _WHOLE else value for name, value in point.items()}
    if params["max_depth"] >= _NO_LIMIT:
        params["max_depth"] = -1
    for penalty in ("lambda_l1", "lambda_l2"):
        if params[penalty] <= _NO_PENALTY * 1.01:
            params[penalty] = 0.0
    return params


def _params(params: dict[str, Any], metric: str, seed: int, threads: int = 1) -> dict[str, Any]:
    # Of several threads each sums up features of its own, so that the sums are the same for any number of them.
    row_wise = threads == 1 and params["feature_fraction"] >= _ROW_WISE_FROM
    return {
        **params,
        "objective": "binary",
        "metric": _STOP_ON[metric][1],
        "bagging_freq": 1,  # without it bagging_fraction does nothing
        "seed": seed,
        "deterministic": True,
        "force_row_wise": row_wise,
        "force_col_wise": not row_wise,
        "num_threads": threads,
        "verbosity": -1,
    }


def _lightgbm_dataset(table: Table) -> lightgbm.Dataset:
    return lightgbm.Dataset(
        table.x,
        table.y,
        feature_name=list(table.features),
        categorical_feature=[name for name in table.features if name in table.categorical],
        # Rows binned with the filter would do for one min_child_samples alone.
        params={"verbosity": -1, "feature_pre_filter": False, "num_threads": 1},
    )


def trials_frame(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row per trial, in their order: number, state, scores, rounds, seconds, and each parameter."""
    return pd.DataFrame(
        [
            {
                "number": trial.number,
                "state": trial.state,
                "score": trial.score,
                "first_folds_score": trial.first_score,
                "rounds": trial.rounds,
                "seconds": trial.seconds,
                **trial.params,
            }
            for trial in trials
        ]
    )
