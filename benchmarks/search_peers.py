"""The searches that benchmarks/search.py compares with this project's: the course's loop, FLAML and Optuna's tuner.

If the rows have times, FLAML and Optuna also validate on later rows than they train on. Optuna uses the same forward
folds as this project's search. FLAML makes its own from the order of the rows (`split_type="time"`).
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hyperopt
import lightgbm
import numpy as np
import pandas as pd
from hyperopt import hp
from hyperopt.pyll.base import scope
from sklearn.metrics import f1_score
from sklearn.model_selection import RepeatedKFold

from purchase_predict.search.folds import forward_folds, grouped_folds
from purchase_predict.search.trial import LabelledRows


@dataclass(frozen=True)
class Data:
    """The training rows and the test rows."""

    learn: LabelledRows
    test: LabelledRows


@dataclass(frozen=True)
class Ended:
    """A search that has ended.

    Attributes:
        predict: the model: takes encoded rows, returns their probabilities.
        trials: the number of trials, pruned ones included. For Optuna, the trial that the time limit interrupted is
            included, too. For FLAML, these are only the trials that improved the best score (`config_history`).
    """

    predict: Callable[[np.ndarray], np.ndarray]
    trials: int


class TimeIsOver(Exception):
    """Raised when the time of a search is over: in a trial, to end the search; or by a search without any model."""


def course(data: Data, seconds: float, seed: int) -> Ended:
    """A plain hyperopt loop ("course's loop"): category codes as numbers, 4 folds, F1, no early stopping."""
    end = time.monotonic() + seconds
    learn, y = np.nan_to_num(data.learn.x, nan=-1), data.learn.y
    strengths = [0, 0.1, 1, 2, 5, 10]
    space = {
        "learning_rate": hp.uniform("learning_rate", 0.001, 1),
        "num_iterations": scope.int(hp.quniform("num_iterations", 100, 1000, 20)),
        "max_depth": scope.int(hp.quniform("max_depth", 4, 12, 6)),
        "num_leaves": scope.int(hp.quniform("num_leaves", 8, 128, 10)),
        "colsample_bytree": hp.uniform("colsample_bytree", 0.3, 1),
        "subsample": hp.uniform("subsample", 0.5, 1),
        "min_child_samples": scope.int(hp.quniform("min_child_samples", 1, 20, 10)),
        "reg_alpha": hp.choice("reg_alpha", strengths),
        "reg_lambda": hp.choice("reg_lambda", strengths),
    }
    tried: list[tuple[float, float, dict[str, Any]]] = []  # loss, seconds of a fold, point
    fits: list[Any] = []

    def fitted(params: dict[str, Any], rows: np.ndarray, stop: Callable[..., None]) -> Any:
        classifier = lightgbm.LGBMClassifier(**params, objective="binary", random_state=seed, verbose=-1)
        fits.append(classifier.fit(learn[rows], y[rows], callbacks=[stop]))
        return fits[-1]

    def objective(params: dict[str, Any]) -> float:
        # The final fit has a third more rows than the fit of a fold, so it takes about a third longer. This time is
        # reserved.
        best = min(tried, key=lambda trial: trial[0], default=None)
        stop = _raising_at(end - (best[1] * 4 / 3 if best else 0))
        started = time.monotonic()
        folds = RepeatedKFold(n_splits=4, n_repeats=1, random_state=seed).split(learn)
        f1 = float(np.mean([f1_score(y[b], fitted(params, a, stop).predict(learn[b])) for a, b in folds]))
        tried.append((-f1, (time.monotonic() - started) / 4, params))
        return -f1

    with contextlib.suppress(TimeIsOver):
        hyperopt.fmin(
            objective,
            space,
            algo=hyperopt.tpe.suggest,
            max_evals=10_000,
            rstate=np.random.default_rng(seed),
            show_progressbar=False,
            verbose=False,
        )
    if tried:
        best = min(tried, key=lambda trial: trial[0])
        fitted(best[2], np.arange(len(y)), _keeping_what_is_there_at(end))
    if not fits:
        raise TimeIsOver("not one fold was fitted in time")
    return Ended(lambda x: fits[-1].predict_proba(np.nan_to_num(x, nan=-1))[:, 1], len(tried))


def flaml(data: Data, seconds: float, seed: int) -> Ended:
    """FLAML's AutoML with LightGBM as its only estimator."""
    from flaml import AutoML

    table = data.learn
    forward = {}
    if table.ended is not None:
        table = table.at(np.argsort(table.ended, kind="stable"))
        forward = {"split_type": "time"}
    # The training and the test rows need the same categories.
    both = np.vstack([table.x, data.test.x])
    kinds: dict[Any, Any] = {
        name: pd.CategoricalDtype(pd.Index(both[:, column]).dropna().unique())
        for column, name in enumerate(table.features)
        if name in table.categorical
    }

    def frame(x: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(x, columns=list(table.features)).astype(kinds)

    automl = AutoML()
    automl.fit(
        frame(table.x),
        table.y,
        task="classification",
        metric="roc_auc",
        estimator_list=["lgbm"],
        time_budget=seconds,
        retrain_full="budget",
        seed=seed,
        verbose=0,
        log_type="all",
        log_file_name="",
        n_jobs=os.cpu_count() or 1,
        **forward,
    )
    return Ended(lambda x: automl.predict_proba(frame(x))[:, 1], len(automl.config_history))


def optuna(data: Data, seconds: float, seed: int) -> Ended:
    """Optuna's LightGBMTunerCV with early stopping, and a final fit on all training rows."""
    import optuna as library
    from optuna_integration.lightgbm import LightGBMTunerCV

    end = time.monotonic() + seconds
    library.logging.set_verbosity(library.logging.ERROR)
    table = data.learn
    folds = forward_folds(table, 0) or grouped_folds(table, 4, seed)
    params = {"objective": "binary", "metric": "auc", "verbosity": -1, "seed": seed}
    patience = 30

    def rows() -> lightgbm.Dataset:
        return lightgbm.Dataset(
            table.x,
            table.y,
            feature_name=list(table.features),
            categorical_feature=list(table.categorical),
            free_raw_data=False,
        )

    reached = {"rounds": 0, "best": 1, "last_fit": 0.0}

    def watch(env: Any) -> None:
        # The final fit takes about a third of the time of a trial with 4 folds, each of which fits three quarters of
        # the rows. This time is reserved.
        reached["rounds"] = env.iteration + 1
        if time.monotonic() > end - reached["last_fit"]:
            raise TimeIsOver

    def note(study: Any, trial: Any) -> None:
        # The tuner keeps the best parameters, but not their number of boosting rounds.
        if study.best_trial.number == trial.number:
            reached["best"] = max(1, reached["rounds"] - patience)
            reached["last_fit"] = trial.duration.total_seconds() / 3

    study = library.create_study(direction="maximize")
    tuner = LightGBMTunerCV(
        params,
        rows(),
        num_boost_round=1000,
        folds=folds,
        callbacks=[watch, lightgbm.early_stopping(patience, verbose=False)],
        study=study,
        show_progress_bar=False,
        optuna_seed=seed,
        optuna_callbacks=[note],
    )
    with contextlib.suppress(TimeIsOver):
        tuner.run()
    keep = _keeping_what_is_there_at(end)
    rounds = int(reached["best"]) if study.best_trials else 1000
    booster = lightgbm.train({**params, **tuner.best_params}, rows(), rounds, callbacks=[keep])
    return Ended(lambda x: np.asarray(booster.predict(x)), len(study.trials))


def _raising_at(end: float) -> Callable[[Any], None]:
    """A LightGBM callback that raises TimeIsOver from `end` (monotonic time) on."""

    def stop(env: Any) -> None:
        if time.monotonic() > end:
            raise TimeIsOver

    return stop


def _keeping_what_is_there_at(end: float) -> Callable[[Any], None]:
    """A LightGBM callback that ends a fit at `end` (monotonic time). The trees so far are kept."""

    def stop(env: Any) -> None:
        if time.monotonic() > end:
            raise lightgbm.callback.EarlyStopException(env.iteration, [])

    return stop
