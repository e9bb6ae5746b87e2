"""What each fold of the search says of the chosen trial."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from purchase_predict.evaluation.scores import baselines, score
from purchase_predict.search.trial import LabelledRows


@dataclass(frozen=True)
class FoldScore:
    """A fold of the search, and the score of the chosen trial on it.

    Attributes:
        start: when the first session ended that the fold was judged on (UTC, ISO 8601); empty where rows have no time.
        end: when the last of them ended.
        train_rows: the rows that the fold was trained on.
        rows: the rows that it was judged on.
        base_rate: the share of those that are purchases, 0 to 1.
        score: the metric of the search.
        baseline: the same metric of a constant answer.
    """

    start: str
    end: str
    train_rows: int
    rows: int
    base_rate: float
    score: float
    baseline: float


def fold_scores(
    rows: LabelledRows, folds: Sequence[tuple[np.ndarray, np.ndarray]], out_of_fold: np.ndarray, metric: str
) -> list[FoldScore]:
    """Scores each fold by itself, in the order of time.

    Args:
        rows: the rows that were searched on.
        folds: for each fold the positions of the rows that it was trained on, and judged on.
        out_of_fold: the probability of each judged row, 0 to 1.
        metric: the metric of the search.
    """

    def scored(train: np.ndarray, judged: np.ndarray) -> FoldScore:
        y, start, end = rows.y[judged], "", ""
        if rows.ended is not None:
            start, end = (_text(time) for time in (rows.ended[judged].min(), rows.ended[judged].max()))
        value = score(metric, y, out_of_fold[judged])
        baseline = baselines(float(rows.y[train].mean()), y)[metric]
        return FoldScore(start, end, len(train), len(judged), float(y.mean()), value, float(baseline))

    return sorted((scored(*fold) for fold in folds), key=lambda fold: fold.start)


def _text(nanoseconds: int) -> str:
    return datetime.fromtimestamp(int(nanoseconds) // 10**9, UTC).isoformat()
