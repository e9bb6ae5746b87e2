"""SVG drawings of the report. Every text is escaped here, so the template takes a drawing as it is."""

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from purchase_predict.evaluation.curves import Curve
from purchase_predict.metrics import Score

# Lengths are in SVG units; a drawing is scaled to the width of its column. No column of page.css is so narrow that the
# text, 12 units high, becomes smaller than 11 pixels.
WIDTH, HEIGHT = 340, 230
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 64, 20, 10, 44
DOT_RADIUS = 3.5
#: Points of a drawn curve; more cannot be seen at this width.
CURVE_POINTS = 200
#: Names below a drawing of intervals; more would run into each other.
INTERVAL_LABELS = 6

#: Carts in the drawing of contributions, per feature; more would hide each other.
SWARM_CARTS = 120
SWARM_WIDTH, SWARM_LABEL_WIDTH, SWARM_ROW_HEIGHT = 380, 200, 26
SWARM_DOT_RADIUS = 2.2
#: Dots of one feature are spread up and down by at most this much, so that equal values do not cover each other.
SWARM_SPREAD = 8
#: Characters of a feature's name that fit into its label.
SWARM_LABEL_LENGTH = 26
#: Shades of the dots, from low to high feature values (`rank0` to `rank4` in page.css).
SHADES = 5


def chart(
    curve: Curve,
    x_label: str,
    y_label: str,
    reference: Sequence[tuple[float, float]],
    dots: bool = False,
    interval: tuple[Sequence[float], Sequence[float]] | None = None,
) -> str:
    """A curve on axes from 0 to 1, beside a dashed reference line.

    Args:
        curve: the points.
        x_label: what the x axis shows.
        y_label: what the y axis shows.
        reference: the points of the dashed line.
        dots: whether each point gets a dot.
        interval: lower and upper end of a shaded band, at the curve's `x`.
    """
    ticks = [(share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    inside = _axes(x_label, y_label, ticks, ticks)
    if interval:
        low, high = interval
        inside += f'<polygon class="band" points="{_points(curve.x, low)} {_points(curve.x[::-1], high[::-1])}"/>'
    inside += f'<polyline class="reference" points="{_points(*zip(*reference, strict=True))}"/>'
    shown = np.unique(np.linspace(0, len(curve.x) - 1, CURVE_POINTS).astype(int))
    inside += f'<polyline class="line" points="{_points(curve.x[shown], curve.y[shown])}"/>'
    if dots:
        inside += _dots(curve.x, curve.y)
    return _svg(inside, f"{y_label} over {x_label}")


def scatter(
    x: np.ndarray, y: np.ndarray, x_label: str, y_label: str, line: np.ndarray | None = None, whole: bool = False
) -> str:
    """Points on axes that span exactly their values; an axis with one value has that one in its middle.

    Args:
        x: one value per point.
        y: one value per point.
        x_label: what the x axis shows.
        y_label: what the y axis shows.
        line: y values of a line at the same x, within the range of `y`.
        whole: whether only whole numbers stand below the x axis.
    """

    def value_range(values: np.ndarray) -> tuple[float, float]:
        low, high = float(values.min()), float(values.max())
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    (left, right), (low, high) = value_range(x), value_range(y)
    across, up = (x - left) / (right - left), (y - low) / (high - low)

    def shares(values: np.ndarray) -> tuple[float, ...]:
        return (0, 0.5, 1) if values.min() < values.max() else (0.5,)

    below = [(share, left + share * (right - left)) for share in shares(x)]
    inside = _axes(
        x_label,
        y_label,
        [(share, f"{value:.3g}") for share, value in below if not whole or value == round(value)],
        [(share, f"{low + share * (high - low):.4f}"[:6]) for share in shares(y)],
    )
    if line is not None:
        inside += f'<polyline class="line" points="{_points(across, (line - low) / (high - low))}"/>'
    return _svg(inside + _dots(across, up), f"{y_label} over {x_label}")


def intervals(names: Sequence[str], scores: Sequence[Score], x_label: str, y_label: str) -> str:
    """One dot with its interval per name, in their order, and a dash where the constant answer lies.

    Args:
        names: what stands below each dot.
        scores: one score per name.
        x_label: what the names are.
        y_label: what the scores are.
    """
    values = [value for score in scores for value in (score.low, score.high, score.baseline) if np.isfinite(value)]
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    places = (np.arange(len(names)) + 0.5) / len(names)
    shown = [(float(place), name) for place, name in zip(places, names, strict=True)]
    if len(shown) > INTERVAL_LABELS:
        shown = shown[:: -(-len(shown) // INTERVAL_LABELS)]
    inside = _axes(
        x_label, y_label, shown, [(share, f"{low + share * spread:.2f}") for share in (0, 0.25, 0.5, 0.75, 1)]
    )
    half = 0.3 / len(names)
    for place, score in zip(places, scores, strict=True):
        at = [(value - low) / spread for value in (score.low, score.high, score.baseline, score.value)]
        inside += f'<polyline class="line" points="{_points([place, place], at[:2])}"/>'
        inside += f'<polyline class="reference" points="{_points([place - half, place + half], [at[2], at[2]])}"/>'
        inside += _dots(np.array([place]), np.array(at[3:]))
    return _svg(inside, f"{y_label} by {x_label}")


def swarm(contributions: pd.DataFrame, ranks: pd.DataFrame) -> str:
    """One row of dots per feature: a dot is a cart, its x the contribution, its shade the rank of the feature's value.

    Args:
        contributions: rows by features, in log-odds.
        ranks: the rank of each feature value, 0 to 1; a NaN is drawn hollow.
    """
    shown = contributions.head(SWARM_CARTS)
    largest = max(float(shown.abs().to_numpy().max()), 1e-12)
    height = SWARM_ROW_HEIGHT * len(shown.columns) + 34
    middle, half_width = (SWARM_LABEL_WIDTH + SWARM_WIDTH) / 2, (SWARM_WIDTH - SWARM_LABEL_WIDTH) / 2 - 6
    offsets = np.random.default_rng(0).uniform(-SWARM_SPREAD, SWARM_SPREAD, len(shown))
    parts = [f'<line class="reference" x1="{middle}" x2="{middle}" y1="4" y2="{height - 28}"/>']
    for row, name in enumerate(shown.columns):
        y = 16 + row * SWARM_ROW_HEIGHT
        label = name if len(name) <= SWARM_LABEL_LENGTH else name[: SWARM_LABEL_LENGTH - 1] + "…"
        parts.append(f'<text x="{SWARM_LABEL_WIDTH - 8}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
        for contribution, rank, offset in zip(shown[name], ranks[name], offsets, strict=False):
            x = middle + contribution / largest * half_width
            shade = "hollow" if np.isnan(rank) else f"rank{min(SHADES - 1, int(rank * SHADES))}"
            parts.append(f'<circle class="{shade}" cx="{x:.1f}" cy="{y + offset:.1f}" r="{SWARM_DOT_RADIUS}"/>')
    parts.append(f'<text x="{SWARM_LABEL_WIDTH}" y="{height - 8}">against</text>')
    parts.append(f'<text x="{SWARM_WIDTH - 6}" y="{height - 8}" text-anchor="end">for a purchase</text>')
    return _svg("".join(parts), "Push of each feature", SWARM_WIDTH, height)


def _x_at(share: float) -> float:
    """The x of a share (0 to 1) of the width between the margins."""
    return MARGIN_LEFT + share * (WIDTH - MARGIN_LEFT - MARGIN_RIGHT)


def _y_at(share: float) -> float:
    """The y of a share (0 to 1) of the height between the margins; SVG counts downwards."""
    return HEIGHT - MARGIN_BOTTOM - share * (HEIGHT - MARGIN_TOP - MARGIN_BOTTOM)


def _points(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{_x_at(float(a)):.1f},{_y_at(float(b)):.1f}" for a, b in zip(x, y, strict=True))


def _dots(x: np.ndarray, y: np.ndarray) -> str:
    return "".join(
        f'<circle class="dot" cx="{_x_at(float(a)):.1f}" cy="{_y_at(float(b)):.1f}" r="{DOT_RADIUS}"/>'
        for a, b in zip(x, y, strict=True)
    )


def _axes(
    x_label: str, y_label: str, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]
) -> str:
    """Grid lines, ticks (each a share of the axis and its text) and the labels of both axes."""
    grid = "".join(
        f'<line class="grid" x1="{_x_at(0)}" x2="{_x_at(1)}" y1="{_y_at(share):.1f}" y2="{_y_at(share):.1f}"/>'
        f'<text x="{MARGIN_LEFT - 6}" y="{_y_at(share) + 4:.1f}" text-anchor="end">{text}</text>'
        for share, text in y_ticks
    )
    grid += "".join(
        f'<text x="{_x_at(share):.1f}" y="{_y_at(0) + 19}" text-anchor="middle">{text}</text>'
        for share, text in x_ticks
    )
    return (
        f'{grid}<text x="{_x_at(0.5)}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(11 {_y_at(0.5)}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )


def _svg(inside: str, label: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    """The drawing with a label for screen readers."""
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{inside}</svg>'
