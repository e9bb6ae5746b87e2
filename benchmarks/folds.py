"""Measures how much calendar columns seem to improve the ROC AUC: on random folds, forward folds and the test set.

    python -m benchmarks.folds /data/events

Prints the table of the section "Forward folds" in docs/features.md: the gain in ROC AUC from each added column, as the
mean of 3 seeds. Random folds are grouped by user. The test set is later than the training rows.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
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
from purchase_predict.training import Dataset

#: Functions that compute a calendar column from the moments, by the name of the column in the table.
CALENDAR: dict[str, Callable[[pd.Series], pd.Series]] = {
    "day of the month": lambda moment: moment.dt.day,
    "days since 1970": lambda moment: (moment - pd.Timestamp(0)) // pd.Timedelta(days=1),
    "hours since 1970": lambda moment: (moment - pd.Timestamp(0)) // pd.Timedelta(hours=1),
}


def with_column(rows: LabelledRows, values: pd.Series) -> LabelledRows:
    """The rows with one more feature, a number."""
    x = np.column_stack([rows.x, values.to_numpy(float)])
    return replace(rows, x=x, features=[*rows.features, "put_in"])


def fitted(rows: LabelledRows, judged: np.ndarray, seed: int) -> np.ndarray:
    """Fits a model on `rows`; returns the probabilities of the rows in `judged` (encoded, rows by features)."""
    booster = lightgbm.train(PARAMETERS | {"seed": seed}, lightgbm_dataset(rows), ROUNDS)
    return np.asarray(booster.predict(judged, num_threads=1))


def out_of_fold(rows: LabelledRows, folds: list[tuple[np.ndarray, np.ndarray]], seed: int) -> float:
    """ROC AUC of the out-of-fold predictions of all folds together."""
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


def print_gains(
    head: str,
    columns: Mapping[str, Callable[[Dataset], tuple[pd.Series, pd.Series]]],
    measure: Callable[[LabelledRows, LabelledRows], np.ndarray],
) -> None:
    """Prints how much each column adds to the ROC AUC if it alone is added. The command line names the events.

    Args:
        head: the headings of the measurements, separated by ` | `.
        columns: for each column by name, the function that computes its values for the training and the test rows.
        measure: takes training and test rows; returns one ROC AUC for each heading.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = dataset_of(sys.argv[1], Path(folder))
    train, test = data.encoded(data.train), data.encoded(data.test)
    without = measure(train, test)
    print(f"| added column | {head} |\n|---|---|---|---|")
    print(f"| none (ROC AUC itself) | {' | '.join(f'{value:.4f}' for value in without)} |")
    for name, column in columns.items():
        of_train, of_test = column(data)
        gain = measure(with_column(train, of_train), with_column(test, of_test)) - without
        print(f"| {name} | {' | '.join(f'{value:+.4f}' for value in gain)} |", flush=True)


def of_moment(made: Callable[[pd.Series], pd.Series]) -> Callable[[Dataset], tuple[pd.Series, pd.Series]]:
    """A column that is computed from the moment alone, as `print_gains` takes it."""
    return lambda data: (made(data.train[MOMENT]), made(data.test[MOMENT]))


if __name__ == "__main__":
    print_gains(
        "random folds | forward folds | later test set",
        {name: of_moment(made) for name, made in CALENDAR.items()},
        measured,
    )
