"""The objective of the search: fits one point of the space on the folds, with early stopping and pruning."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import joblib
import lightgbm
import numpy as np

from purchase_predict import metrics
from purchase_predict.evaluation import scores
from purchase_predict.search.space import lightgbm_params
from purchase_predict.search.trial import LabelledRows, Trial

#: A trial is pruned after this many folds if it trails the best trial by more than PRUNE_MARGIN.
PRUNE_AFTER_FOLDS = 2
#: Share of the best trial's gain over the baseline (a constant prediction). Without a margin, pruning cost searches of
#: the real events 0.003 of ROC AUC.
PRUNE_MARGIN = 0.01
#: The maximum number of boosting rounds of a fold.
_MAX_ROUNDS = 1000
#: Early-stopping patience of a fold, in boosting rounds.
PATIENCE = 30
#: Early-stopping patience, in boosting rounds, of a fold that is behind the same fold of the best trial by more than
#: PRUNE_MARGIN. With 15, a trial of the real primary table took 0.55 s instead of 0.69 s. With 7, it took 0.43 s,
#: but for points as good as the best one, half of the folds were stopped too early, on a plateau.
PATIENCE_BEHIND = 15
#: Boosting rounds between two evaluations of a fold. Evaluating each round, and predicting again at the end, took two
#: thirds of the time of a fold of the real primary table.
EVALUATION_INTERVAL = 5
#: From this feature fraction on, LightGBM builds histograms row by row instead of feature by feature. With one thread
#: the model is the same, byte for byte. Compared with feature by feature, row by row took 0.80 to 0.99 times as long
#: from this fraction on, and up to 1.28 times as long below this fraction.
ROW_WISE_FEATURE_FRACTION = 0.7


def available_cores() -> int:
    """The number of cores that this process may use. In a container, the machine may have more."""
    return int(joblib.cpu_count())


@dataclass(frozen=True)
class Objective:
    """Evaluates points of the search space by cross-validation.

    Attributes:
        rows: the rows that are searched on.
        folds: for each fold the positions of its training rows and of its validation rows.
        metric: the metric to optimise.
        seed: the seed of the search.
        threads: the number of folds that are fitted at the same time.
        binned: for each fold the training and the validation rows as binned LightGBM datasets. The first trial bins
            them, and all trials share them. Binning took a third of the time of a short fit.
    """

    rows: LabelledRows
    folds: list[tuple[np.ndarray, np.ndarray]]
    metric: str
    seed: int
    threads: int = field(default_factory=available_cores)
    binned: list[tuple[lightgbm.Dataset, lightgbm.Dataset]] = field(default_factory=list, init=False, repr=False)

    @property
    def judged(self) -> np.ndarray:
        """The positions of the rows that the folds validate on, sorted."""
        return np.sort(np.concatenate([validation for _, validation in self.folds]))

    def __call__(self, number: int, point: dict[str, float], best: Trial | None) -> Trial:
        """Runs a trial. After an exception the trial counts as failed and the search continues.

        Args:
            number: the trial's number, from 0.
            point: a value for each parameter of the search space.
            best: the best trial so far, which pruning compares this trial with; None: no pruning.
        """
        started = time.monotonic()
        params = lightgbm_params(point)
        trial = Trial(number, "failed", point, params, None, None, 0, 0.0)
        try:
            return replace(self._evaluate(trial, best), seconds=time.monotonic() - started)
        except Exception as error:  # of any kind: other points may still work
            return replace(trial, seconds=time.monotonic() - started, error=f"{type(error).__name__}: {error}"[:500])

    def _evaluate(self, trial: Trial, best: Trial | None) -> Trial:
        """Fits the folds; returns the trial, finished or pruned. Raises ValueError if the score is not finite."""
        y = self.rows.y
        out_of_fold = np.full(len(y), np.nan)
        numbers = range(len(self.folds))
        rounds, utilities = self._fit_folds(trial.params, numbers[:PRUNE_AFTER_FOLDS], out_of_fold, best)
        validated = np.concatenate([validation for _, validation in self.folds[:PRUNE_AFTER_FOLDS]])
        first_folds_score = scores.score(self.metric, y[validated], out_of_fold[validated])
        trial = replace(trial, first_folds_score=first_folds_score, fold_utilities=utilities)
        if best and best.loss is not None and best.first_folds_score is not None:
            utility = metrics.utility(self.metric, first_folds_score)
            best_utility = metrics.utility(self.metric, best.first_folds_score)
            if utility < self.behind_below(best_utility, self.metric, validated):
                loss = best.loss + best_utility - utility
                return replace(trial, state="pruned", loss=loss, rounds=round(np.mean(rounds)))
        more_rounds, more_utilities = self._fit_folds(trial.params, numbers[PRUNE_AFTER_FOLDS:], out_of_fold, best)
        score = scores.score(self.metric, y[self.judged], out_of_fold[self.judged])
        if not math.isfinite(score):
            raise ValueError(f"{self.metric} of the out-of-fold predictions is {score}")
        return replace(
            trial,
            state="finished",
            loss=-metrics.utility(self.metric, score),
            score=score,
            fold_utilities=utilities + more_utilities,
            rounds=max(1, round(np.mean(rounds + more_rounds))),
            out_of_fold=out_of_fold,
        )

    def behind_below(self, best_utility: float, metric: str, positions: np.ndarray) -> float:
        """The utility (`metrics.utility`) below which a trial is behind the best one.

        It is the best trial's utility minus PRUNE_MARGIN of the best trial's gain over the baseline.

        Args:
            best_utility: the utility of the best trial on the rows at `positions`.
            metric: the metric of both utilities.
            positions: the positions of the rows that both trials were scored on.
        """
        y = self.rows.y
        baseline = metrics.utility(metric, scores.baselines(float(y.mean()), y[positions])[metric])
        return best_utility - PRUNE_MARGIN * max(0.0, best_utility - baseline)

    def _fit_folds(
        self, params: dict[str, Any], numbers: Sequence[int], out_of_fold: np.ndarray, best: Trial | None
    ) -> tuple[list[int], list[float]]:
        """Fits the folds with these numbers and fills in `out_of_fold`; returns rounds and utility of each fold."""

        def fit(number: int) -> FoldFit:
            train, validation = self.binned[number]
            stop_on, (_, positions) = metrics.early_stopping(self.metric).name, self.folds[number]
            behind_below = (
                self.behind_below(best.fold_utilities[number], stop_on, positions)
                if best and best.fold_utilities
                else None
            )
            return fit_fold(training_params(params, self.metric, self.seed), train, validation, behind_below)

        self._bin()
        # One LightGBM thread per fold. Threads that share a fold wait for each other at every split. When other
        # processes use the cores, the threads lose more time by waiting than they save.
        rounds, utilities = [], []
        with ThreadPoolExecutor(self.threads) as pool:
            for number, fitted in zip(numbers, pool.map(fit, numbers), strict=True):
                out_of_fold[self.folds[number][1]] = fitted.probability
                rounds.append(fitted.rounds)
                utilities.append(fitted.utility)
        return rounds, utilities

    def _bin(self) -> None:
        """Fills `binned`. The folds' threads must not do it: constructing a dataset in a thread crashes the process."""
        if not self.binned:
            dataset = lightgbm_dataset(self.rows)
            for fold in self.folds:
                train, validation = (dataset.subset(side).construct() for side in fold)
                self.binned.append((train, validation))


class FoldFit(NamedTuple):
    """The best evaluation of a fold: boosting rounds, utility, and the probability of each validation row."""

    rounds: int
    utility: float
    probability: np.ndarray


def fit_fold(
    params: dict[str, Any], train: lightgbm.Dataset, validation: lightgbm.Dataset, behind_below: float | None
) -> FoldFit:
    """Fits a fold with early stopping.

    Args:
        params: LightGBM's parameters; `metric` is the one metric that early stopping uses.
        train: the rows to fit.
        validation: the rows to evaluate on.
        behind_below: while the fold's best utility is below this value, its patience is PATIENCE_BEHIND instead of
            PATIENCE; None: always PATIENCE.

    Raises:
        ValueError: the metric is not a number.
    """
    booster = lightgbm.Booster(params, train).add_valid(validation, "validation")
    best = FoldFit(0, -math.inf, np.empty(0))
    latest: list[np.ndarray] = []

    def capture(predictions: np.ndarray, dataset: lightgbm.Dataset) -> tuple[str, float, bool]:
        """Keeps the predictions that LightGBM passes in. LightGBM requires a return value; it is not used."""
        latest[:] = [predictions]
        return "captured", 0.0, True

    for rounds in range(EVALUATION_INTERVAL, _MAX_ROUNDS + 1, EVALUATION_INTERVAL):
        for _ in range(EVALUATION_INTERVAL):
            booster.update()
        (_, _, value, more_is_better), _ = booster.eval_valid(capture)
        utility = value if more_is_better else -value
        patience = PATIENCE if behind_below is None or best.utility >= behind_below else PATIENCE_BEHIND
        if utility > best.utility:
            best = FoldFit(rounds, utility, latest[0].copy())  # LightGBM overwrites its array
        elif rounds - best.rounds >= patience:
            break
    if not best.rounds:
        raise ValueError(f"LightGBM's {params['metric']} on the validation rows is {value}")
    return best


#: Runs a batch of trials. Arguments: the objective, the points by trial number, the best trial to prune against (or
#: None), and a function that is called with each trial when it ends. Returns the trials, sorted by number.
Runner = Callable[
    [Objective, Mapping[int, dict[str, float]], Trial | None, Callable[[Trial], None]],
    list[Trial],
]


def training_params(params: dict[str, Any], metric: str, seed: int, threads: int = 1) -> dict[str, Any]:
    """All LightGBM parameters of a fit.

    Args:
        params: the LightGBM parameters of the trial.
        metric: the metric of the search.
        seed: the seed of the search.
        threads: LightGBM threads; their number does not change the model.
    """
    # Several threads must work feature by feature. Each thread then sums whole features, so the order of summation does
    # not depend on the number of threads.
    row_wise = threads == 1 and params["feature_fraction"] >= ROW_WISE_FEATURE_FRACTION
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


def lightgbm_dataset(rows: LabelledRows) -> lightgbm.Dataset:
    """The rows as a LightGBM dataset that is not yet binned."""
    return lightgbm.Dataset(
        rows.x,
        rows.y,
        feature_name=list(rows.features),
        categorical_feature=[name for name in rows.features if name in rows.categorical],
        # Without the pre-filter, which depends on min_child_samples, the bins serve every trial.
        params={"verbosity": -1, "feature_pre_filter": False, "num_threads": 1},
    )
