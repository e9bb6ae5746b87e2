"""What kinds of folds say of columns that move with time: random ones by user, forward ones, and the later test set.

    python -m benchmarks.folds /data/events

Prints the table of docs/features.md: for each column that is put in, the gain in ROC AUC, mean of three seeds.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd

from benchmarks.columns import PARAMETERS, ROUNDS, SEEDS, dataset_of
from purchase_predict.evaluation import scores
from purchase_predict.schema import MOMENT
from purchase_predict.search.folds import forward_folds, grouped_folds
from purchase_predict.search.objective import lightgbm_dataset
from purchase_predict.search.trial import LabelledRows

#: Columns that move with time.
CALENDAR: dict[str, Callable[[pd.Series], pd.Series]] = {
    "day of the month": lambda moment: moment.dt.day,
    "days since 1970": lambda moment: (moment - pd.Timestamp(0)) // pd.Timedelta(days=1),
    "hours since 1970": lambda moment: (moment - pd.Timestamp(0)) // pd.Timedelta(hours=1),
}


def with_column(rows: LabelledRows, values: pd.Series) -> LabelledRows:
    """The rows with one more number each."""
    x = np.column_stack([rows.x, values.to_numpy(float)])
    return replace(rows, x=x, features=[*rows.features, "put_in"])


def fitted(rows: LabelledRows, judged: np.ndarray, seed: int) -> np.ndarray:
    """The probabilities of other rows by a fit on these."""
    booster = lightgbm.train(PARAMETERS | {"seed": seed}, lightgbm_dataset(rows), ROUNDS)
    return np.asarray(booster.predict(judged, num_threads=1))


def out_of_fold(rows: LabelledRows, folds: list[tuple[np.ndarray, np.ndarray]], seed: int) -> float:
    """ROC AUC of the judged rows of all folds together."""
    found = np.full(len(rows.y), np.nan)
    for train, judged in folds:
        found[judged] = fitted(rows.at(train), rows.x[judged], seed)
    judged = ~np.isnan(found)
    return scores.score("roc_auc", rows.y[judged], found[judged])


def measured(train: LabelledRows, test: LabelledRows) -> np.ndarray:
    """ROC AUC on random folds, on forward folds, and on the test rows; mean over the seeds."""
    found = []
    for seed in SEEDS:
        random, forward = grouped_folds(train, 4, seed), forward_folds(train, 0)
        late = scores.score("roc_auc", test.y, fitted(train, test.x, seed))
        found.append([out_of_fold(train, random, seed), out_of_fold(train, forward, seed), late])
    return np.mean(found, axis=0)


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        data = dataset_of(sys.argv[1], Path(folder))
    train, test = data.encoded(data.train), data.encoded(data.test)
    without = measured(train, test)
    print("| put in | random folds | forward folds | later test |\n|---|---|---|---|")
    print(f"| nothing (ROC AUC) | {' | '.join(f'{value:.4f}' for value in without)} |")
    for name, column in CALENDAR.items():
        gain = measured(with_column(train, column(data.train[MOMENT])), with_column(test, column(data.test[MOMENT])))
        print(f"| {name} | {' | '.join(f'{value:+.4f}' for value in gain - without)} |")


if __name__ == "__main__":
    main()
