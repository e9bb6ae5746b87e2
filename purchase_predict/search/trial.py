"""A trial of the search, and the table that it is made on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from purchase_predict.metrics import LOSSES


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


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the lowest loss, the first of several; None where none finished."""
    return next(iter(best_first(trials)), None)


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """The finished trials, the one with the lowest loss first."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.loss is not None]
    return sorted(finished, key=lambda trial: (trial.loss, trial.number))


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


#: Columns of the trials' table that no point has.
_NOT_PARAMETERS = ("number", "state", "score", "first_folds_score", "rounds", "seconds")


def best_so_far(scores: np.ndarray, metric: str) -> np.ndarray:
    """The best of the scores up to each."""
    better = np.minimum if metric in LOSSES else np.maximum
    best: np.ndarray = better.accumulate(scores)
    return best


def tried_parameters(trials: pd.DataFrame) -> list[str]:
    """The parameters that differ between finished trials."""
    finished = trials[trials["state"] == "finished"]
    return [name for name in trials.columns if name not in _NOT_PARAMETERS and finished[name].nunique() > 1]


def spans_decades(name: str, values: np.ndarray) -> bool:
    """Whether a parameter is looked at on a scale of powers of ten; `max_depth` is not, -1 means no limit there."""
    positive = values[values > 0]
    return name != "max_depth" and len(positive) > 0 and bool(positive.max() > 20 * positive.min())
