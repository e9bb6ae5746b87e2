"""The out-of-fold score on each fold of the search.

Each prediction is the mean, in log-odds, of the out-of-fold predictions of the trials that the model is made of
(`ensemble.mean_probability`).
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from purchase_predict.evaluation.scores import baselines, score
from purchase_predict.search.folds import Folds, follows_time
from purchase_predict.search.trial import LabelledRows


@dataclass(frozen=True)
class FoldScore:
    """A fold of the search, and the score on it.

    Attributes:
        start: the earliest time at which a session of the validation rows ended (UTC, ISO 8601); empty if the folds
            do not follow time.
        end: the latest such time; empty in the same case.
        train_rows: the number of training rows.
        rows: the number of validation rows.
        base_rate: the share of purchases among the validation rows, 0 to 1.
        score: the metric of the search on the validation rows; F1 is at the threshold that is best for this fold.
        baseline: the baseline of the same metric.
    """

    start: str
    end: str
    train_rows: int
    rows: int
    base_rate: float
    score: float
    baseline: float


def fold_scores(rows: LabelledRows, folds: Folds, out_of_fold: np.ndarray, metric: str) -> list[FoldScore]:
    """Scores each fold by itself. Folds that follow time are sorted by time.

    Args:
        rows: the rows that were searched on.
        folds: for each fold the positions of its training rows and of its validation rows.
        out_of_fold: the out-of-fold probability of each of `rows`, 0 to 1. The value of a row that no fold validates on
            is not used.
        metric: the metric of the search.
    """

    forward = follows_time(rows, folds)

    def scored(train: np.ndarray, judged: np.ndarray) -> FoldScore:
        y, start, end = rows.y[judged], "", ""
        if forward and rows.ended is not None:
            start, end = (_text(time) for time in (rows.ended[judged].min(), rows.ended[judged].max()))
        value = score(metric, y, out_of_fold[judged])
        baseline = baselines(float(rows.y[train].mean()), y)[metric]
        return FoldScore(start, end, len(train), len(judged), float(y.mean()), value, float(baseline))

    return sorted((scored(*fold) for fold in folds), key=lambda fold: fold.start)


def _text(nanoseconds: int) -> str:
    return datetime.fromtimestamp(int(nanoseconds) // 10**9, UTC).isoformat()
