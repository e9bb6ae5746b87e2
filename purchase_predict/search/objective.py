"""What a trial is: the folds fitted with one point of the space, pruned where it trails."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import joblib
import lightgbm
import numpy as np

from purchase_predict import metrics
from purchase_predict.evaluation import scores
from purchase_predict.search.space import lightgbm_params
from purchase_predict.search.trial import Table, Trial

#: A trial that clearly trails the best after so many folds ends there: by more than this share of what the best gains
#: over a constant answer. Where all that trail ended there, searches of the real events found 0.003 of ROC AUC less.
_FIRST_FOLDS = 2
_CLEARLY = 0.01
_MAX_ROUNDS = 1000
#: Rounds without a gain that end a fold, and those that end one that clearly trails the best trial's there. With 15, a
#: trial of the real primary table took 0.55 s and not 0.69; with 7 it took 0.43, but then one fold in two of points as
#: good as the best was given up on a flat stretch of its curve.
PATIENCE, PATIENCE_BEHIND = 30, 15
#: Rounds between two looks at how a fold does. A look at each took, with the predictions made anew at the end, two
#: thirds of the time of a fold of the real primary table.
_EVERY = 5
#: The share of the features from which on a tree's rows are summed up row by row, and not feature by feature: with one
#: thread the model is the same, byte for byte, in 0.80 to 0.99 of the time; with fewer, in up to 1.28 times it.
_ROW_WISE_FROM = 0.7


def available_cores() -> int:
    """The cores that this process may use: a container may have fewer than its machine."""
    return int(joblib.cpu_count())


@dataclass(frozen=True)
class Objective:
    """Evaluates points of the space on the folds, as many folds at a time as there are `threads`."""

    table: Table
    folds: list[tuple[np.ndarray, np.ndarray]]
    metric: str
    seed: int
    threads: int = field(default_factory=available_cores)
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
            stop_on, (_, check) = metrics.early_stopping(self.metric).name, self.folds[number]
            behind = self._clearly_below(best.fold_bests[number], stop_on, check) if best and best.fold_bests else None
            return _fit_until_no_gain(training_params(params, self.metric, self.seed), learning, checking, behind)

        if not self.binned:
            rows = lightgbm_dataset(self.table)
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
        elif now - rounds >= (PATIENCE if clearly_below is None or reached >= clearly_below else PATIENCE_BEHIND):
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


def training_params(params: dict[str, Any], metric: str, seed: int, threads: int = 1) -> dict[str, Any]:
    """LightGBM's parameters of a fit: those of a trial, and those that are the same for every trial."""
    # Of several threads each sums up features of its own, so that the sums are the same for any number of them.
    row_wise = threads == 1 and params["feature_fraction"] >= _ROW_WISE_FROM
    return {
        **params,
        "objective": "binary",
        "metric": metrics.early_stopping(metric).lightgbm,
        "bagging_freq": 1,  # without it bagging_fraction does nothing
        "seed": seed,
        "deterministic": True,
        "force_row_wise": row_wise,
        "force_col_wise": not row_wise,
        "num_threads": threads,
        "verbosity": -1,
    }


def lightgbm_dataset(table: Table) -> lightgbm.Dataset:
    """The table as LightGBM takes it, not yet binned."""
    return lightgbm.Dataset(
        table.x,
        table.y,
        feature_name=list(table.features),
        categorical_feature=[name for name in table.features if name in table.categorical],
        # Rows binned with the filter would do for one min_child_samples alone.
        params={"verbosity": -1, "feature_pre_filter": False, "num_threads": 1},
    )
