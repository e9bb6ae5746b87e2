"""A trial of the search, and the table that it is made on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


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
