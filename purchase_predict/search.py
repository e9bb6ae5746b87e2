"""The hyperparameter search: hyperopt's TPE over LightGBM, folds grouped by user, early stopping."""

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import click
import hyperopt
import lightgbm
import numpy as np
import pandas as pd
from hyperopt import hp
from hyperopt.pyll.base import scope
from sklearn.model_selection import StratifiedGroupKFold

from purchase_predict import evaluation

FOLDS = 4
_MAX_ROUNDS = 1000
_PATIENCE = 30
#: Depth and penalties at their bounds stand for LightGBM's "unlimited" and "none".
_NO_LIMIT = 16
_NO_PENALTY = 1e-8

SPACE = {
    "learning_rate": hp.loguniform("learning_rate", math.log(0.01), math.log(0.3)),
    "num_leaves": scope.int(hp.qloguniform("num_leaves", math.log(4), math.log(256), 1)),
    "max_depth": scope.int(hp.quniform("max_depth", 3, _NO_LIMIT, 1)),
    "min_child_samples": scope.int(hp.qloguniform("min_child_samples", math.log(5), math.log(300), 1)),
    "feature_fraction": hp.uniform("feature_fraction", 0.3, 1),
    "bagging_fraction": hp.uniform("bagging_fraction", 0.4, 1),
    "lambda_l1": hp.loguniform("lambda_l1", math.log(_NO_PENALTY), math.log(10)),
    "lambda_l2": hp.loguniform("lambda_l2", math.log(_NO_PENALTY), math.log(10)),
    "cat_smooth": hp.loguniform("cat_smooth", math.log(1), math.log(200)),
}

#: LightGBM's defaults as a point of the space: the first trial, which no search may end below.
DEFAULTS = {
    "learning_rate": 0.1,
    "num_leaves": 31,
    "max_depth": _NO_LIMIT,
    "min_child_samples": 20,
    "feature_fraction": 1.0,
    "bagging_fraction": 1.0,
    "lambda_l1": _NO_PENALTY,
    "lambda_l2": _NO_PENALTY,
    "cat_smooth": 10.0,
}

#: What LightGBM stops early on, for each metric of the search.
_STOP_ON = {
    "roc_auc": "auc",
    "average_precision": "average_precision",
    "log_loss": "binary_logloss",
    "f1": "binary_logloss",
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
    """One point of the search: its LightGBM parameters, the out-of-fold score, and what it took."""

    number: int
    params: dict[str, Any]
    score: float
    rounds: int
    seconds: float
    out_of_fold: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Found:
    """What the search ended with: all trials in their order, the best of them, its model and threshold."""

    trials: list[Trial]
    best: Trial
    booster: lightgbm.Booster
    threshold: float


def search(
    table: Table, max_evals: int, metric: str, seed: int, on_trial: Callable[[Trial], None] = lambda trial: None
) -> Found:
    """Searches, then fits the best parameters on all rows.

    Args:
        table: the training rows.
        max_evals: trials, the first of them LightGBM's defaults.
        metric: roc_auc, average_precision, log_loss or f1, of the out-of-fold predictions of all folds together.
        seed: the same seed, rows and number of threads give the same model.
        on_trial: called after each trial.

    Raises:
        click.ClickException: fewer users than folds.
    """
    folds = _folds(table, seed)
    trials: list[Trial] = []

    def run(point: dict[str, Any]) -> dict[str, Any]:
        trial = _evaluate(table, folds, len(trials), point, metric, seed)
        trials.append(trial)
        on_trial(trial)
        return {"loss": -evaluation.utility(metric, trial.score), "status": hyperopt.STATUS_OK}

    history = _history(run(DEFAULTS))
    for number in range(1, max_evals):
        # One suggestion a call, each from its own stream: what comes next depends on the trials so far and on nothing
        # else, not on where a search was interrupted.
        hyperopt.fmin(
            run,
            SPACE,
            algo=hyperopt.tpe.suggest,
            max_evals=number + 1,
            trials=history,
            rstate=np.random.default_rng([seed, number]),
            show_progressbar=False,
            verbose=False,
        )
    best = max(trials, key=lambda trial: (evaluation.utility(metric, trial.score), -trial.number))
    booster = lightgbm.train(_params(best.params, metric, seed), _lightgbm_dataset(table), num_boost_round=best.rounds)
    return Found(trials, best, booster, evaluation.best_threshold(table.y, best.out_of_fold))


def _history(result: dict[str, Any]) -> hyperopt.Trials:
    """hyperopt's record of the first trial, at DEFAULTS."""
    history = hyperopt.Trials()
    (document,) = history.new_trial_docs(
        [0],
        [None],
        [result],
        [
            {
                "tid": 0,
                "cmd": None,
                "idxs": {name: [0] for name in DEFAULTS},
                "vals": {name: [value] for name, value in DEFAULTS.items()},
            }
        ],
    )
    document["state"] = hyperopt.JOB_STATE_DONE
    history.insert_trial_doc(document)
    history.refresh()
    return history


def _folds(table: Table, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    users = len(np.unique(table.user))
    if users < FOLDS:
        raise click.ClickException(f"{users} user(s) in the training rows: the search needs {FOLDS} at least")
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return [
        (learn, check)
        for learn, check in splitter.split(table.x, table.y, table.user)
        if len(check) and 0 < table.y[learn].sum() < len(learn)
    ]


def _evaluate(
    table: Table,
    folds: list[tuple[np.ndarray, np.ndarray]],
    number: int,
    point: dict[str, Any],
    metric: str,
    seed: int,
) -> Trial:
    started = time.monotonic()
    params = _lightgbm_params(point)

    def fit(fold: tuple[np.ndarray, np.ndarray]) -> tuple[int, np.ndarray]:
        learn, check = fold
        learning = _lightgbm_dataset(table, learn)
        booster = lightgbm.train(
            _params(params, metric, seed),
            learning,
            num_boost_round=_MAX_ROUNDS,
            valid_sets=[_lightgbm_dataset(table, check, learning)],
            callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
        )
        return booster.best_iteration, booster.predict(table.x[check], num_iteration=booster.best_iteration)

    # A thread for each fold, each with one of LightGBM's: threads that share a fold wait for each other at every split,
    # which on a busy machine costs more than they bring.
    out_of_fold = np.full(len(table.y), table.y.mean())
    rounds = []
    with ThreadPoolExecutor(_cores()) as pool:
        for (_, check), (best, predicted) in zip(folds, pool.map(fit, folds), strict=True):
            out_of_fold[check] = predicted
            rounds.append(best)
    score = evaluation.score(metric, table.y, out_of_fold)
    return Trial(number, params, score, max(1, round(np.mean(rounds))), time.monotonic() - started, out_of_fold)


def _lightgbm_params(point: dict[str, Any]) -> dict[str, Any]:
    params = dict(point)
    if params["max_depth"] >= _NO_LIMIT:
        params["max_depth"] = -1
    for penalty in ("lambda_l1", "lambda_l2"):
        if params[penalty] <= _NO_PENALTY * 1.01:
            params[penalty] = 0.0
    return params


def _params(params: dict[str, Any], metric: str, seed: int) -> dict[str, Any]:
    return {
        **params,
        "objective": "binary",
        "metric": _STOP_ON[metric],
        "bagging_freq": 1,  # without it bagging_fraction does nothing
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,  # and so one result, whatever the machine
        "verbosity": -1,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _lightgbm_dataset(
    table: Table, rows: np.ndarray | None = None, reference: lightgbm.Dataset | None = None
) -> lightgbm.Dataset:
    x, y = (table.x, table.y) if rows is None else (table.x[rows], table.y[rows])
    return lightgbm.Dataset(
        x,
        y,
        reference=reference,
        feature_name=list(table.features),
        categorical_feature=[name for name in table.features if name in table.categorical],
        params={"verbosity": -1},
    )


def trials_frame(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row per trial, in their order: number, score, rounds, seconds, and each parameter."""
    return pd.DataFrame(
        [{"number": t.number, "score": t.score, "rounds": t.rounds, "seconds": t.seconds, **t.params} for t in trials]
    )
