"""The report page of a training.

The page's templates are `page.html.jinja` and the files that it includes; its style is `layout.css`. This module
computes the values that the templates show.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from purchase_predict.evaluation.backtest import Backtest
from purchase_predict.evaluation.curves import Curve, Curves
from purchase_predict.evaluation.few_users import MIN_USERS
from purchase_predict.evaluation.profile import ColumnProfile
from purchase_predict.evaluation.promo_codes import DETECTED_EFFECT, Tradeoff
from purchase_predict.evaluation.stability import LIMITS
from purchase_predict.evaluation.weaknesses import Slice
from purchase_predict.metrics import METRICS, Score
from purchase_predict.report import layout
from purchase_predict.report.contents import Contents
from purchase_predict.report.distributions import beside, overlaid, swarm
from purchase_predict.report.drawing import chart, intervals, lines, scatter
from purchase_predict.search.trial import best_so_far, spans_decades, tried_parameters

#: The share of carts with a code, 0 to 1, in the examples of the page; one of `promo_codes.CODE_SHARES`.
EXAMPLE_SHARE = 0.2
#: The number of features in the table and the drawing of contributions. The features with the largest mean absolute
#: contributions are shown.
SHOWN_FEATURES = 10


def render(contents: Contents) -> str:
    """The page as an HTML document."""
    return layout.render(
        "page.html.jinja",
        contents=contents,
        description=contents.description,
        origin=contents.origin,
        codes=_codes(contents),
        moved=LIMITS,
        curves=_curves(contents.curves, contents.threshold, contents.description.base_rate.test),
        weak=_weak(contents.slices, contents.scores["roc_auc"]),
        contributions=_contributions(contents),
        search=_search(contents.trials, contents.metric),
        past=_past(contents.backtest) if contents.backtest and contents.backtest.scored else None,
        columns=_columns(contents.columns),
    )


def _codes(contents: Contents) -> dict[str, Any]:
    example = next(choice for choice in contents.choices if abs(choice.codes - EXAMPLE_SHARE) < 1e-9)
    return {"drawing": _tradeoff(contents.tradeoff), "example": example, "effect": DETECTED_EFFECT}


def _tradeoff(points: Sequence[Tradeoff]) -> str:
    return chart(
        Curve(np.array([point.codes for point in points]), np.array([point.buyers_kept for point in points])),
        "share of carts that get a code",
        "buyers who get no code",
        reference=[(0, 1), (1, 0)],
        interval=([point.low for point in points], [point.high for point in points]),
    )


def _curves(curves: Curves, threshold: float, base_rate: float) -> dict[str, str]:
    """The drawings of the curves, by name."""
    diagonal, classes = [(0.0, 0.0), (1.0, 1.0)], (curves.bought, curves.not_bought)
    return {
        "roc": chart(curves.roc, "false positive rate", "true positive rate", diagonal),
        "precision_recall": chart(curves.precision_recall, "recall", "precision", [(0, base_rate), (1, base_rate)]),
        "calibration": chart(curves.calibration, "predicted probability", "share bought", diagonal, dots=True),
        "by_threshold": lines(curves.by_threshold, "threshold", "metric", threshold),
        "spread": overlaid(classes, "predicted probability", "share of the carts", threshold),
    }


def _weak(slices: Sequence[Slice], whole: Score) -> dict[str, Any]:
    """The weakest slice, the slices whose interval lies below the ROC AUC of all rows, and the drawings' scale."""
    scored = [(part, part.roc_auc) for part in slices if part.roc_auc]
    least = min([0.5, *(area.low for _, area in scored)])
    left = np.floor(10 * least) / 10
    return {
        "weakest": scored[0][0] if scored else None,
        "below": [part for part, area in scored if area.high < whole.value],
        "scored": len(scored),
        "min_users": MIN_USERS,
        "left": left,
        "at": lambda value: float(100 * (value - left) / (1 - left)),
    }


def _contributions(contents: Contents) -> dict[str, Any]:
    """The strongest features with their mean absolute contribution in log-odds, and the drawing of single carts."""
    strength = contents.contributions.abs().mean().sort_values(ascending=False)[:SHOWN_FEATURES]
    return {
        "strength": {str(name): float(value) for name, value in strength.items()},
        "largest": max(float(strength.max()), 1e-12),
        "drawing": swarm(contents.contributions[strength.index], contents.feature_ranks),
    }


def _past(backtest: Backtest) -> dict[str, Any]:
    """The label of the backtest's metric, and the drawing of its scores."""
    metric, scored = METRICS[backtest.metric], backtest.scored
    drawing = intervals(
        [f"{period.start:%d %b}" for period in scored],
        [period.scores[backtest.metric] for period in scored],
        f"start of the {backtest.unit}",
        metric.label,
        metric.most,
    )
    return {"label": metric.label, "drawing": drawing}


def _columns(columns: Sequence[ColumnProfile]) -> list[tuple[ColumnProfile, str]]:
    """The columns, the furthest moved first, each with its drawing."""
    ordered = sorted(columns, key=lambda column: -column.stability)
    return [
        (column, beside(column.labels, column.train.shares, column.test.shares, ("training", "test")))
        for column in ordered
    ]


def _search(trials: pd.DataFrame, metric: str) -> dict[str, Any]:
    return {
        "trials": len(trials),
        "states": ", ".join(f"{count} {state}" for state, count in trials["state"].value_counts().items()),
        "seconds": float(trials["seconds"].sum()),
        "drawings": dict(_search_drawings(trials[trials["state"] == "finished"], tried_parameters(trials), metric)),
    }


def _search_drawings(finished: pd.DataFrame, parameters: Sequence[str], metric: str) -> Iterator[tuple[str, str]]:
    """Pairs of caption and drawing. First the score of each trial, then the scores over each parameter's values."""
    scores, numbers = (finished[name].astype(float).to_numpy() for name in ("score", "number"))
    best, label, most = best_so_far(scores, metric), METRICS[metric].label, METRICS[metric].most
    yield (
        "Out-of-fold score of each finished trial; line: best score so far",
        scatter(numbers + 1, scores, "trial", label, best, whole=True, most=most),
    )
    for name in parameters:
        values, axis = finished[name].astype(float).to_numpy(), name
        if spans_decades(name, values):
            values, axis = np.log10(np.maximum(values, values[values > 0].min())), f"log10({name})"
        yield name, scatter(values, scores, axis, label, most=most)
