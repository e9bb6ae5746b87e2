"""A trial of the search, the rows that it is scored on, and what is computed from many trials."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from purchase_predict.metrics import METRICS


@dataclass(frozen=True)
class LabelledRows:
    """Encoded rows of the primary table with their labels.

    Attributes:
        x: features, float64, rows by features.
        y: labels, 0 or 1.
        user: the user of each row.
        features: the names of the columns of `x`.
        categorical: the features that are codes of categories.
        ended: when the session of each row ended, in nanoseconds since 1970 (UTC); None: the rows have no time.
    """

    x: np.ndarray
    y: np.ndarray
    user: np.ndarray
    features: Sequence[str]
    categorical: Sequence[str]
    ended: np.ndarray | None = None

    def at(self, chosen: np.ndarray) -> "LabelledRows":
        """Some of the rows, by a mask or by positions."""
        ended = None if self.ended is None else self.ended[chosen]
        return replace(self, x=self.x[chosen], y=self.y[chosen], user=self.user[chosen], ended=ended)

    def followed_by(self, later: "LabelledRows") -> "LabelledRows":
        """These rows, followed by others with the same columns. The result has times only if both have them."""
        ended = None
        if self.ended is not None and later.ended is not None:
            ended = np.concatenate([self.ended, later.ended])
        x, y, user = (np.concatenate(pair) for pair in ((self.x, later.x), (self.y, later.y), (self.user, later.user)))
        return replace(self, x=x, y=y, user=user, ended=ended)


@dataclass(frozen=True)
class Trial:
    """One point of the search space and its score.

    Attributes:
        number: from 0, in the order of suggestion.
        state: "finished", "pruned" (it trailed the best trial after the first folds) or "failed".
        point: a value for each parameter of the search space.
        params: the same point as LightGBM's parameters.
        loss: the value that TPE minimises: minus the utility of the score (`metrics.utility`). A pruned trial has
            the loss of the best trial so far plus the utility by which it trailed that trial. A failed trial has None.
        score: the metric of the out-of-fold predictions of all folds together; None unless finished.
        rounds: boosting rounds, the mean over the folds.
        seconds: wall time.
        error: the kind and text of the exception of a failed trial.
        first_folds_score: the metric of the first folds together. Pruning compares it with the best trial's.
        fold_utilities: for each fitted fold the best utility (more is better) of its early-stopping metric. A later
            trial gets less patience in a fold while it is behind the best trial's utility in the same fold.
        out_of_fold: the probability of each row, predicted by a fold that did not train on it; NaN for a row that no
            fold validates on; None if the trial did not finish or was read from its MLflow run.
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
    first_folds_score: float | None = None
    fold_utilities: list[float] = field(default_factory=list)
    out_of_fold: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def facts(self) -> dict[str, Any]:
        """The trial without its predictions, as JSON values: `Trial(**facts)` restores it."""
        return {member.name: getattr(self, member.name) for member in fields(self) if member.name != "out_of_fold"}


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the lowest loss, the earliest of equals; None if no trial finished."""
    return next(iter(best_first(trials)), None)


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """The finished trials, sorted by loss, then by number."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.loss is not None]
    return sorted(finished, key=lambda trial: (trial.loss, trial.number))


def trials_frame(trials: Sequence[Trial]) -> pd.DataFrame:
    """The trials as a frame, one row each in their order: the columns of `_RESULT_COLUMNS`, then each parameter."""
    return pd.DataFrame(
        [
            {
                "number": trial.number,
                "state": trial.state,
                "score": trial.score,
                "first_folds_score": trial.first_folds_score,
                "rounds": trial.rounds,
                "seconds": trial.seconds,
                **trial.params,
            }
            for trial in trials
        ]
    )


#: Columns of `trials_frame` that are not parameters.
_RESULT_COLUMNS = ("number", "state", "score", "first_folds_score", "rounds", "seconds")


def best_so_far(scores: np.ndarray, metric: str) -> np.ndarray:
    """The running best: for each score, the best of this score and all scores before it."""
    better = np.minimum if METRICS[metric].less_is_better else np.maximum
    best: np.ndarray = better.accumulate(scores)
    return best


def tried_parameters(trials: pd.DataFrame) -> list[str]:
    """The parameters of `trials_frame` that differ between finished trials."""
    finished = trials[trials["state"] == "finished"]
    return [name for name in trials.columns if name not in _RESULT_COLUMNS and finished[name].nunique() > 1]


def spans_decades(name: str, values: np.ndarray) -> bool:
    """Whether a parameter needs a log scale: its largest value is more than 20 times its smallest positive value.

    `max_depth` never needs a log scale, because its value -1 means no limit.
    """
    positive = values[values > 0]
    return name != "max_depth" and len(positive) > 0 and bool(positive.max() > 20 * positive.min())
