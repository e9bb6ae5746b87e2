"""The page of the report: one HTML file with styles and drawings inside, without scripts and outside requests.

`page.html.jinja` holds its words, `page.css` its looks. This module computes the values that the template shows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from purchase_predict.evaluation.backtest import Backtest
from purchase_predict.evaluation.curves import Curve, Curves
from purchase_predict.evaluation.weaknesses import Tradeoff
from purchase_predict.metrics import METRICS
from purchase_predict.report.contents import Contents
from purchase_predict.report.drawing import chart, intervals, scatter, swarm
from purchase_predict.search.trial import best_so_far, spans_decades, tried_parameters

#: Rows of the trade-off's table: shares of carts that get a code.
TRADEOFF_ROWS = (0.1, 0.2, 0.3, 0.5, 0.7)
#: Features in the table and the drawing of contributions, the strongest ones.
SHOWN_FEATURES = 10


def render(contents: Contents) -> str:
    """The page as an HTML document."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.jinja").render(
        contents=contents,
        description=contents.description,
        metrics=METRICS,
        tradeoff=_tradeoff(contents.tradeoff),
        curves=_curves(contents.curves, contents.description.base_rate.test),
        contributions=_contributions(contents),
        search=_search(contents.trials, contents.metric),
        past=_past(contents.backtest) if contents.backtest and contents.backtest.scored else None,
    )


def _tradeoff(points: Sequence[Tradeoff]) -> dict[str, Any]:
    def at(share: float) -> Tradeoff:
        return next(point for point in points if abs(point.codes - share) < 1e-9)

    drawing = chart(
        Curve(np.array([point.codes for point in points]), np.array([point.buyers_kept for point in points])),
        "share of carts that get a code",
        "buyers who keep the full price",
        reference=[(0, 1), (1, 0)],
        interval=([point.low for point in points], [point.high for point in points]),
    )
    return {"half": at(0.5), "rows": [at(share) for share in TRADEOFF_ROWS], "drawing": drawing}


def _curves(curves: Curves, base_rate: float) -> dict[str, str]:
    """Drawings by their captions."""
    diagonal = [(0.0, 0.0), (1.0, 1.0)]
    return {
        "ROC; dashed: any constant": chart(curves.roc, "false positive rate", "true positive rate", diagonal),
        "Precision and recall; dashed: any constant": chart(
            curves.precision_recall, "recall", "precision", [(0, base_rate), (1, base_rate)]
        ),
        "Calibration, by tenths of the rows; dashed: perfect": chart(
            curves.calibration, "predicted probability", "share that bought", diagonal, dots=True
        ),
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
    """The name of the metric that is shown of past periods, and its drawing."""
    label, scored = METRICS[backtest.metric].label, backtest.scored
    drawing = intervals(
        [f"{period.start:%d %b}" for period in scored],
        [period.scores[backtest.metric] for period in scored],
        f"{backtest.unit} from this day on",
        label,
    )
    return {"label": label, "drawing": drawing}


def _search(trials: pd.DataFrame, metric: str) -> dict[str, Any]:
    return {
        "trials": len(trials),
        "states": ", ".join(f"{count} {state}" for state, count in trials["state"].value_counts().items()),
        "seconds": float(trials["seconds"].sum()),
        "drawings": dict(_search_drawings(trials[trials["state"] == "finished"], tried_parameters(trials), metric)),
    }


def _search_drawings(finished: pd.DataFrame, parameters: Sequence[str], metric: str) -> Iterator[tuple[str, str]]:
    """Captions and drawings: the scores over the trial's number, then over each parameter."""
    scores, numbers = (finished[name].astype(float).to_numpy() for name in ("score", "number"))
    best = best_so_far(scores, metric)
    yield (
        "Finished trials, out of fold; line: the best so far",
        scatter(numbers + 1, scores, "trial", metric, best, whole=True),
    )
    for name in parameters:
        values, label = finished[name].astype(float).to_numpy(), name
        if spans_decades(name, values):
            values, label = np.log10(np.maximum(values, values[values > 0].min())), f"{name}, power of ten"
        yield name, scatter(values, scores, label, metric)
