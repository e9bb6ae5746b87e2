"""The searches that benchmarks/search.py compares this one with: the course's loop, FLAML and Optuna's tuner.

Where the rows have a time, FLAML and Optuna look forward, too: Optuna on this search's own folds, FLAML on its own
(`split_type="time"`, which takes the rows in their order).
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
    learn: LabelledRows
    test: LabelledRows


@dataclass(frozen=True)
class Ended:
    """A search that is over: its model as a function of encoded rows, and the trials begun, pruned ones included."""

    predict: Callable[[np.ndarray], np.ndarray]
    trials: int


class TimeIsOver(Exception):
    """Raised within a peer's trial, which then does not count."""


def course(data: Data, seconds: float, seed: int) -> Ended:
    """The loop of the course: codes of categories as numbers, four folds, F1, no early stopping."""
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
        # The last fit takes a third longer than one of a fold; its time is kept free.
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
    from flaml import AutoML

    table = data.learn
    forward = {}
    if table.ended is not None:
        table = table.at(np.argsort(table.ended, kind="stable"))
        forward = {"split_type": "time"}
    # Both sides must know the same categories.
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
        # The last fit, a fold's by a third more rows, is about a third of a trial; its time is kept free.
        reached["rounds"] = env.iteration + 1
        if time.monotonic() > end - reached["last_fit"]:
            raise TimeIsOver

    def note(study: Any, trial: Any) -> None:
        # The tuner keeps the best parameters, not the rounds that they took.
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
    def stop(env: Any) -> None:
        if time.monotonic() > end:
            raise TimeIsOver

    return stop


def _keeping_what_is_there_at(end: float) -> Callable[[Any], None]:
    def stop(env: Any) -> None:
        if time.monotonic() > end:
            raise lightgbm.callback.EarlyStopException(env.iteration, [])

    return stop
