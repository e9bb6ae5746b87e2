"""Measures how much the columns that were tried and not added would improve the ROC AUC.

    python -m benchmarks.candidates /data/events

Prints the table of the section "Columns that were tried and not added" in docs/features.md. Each candidate is added to
all columns of the project, and the gain in ROC AUC is measured (mean of 3 seeds): on forward folds of all training
rows, on forward folds of the last 40 % of the training rows (a short history), and on the test set. Of other rows, a
candidate uses only those of the days (UTC) before the row's day.
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

#: Smoothing: this many pairs with the shop's average conversion are added to a group's own pairs.
MIXING = 20
#: The share of the training rows, the last ones in time, that make up the short history.
SHORT_HISTORY = 0.4


def conversion(by: str, days: str = "UNBOUNDED") -> str:
    """The SQL of a group's conversion on earlier days: bought pairs per carted pair, smoothed with the shop's average.

    Args:
        by: the SQL expression by which pairs are grouped.
        days: the number of days before the row's day that count; "UNBOUNDED": all.
    """
    group = f"(PARTITION BY {by} ORDER BY day RANGE BETWEEN {days} PRECEDING AND 1 PRECEDING)"
    shop = "(ORDER BY day RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    mixed = f"{MIXING} * sum(purchased) OVER {shop} / count(*) OVER {shop}"
    return f"(coalesce(sum(purchased) OVER {group}, 0) + {mixed}) / (count(*) OVER {group} + {MIXING})"


def pairs_before(by: str, days: str) -> str:
    """The SQL of ln(1 + n): n of the group's pairs were carted in the `days` days before the row's day."""
    return f"ln(1 + count(*) OVER (PARTITION BY {by} ORDER BY day RANGE BETWEEN {days} PRECEDING AND 1 PRECEDING))"


#: The SQL of each candidate, by its name in the table.
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
    """ROC AUC on forward folds of all training rows and of the short history, and on the test rows; mean over seeds."""
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
