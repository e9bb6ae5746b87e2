"""The page of a batch prediction: the expected purchases, and how far the columns have moved since the training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from purchase_predict.evaluation.profile import written
from purchase_predict.evaluation.stability import LIMITS, WARN_ABOVE, parts, verdict
from purchase_predict.prediction import Prediction
from purchase_predict.report import layout
from purchase_predict.report.distributions import beside, overlaid
from purchase_predict.schema import SHOP
from purchase_predict.secrets import shown_uri

#: The file's name among the artifacts.
NAME = "drift.html"
#: Maximum number of values of a text column that each get their own bar; all other values share one bar.
SHOWN_VALUES = 10
#: Facts about a prediction that the page shows.
_FACTS = ("model", "train run", "input", "history", "output")


@dataclass(frozen=True)
class Moved:
    """A column of the scored carts, compared with the training rows.

    Attributes:
        name: the column's name.
        index: its population stability index, 0 or more.
        chance: the index to expect by chance alone with this number of carts; 0.0 if below `stability.CHANCE_SHOWN`.
        most: a text about the bin that moved most: its label, and its shares in training and now.
        drawing: an SVG drawing of the training rows and the scored carts, bin by bin.
        first: the label of the drawing's first bin.
        last: the label of the drawing's last bin that does not hold missing values.
    """

    name: str
    index: float
    chance: float
    most: str
    drawing: str
    first: str
    last: str

    @property
    def verdict(self) -> str:
        """How far the column has moved, in words."""
        return verdict(self.index)


def write(prediction: Prediction, facts: Mapping[str, Any], folder: Path) -> None:
    """Writes `drift.html`; without measured drift, writes nothing.

    Args:
        prediction: the result of scoring.
        facts: the parameters and the output of the prediction; the page shows only `_FACTS`.
        folder: the folder to write to.
    """
    if prediction.shares:
        (folder / NAME).write_text(render(prediction, facts), encoding="utf-8")


def render(prediction: Prediction, facts: Mapping[str, Any]) -> str:
    """The page as an HTML document; the arguments are those of `write`."""
    columns = sorted(_columns(prediction), key=lambda column: -column.index)
    far, past = [column for column in columns if column.index > WARN_ABOVE], prediction.past
    spread = np.array(prediction.scored.spread) / prediction.scored.rows
    return layout.render(
        "drift_page.html.jinja",
        prediction=prediction,
        columns=columns,
        far=far,
        unknown=[column for column in far if column.name in SHOP] if past and past.until else [],
        moved=LIMITS,
        chance=any(column.chance for column in columns),
        spread=overlaid([spread], "predicted probability", "share of the carts", prediction.threshold),
        facts={name: shown_uri(str(facts[name])) for name in _FACTS if facts.get(name)},
        made=datetime.now(UTC),
    )


def _columns(prediction: Prediction) -> list[Moved]:
    found = []
    for name, index in prediction.drift.items():
        bins, actual = prediction.reference[name], prediction.shares[name]
        expected, labels = bins["shares"], _labels(bins)
        position = int(np.argmax(parts(expected, actual)))
        most = f"{labels[position]}: {100 * expected[position]:.1f} % in training, {100 * actual[position]:.1f} % now"
        drawn = _fewer(labels, expected, actual)
        drawing, chance = beside(*drawn, ("training", "now")), prediction.by_chance[name]
        found.append(Moved(name, index, chance, most, drawing, drawn[0][0], drawn[0][-2]))
    return found


def _labels(bins: Mapping[str, Any]) -> list[str]:
    """The label of each bin of a column; the bin of nulls is last."""
    if "values" in bins:
        return [*map(str, bins["values"]), "all other values", "missing"]
    edges = [written(edge) for edge in bins["edges"]]
    if not edges:
        return ["any value", "missing"]
    between = [f"above {low}, up to {high}" for low, high in pairwise(edges)]
    return [f"up to {edges[0]}", *between, f"above {edges[-1]}", "missing"]


def _fewer(
    labels: Sequence[str], expected: Sequence[float], actual: Sequence[float]
) -> tuple[list[str], list[float], list[float]]:
    """The bins to draw, as labels, expected and actual shares.

    If a column has more than `SHOWN_VALUES` + 2 bins, only the first `SHOWN_VALUES` bins and the bin of nulls are kept;
    all others are joined into one bin.
    """
    if len(labels) <= SHOWN_VALUES + 2:
        return list(labels), list(expected), list(actual)

    def joined(shares: Sequence[float]) -> list[float]:
        return [*shares[:SHOWN_VALUES], sum(shares[SHOWN_VALUES:-1]), shares[-1]]

    return [*labels[:SHOWN_VALUES], "all other values", labels[-1]], joined(expected), joined(actual)
