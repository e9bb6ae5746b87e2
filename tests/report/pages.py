"""The contents of the report, drift and promotion pages for tests. Some names contain markup, as in an attack."""

from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import lightgbm
import numpy as np
import pandas as pd

from purchase_predict import metrics
from purchase_predict.evaluation import drift, profile, promo_codes, scores, weaknesses
from purchase_predict.evaluation.backtest import Backtest, Period
from purchase_predict.evaluation.calibration import Calibration
from purchase_predict.evaluation.curves import confusion, curves
from purchase_predict.evaluation.promo_codes import Money
from purchase_predict.features.description import BaseRate, Description, Rows, Users
from purchase_predict.models.scoring import Scored
from purchase_predict.prediction import Past, Prediction
from purchase_predict.reading.load import Loaded
from purchase_predict.report import promotion_page
from purchase_predict.report.contents import Contents, contributions
from purchase_predict.report.lineage import Origin, Step
from purchase_predict.search.fold_scores import FoldScore

SCRIPT = "<script>alert('x')</script>"
#: A long name that a browser cannot break into lines. It breaks lines at hyphens, but not at underscores.
UNBROKEN = "Sportbekleidung_Damen_Laufbekleidung_Wintersport_" * 2
#: The parameters of a prediction.
FACTS = {
    "model": "models:/purchase_predict/2",
    "input": "/data/" + SCRIPT + UNBROKEN,
    "history": "",
    "output": "/data/out.csv",
}


def past(weeks: int = 9) -> Backtest:
    """A backtest whose scores improve. The first week has too few buyers; the second week's model is a constant."""
    start, scores = datetime(2019, 8, 26, tzinfo=UTC), {}
    periods = []
    for week in range(weeks):
        if week:
            value = 0.6 + 0.02 * week
            area = metrics.Score(value, value - 0.03, value + 0.03, 0.5)
            scores = {"roc_auc": area, "average_precision": area, "log_loss": metrics.Score(0.6, 0.5, 0.7, 0.65)}
        periods.append(
            Period(
                start + week * timedelta(7),
                start + (week + 1) * timedelta(7),
                1200 * week,
                1100,
                0.25,
                scores,
                week == 1,
            )
        )
    return Backtest("week", "roc_auc", periods, 2, 3.0)


def contents(
    rows: int = 600,
    random: bool = False,
    suspicious: dict[str, float] | None = None,
    correction: dict[str, float] | None = None,
    money: Money | None = None,
) -> Contents:
    """The contents of a report page, from a real booster. Some names contain markup: a category, a feature, a step."""
    rng = np.random.default_rng(0)
    price, views = rng.random(rows) * 100, rng.integers(0, 9, rows).astype(float)
    brand = rng.integers(0, 4, rows).astype(float)
    x = np.column_stack([price, views, brand])
    chance = np.full(rows, 0.5) if random else 1 / (1 + np.exp(0.06 * (price - 50)))
    y = (rng.random(rows) < chance).astype(int)
    features = ["price", "num_views_product", SCRIPT]
    data = lightgbm.Dataset(x, y, categorical_feature=[2])
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 20)
    probability = rng.random(rows) if random else np.asarray(booster.predict(x))
    users = rng.integers(0, 200, rows)
    frame = pd.DataFrame(
        {
            "user_id": users,
            "category": rng.choice([SCRIPT, UNBROKEN, None], rows),
            "price": price,
            "num_prev_sessions": rng.integers(0, 2, rows),
            "num_views_product": views,
            SCRIPT: rng.choice(["</title>", "acme", "newcomer", None], rows),
        }
    )
    values = ("acme", "umbra", "</title>", "zenit")
    connection = duckdb.connect()
    connection.register("train", frame)
    binned = drift.profile(connection, "train", ["price", "num_views_product"])
    binned[SCRIPT] = {"values": list(values), "shares": [*np.bincount(brand.astype(int)) / rows, 0.0, 0.0]}
    pushes, ranks = contributions(booster, x, features, [SCRIPT])
    return Contents(
        metric="roc_auc",
        scores=scores.evaluate(y, probability, users, 0.4, 0.5),
        threshold=0.4,
        expected=float(probability.sum()),
        confusion=confusion(y, probability, 0.4),
        calibration=Calibration(correction, metrics.Difference(0.0123, -0.001, 0.03)),
        calibration_error_before=0.2222,
        curves=curves(y, probability),
        slices=weaknesses.slices(frame, y, probability),
        tradeoff=promo_codes.tradeoff(y, probability, users),
        choices=promo_codes.choices(y, probability, users),
        money=money,
        suspicious=suspicious or {},
        contributions=pushes,
        feature_ranks=ranks,
        folds=[
            FoldScore(f"2019-10-{day}T00:00:00+00:00", f"2019-10-{day + 3}T12:30:00+00:00", 900, 180, 0.5, 0.71, 0.5)
            for day in (12, 16, 20)
        ],
        fold_kind="3 folds that follow time",
        backtest=past(),
        trials=pd.DataFrame(
            {
                "number": [0, 1, 2, 3],
                "state": ["finished", "finished", "pruned", "failed"],
                "score": [0.70, 0.72, None, None],
                "first_folds_score": [0.70, 0.72, 0.6, None],
                "rounds": [50, 60, 20, 0],
                "seconds": [1.0, 1.0, 0.5, 0.1],
                "learning_rate": [0.1, 0.004, 0.3, 0.2],
                "lambda_l1": [0.0, 1.0, 0.1, 0.1],
                "lambda_l2": [0.0, 1.9e-7, 0.1, 0.1],
            }
        ),
        members=[
            {"trial": 2, "boosting rounds": 120, "learning_rate": 0.05, "num_leaves": 31},
            {"trial": 1, "boosting rounds": 100, "learning_rate": 0.002, "num_leaves": 128},
        ],
        columns=profile.profile(x, frame, features, {SCRIPT: list(values)}, binned),
        description=Description(
            split="time",
            test_ratio=0.3,
            cut="2019-10-24 00:00:00",
            rows=Rows(2010, 10, 1400, rows),
            users=Users(500, 200),
            base_rate=BaseRate(0.5, float(y.mean())),
            features=features,
            categories={},
            profile={},
        ),
        origin=Origin(
            steps=[
                Step("load", "reused", "0123456789abcdef0123456789abcdef", "https://mlflow.example.org/#/x?a=1&b=2"),
                Step(SCRIPT, "ran", "fedc", "javascript:alert(1)"),
            ],
            made=datetime(2026, 11, 29, 9, 5, tzinfo=UTC),
            source="/data/" + SCRIPT + UNBROKEN,
            commit="0123456789abcdef0123456789abcdef01234567",
            rows_read=20_000,
            rows_refused=13,
            reasons={"price must be a price, 0 or more": 11, f"brand {SCRIPT}": 1, f"brand {UNBROKEN}": 1},
        ),
    )


def prediction(rows: int = 5000, moved: bool = True) -> Prediction:
    """The result of scoring carts. If `moved`, brand moved far and price slightly. A brand's name contains markup."""
    values = [SCRIPT, *(f"brand {number}" for number in range(20))]
    reference = {
        "price": {"edges": [5.13, 12.0, 900.0], "shares": [0.25, 0.25, 0.25, 0.24, 0.01]},
        "brand": {"values": values, "shares": [0.3, *[0.025] * 20, 0.1, 0.1]},
        "weekday": {"edges": [], "shares": [1.0, 0.0]},
    }
    shares = {name: list(bins["shares"]) for name, bins in reference.items()}
    if moved:
        shares["price"] = [0.15, 0.25, 0.2, 0.39, 0.01]
        shares["brand"] = [0.7, *[0.0025] * 20, 0.15, 0.1]
    spread = tuple(np.bincount(np.arange(rows) % 25, minlength=25).tolist())
    return Prediction(
        loaded=Loaded("events", 20_000, 12, "ab", "cd"),
        past=Past("", datetime(2019, 10, 1, tzinfo=UTC)),
        scored=Scored(rows, 2532, ("num_prev_purchases",), 1988.4, spread),
        seconds=1.0,
        threshold=0.341,
        reference=reference,
        shares=shares,
    )


def promotion_facts(contest: bool = True, **changes: object) -> dict[str, Any]:
    """The content of promotion.json for a challenger that is better in every metric except F1."""
    difference = {"value": 0.0084, "low": 0.0015, "high": 0.0156}
    each = {"challenger": 0.7607, "champion": 0.7523, "difference": difference}
    worse = {**each, "difference": {"value": -0.01, "low": -0.02, "high": 0.002}}
    champion = {"version": 2, "value": 0.7523, "gain": 0.0084, "low": 0.0015, "high": 0.0156}
    champion |= {"challenger": 0.7607, "rows": 1200, "of": 2062}
    champion["metrics"] = {name: worse if name == "f1" else each for name in metrics.METRICS}
    return {
        "registry_name": "shop",
        "version": 3,
        "env": "staging",
        "metric": "roc_auc",
        "tolerance": 0.0,
        "min_roc_auc": 0.0,
        "champion": champion if contest else None,
        "passed": True,
        "promoted": True,
        "waits": False,
        "reason": f"better than {SCRIPT} {UNBROKEN}",
        **changes,
    }


def promotion(**changes: Any) -> str:
    """The promotion page of a deploy run, as HTML."""
    scores = {name: metrics.Score(0.76, 0.74, 0.78, 0.5) for name in metrics.METRICS}
    step = Step("train", "ran", "0123456789abcdef", "https://mlflow.example.org/#/runs/0123456789abcdef")
    return promotion_page.render(promotion_facts(**changes), scores, step)
