"""Compares LightGBM, with fixed parameters, with and without the columns about the product (`schema.SHOP`).

    python -m benchmarks.columns /data/events

Prints the table of the section "How much they improve the model" in docs/features.md. The test set is the one that
`process` makes. Each row is the mean of 3 seeds.
"""

import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd

from purchase_predict.database import connect
from purchase_predict.evaluation import scores
from purchase_predict.features import primary, split
from purchase_predict.models.purchase_model import encode
from purchase_predict.reading.load import load_source
from purchase_predict.schema import LABEL, MOMENT, SHOP
from purchase_predict.training import Dataset

SEEDS = (0, 1, 2)
#: Boosting rounds of each fit.
ROUNDS = 200
PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.03,
    "num_leaves": 15,
    "min_child_samples": 40,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5,
    "num_threads": 1,
    "verbosity": -1,
}
#: The number of times that the training labels are shuffled (control).
SHUFFLES = 8
#: The range of `product_relative_price` (a logarithm) in discounted carts. In the shop of the real events, discounted
#: products cost about 0.80 times the usual price.
DISCOUNTED = (math.log(0.75), math.log(0.85))
METRICS = ("roc_auc", "average_precision", "log_loss")


def dataset_of(source: str, folder: Path) -> Dataset:
    """The dataset that the workflow makes from a source of events; `folder` is an empty folder."""
    for name in ("loaded", "scratch", "dataset"):
        (folder / name).mkdir()
    load_source(source, folder / "loaded", folder / "scratch", 0.01)
    with connect(folder) as connection:
        primary.make(connection, folder / "loaded/events")
        split.split(connection, 0.3, folder / "dataset").description.write(folder / "dataset")
    return Dataset.read(folder / "dataset")


def measured(data: Dataset, columns: Sequence[str]) -> np.ndarray:
    """The metrics on the test set, in the order of `METRICS`, mean over the seeds."""
    categories = data.description.categories
    train, test = (encode(rows, columns, categories) for rows in (data.train, data.test))
    categorical = [number for number, name in enumerate(columns) if name in categories]
    found = []
    for seed in SEEDS:
        learning = lightgbm.Dataset(train, data.train[LABEL], categorical_feature=categorical)
        booster = lightgbm.train(PARAMETERS | {"seed": seed}, learning, ROUNDS)
        probability = np.asarray(booster.predict(test))
        found.append([scores.score(metric, data.test[LABEL].to_numpy(), probability) for metric in METRICS])
    return np.mean(found, axis=0)


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        data = dataset_of(sys.argv[1], Path(folder))
    without = [name for name in data.description.features if name not in SHOP]
    print("| columns | ROC AUC | average precision | log loss |\n|---|---|---|---|")
    others, columns = len(without), [*without, *SHOP]
    print(line(f"the {others} other columns", measured(data, without)))
    for name in SHOP:
        print(line(f"{others} + `{name}`", measured(data, [*without, name])))
    print(line(f"{others} + all four", measured(data, columns)))
    of_another = measured(shuffled_products(data), columns)
    print(line(f"{others} + all four, taken from another cart of the same day (control)", of_another))
    shuffled = np.mean([measured(shuffled_label(data, number), columns) for number in range(SHUFFLES)], axis=0)
    print(line(f"all {len(columns)}, with shuffled training labels (mean of {SHUFFLES} shuffles)", shuffled))
    ordinary = ordinary_carts(data)
    carts = f"{len(ordinary.test)} of {len(data.test)} test carts"
    print(line(f"the {others} other columns, on ordinary carts ({carts})", measured(ordinary, without)))
    print(line(f"{others} + all four, on ordinary carts", measured(ordinary, columns)))


def shuffled_products(data: Dataset) -> Dataset:
    """Shuffles the product columns among the carts of each day (control).

    The columns then say nothing about the product of a cart, but still as much about its day.
    """
    rng = np.random.default_rng(0)

    def shuffled(rows: pd.DataFrame) -> pd.DataFrame:
        rows, day = rows.reset_index(drop=True), rows[MOMENT].dt.date.to_numpy()
        order = np.arange(len(rows))
        for one in np.unique(day):
            order[day == one] = rng.permutation(order[day == one])
        return rows.assign(**{name: rows[name].to_numpy()[order] for name in SHOP})

    return replace(data, train=shuffled(data.train), test=shuffled(data.test))


def ordinary_carts(data: Dataset) -> Dataset:
    """Leaves out discounted carts, and carts with products that nobody has ever bought.

    They are special to the shop of the real events.
    """
    both = pd.concat([data.train, data.test])
    bought = set(both.loc[both[LABEL] == 1, "product_id"])

    def kept(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["product_id"].isin(bought) & ~rows["product_relative_price"].between(*DISCOUNTED)]

    return replace(data, train=kept(data.train), test=kept(data.test))


def shuffled_label(data: Dataset, number: int) -> Dataset:
    """Shuffles the training labels, so that nothing is left to learn; `number` is the seed."""
    labels = np.random.default_rng(number).permutation(data.train[LABEL])
    return replace(data, train=data.train.assign(**{LABEL: labels}))


def line(name: str, values: np.ndarray) -> str:
    """A row of the table."""
    return f"| {name} | {' | '.join(f'{value:.4f}' for value in values)} |"


if __name__ == "__main__":
    main()
