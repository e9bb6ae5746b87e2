"""Columns about the shop that were tried and not taken: what forward folds and the later test set say of them.

    python -m benchmarks.candidates /data/events

Prints the table of docs/features.md: the gain in ROC AUC over all columns of the project, mean of three seeds, on
forward folds of all training rows, on forward folds of the last 40 % of them (a short history), and on the test set.
Every candidate is as of the midnight before the row's day.
"""

from functools import partial

import duckdb
import numpy as np
import pandas as pd

from benchmarks.columns import SEEDS
from benchmarks.folds import fitted, out_of_fold, print_gains
from purchase_predict.evaluation import scores
from purchase_predict.search.folds import forward_folds
from purchase_predict.search.trial import LabelledRows
from purchase_predict.training import Dataset

#: Pairs of the shop's average that a group's own are mixed with.
MIXING = 20
SHORT_HISTORY = 0.4


def conversion(by: str, days: str = "UNBOUNDED") -> str:
    """SQL: bought pairs over carted pairs of a group in the days before, mixed with the shop's average."""
    group = f"(PARTITION BY {by} ORDER BY day RANGE BETWEEN {days} PRECEDING AND 1 PRECEDING)"
    shop = "(ORDER BY day RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    mixed = f"{MIXING} * sum(purchased) OVER {shop} / count(*) OVER {shop}"
    return f"(coalesce(sum(purchased) OVER {group}, 0) + {mixed}) / (count(*) OVER {group} + {MIXING})"


def pairs_before(by: str, days: str) -> str:
    """SQL: logarithm of the pairs of a group that were carted in the days before."""
    return f"ln(1 + count(*) OVER (PARTITION BY {by} ORDER BY day RANGE BETWEEN {days} PRECEDING AND 1 PRECEDING))"


CANDIDATES = {
    "conversion of the sub-category": conversion("sub_category"),
    "conversion of the brand": conversion("brand"),
    "conversion of the price band (by factors of two)": conversion("floor(log2(price + 1))"),
    "conversion of the product in the last 14 days": conversion("product_id", "14"),
    "conversion of the shop in the last 7 days": conversion("1", "7"),
    "carts of the product in the last 7 days": pairs_before("product_id", "7"),
    "price divided by the mean price of the sub-category": """ln((price + 1) / (1 + avg(price) OVER (
        PARTITION BY sub_category ORDER BY day RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)))""",
}


def candidate(sql: str, data: Dataset) -> tuple[pd.Series, pd.Series]:
    """The values of a candidate for the training and the test rows."""
    both = pd.concat([data.train, data.test], ignore_index=True)
    rows = both.assign(number=both.index, day=(both["event_time"] - pd.Timestamp(0)) // pd.Timedelta(days=1))
    rows = rows.drop(columns="user_session")
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        values = connection.sql(f"SELECT {sql} AS value FROM rows ORDER BY number").df()["value"].astype(float)
    return values[: len(data.train)], values[len(data.train) :]


def measured(train: LabelledRows, test: LabelledRows) -> np.ndarray:
    """ROC AUC on forward folds of all training rows, on those of the last ones, and on the test rows."""
    assert train.ended is not None
    last = train.at(np.argsort(train.ended, kind="stable")[-int(SHORT_HISTORY * len(train.y)) :])
    found = []
    for seed in SEEDS:
        of_folds = [out_of_fold(rows, forward_folds(rows, 0), seed) for rows in (train, last)]
        found.append([*of_folds, scores.score("roc_auc", test.y, fitted(train, test.x, seed))])
    return np.mean(found, axis=0)


if __name__ == "__main__":
    print_gains(
        "forward folds | forward folds, short history | later test set",
        {name: partial(candidate, sql) for name, sql in CANDIDATES.items()},
        measured,
    )
