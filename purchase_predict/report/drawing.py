"""SVG drawings on axes. The templates insert a drawing unchanged, because labels and ticks are escaped here."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from purchase_predict.evaluation.curves import Curve
from purchase_predict.metrics import Score

# Lengths are in SVG units. A drawing is scaled to the width of its column, up to a limit in layout.css. On screens of
# 390 pixels and more, the text, 12 units high, is at least 11 pixels high.
WIDTH, HEIGHT = 340, 230
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 64, 20, 10, 44
DOT_RADIUS = 3.5
#: Maximum number of points of a drawn curve; more cannot be seen at this width.
CURVE_POINTS = 200
#: Maximum number of names below a drawing of intervals; more would overlap.
INTERVAL_LABELS = 6
#: CSS classes (layout.css) of the first, second and third line or area in a drawing.
SERIES = ("first", "second", "third")
#: Approximate number of ticks of an axis.
TICKS = 4
#: The texts of ticks have the decimal places that the step between ticks needs. For a step below 10**-MAX_DIGITS, they
#: have 3 significant digits instead.
MAX_DIGITS = 4

#: Ticks of an axis from 0 to 1.
UNIT_TICKS = [(share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)]


def chart(
    curve: Curve,
    x_label: str,
    y_label: str,
    reference: Sequence[tuple[float, float]],
    dots: bool = False,
    interval: tuple[Sequence[float], Sequence[float]] | None = None,
) -> str:
    """A curve on axes from 0 to 1, and a dashed reference line.

    Args:
        curve: the points.
        x_label: what the x axis shows.
        y_label: what the y axis shows.
        reference: the points of the dashed line.
        dots: whether each point gets a dot.
        interval: the lower ends and the upper ends of a shaded band, one of each per `x` of the curve.
    """
    inside = axes(x_label, y_label, UNIT_TICKS, UNIT_TICKS)
    if interval:
        low, high = interval
        inside += f'<polygon class="band" points="{points(curve.x, low)} {points(curve.x[::-1], high[::-1])}"/>'
    inside += f'<polyline class="reference" points="{points(*zip(*reference, strict=True))}"/>'
    inside += f'<polyline class="line" points="{_thinned(curve)}"/>'
    if dots:
        inside += _dots(curve.x, curve.y)
    return svg(inside, f"{y_label} over {x_label}")


def lines(curves: Mapping[str, Curve], x_label: str, y_label: str, mark: float) -> str:
    """Up to 3 curves on axes from 0 to 1, each with a class of `SERIES`, and a dashed vertical line.

    Args:
        curves: the points of each curve, by its name.
        x_label: what the x axis shows.
        y_label: what the y axis shows.
        mark: the x of the vertical line.
    """
    inside = axes(x_label, y_label, UNIT_TICKS, UNIT_TICKS) + vertical(mark)
    for kind, curve in zip(SERIES, curves.values(), strict=False):
        inside += f'<polyline class="line {kind}" points="{_thinned(curve)}"/>'
    return svg(inside, f"{', '.join(curves)} over {x_label}")


def scatter(
    x: np.ndarray,
    y: np.ndarray,
    x_label: str,
    y_label: str,
    line: np.ndarray | None = None,
    whole: bool = False,
    most: float = math.inf,
) -> str:
    """Points on axes that fit the values. If all values of an axis are equal, the axis extends beyond this value.

    Args:
        x: one value per point.
        y: one value per point; each is at least 0.
        x_label: what the x axis shows.
        y_label: what the y axis shows.
        line: y values of a line at the same x, within the range of `y`.
        whole: whether the ticks of the x axis are whole numbers only.
        most: the highest value that `y` can have.
    """
    x_scale = Scale.around(x, whole=whole)
    y_scale = Scale.around(y, 0.0, most)
    inside = axes(x_label, y_label, x_scale.ticks, y_scale.ticks)
    if line is not None:
        inside += f'<polyline class="line" points="{points(x_scale.at(x), y_scale.at(line))}"/>'
    return svg(inside + _dots(x_scale.at(x), y_scale.at(y)), f"{y_label} over {x_label}")


def intervals(names: Sequence[str], scores: Sequence[Score], x_label: str, y_label: str, most: float = math.inf) -> str:
    """For each name, in the order of the names: a dot with its interval, and a short dashed line at its baseline.

    Args:
        names: the text below each dot; if there are more than `INTERVAL_LABELS` names, only some are shown.
        scores: one score per name; each is at least 0.
        x_label: what the names are.
        y_label: what the scores are.
        most: the highest value that a score can have.
    """
    values = [value for score in scores for value in (score.low, score.high, score.baseline) if np.isfinite(value)]
    scale = Scale.around(np.array(values), 0.0, most)
    places = (np.arange(len(names)) + 0.5) / len(names)
    shown = [(float(place), name) for place, name in zip(places, names, strict=True)]
    if len(shown) > INTERVAL_LABELS:
        shown = shown[:: -(-len(shown) // INTERVAL_LABELS)]
    inside = axes(x_label, y_label, shown, scale.ticks)
    half = 0.3 / len(names)
    for place, score in zip(places, scores, strict=True):
        low, high, baseline, value = scale.at(np.array([score.low, score.high, score.baseline, score.value]))
        inside += f'<polyline class="line" points="{points([place, place], [low, high])}"/>'
        inside += f'<polyline class="reference" points="{points([place - half, place + half], [baseline] * 2)}"/>'
        inside += _dots(np.array([place]), np.array([value]))
    return svg(inside, f"{y_label} by {x_label}")


class Scale:
    """An axis from `low` to `high`.

    `ticks` lie at multiples of `step`. Each tick is a pair: its position as a share of the axis (0 to 1), and its text.
    With `whole`, only whole numbers have a tick.
    """

    def __init__(self, low: float, high: float, step: float, whole: bool = False) -> None:
        self.low, self.high = low, high
        places = -math.floor(math.log10(step) + 1e-9)
        digits = max(0, places if _is_round(step) else places + 1)
        values = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
        shown = [value for value in values.tolist() if not whole or abs(value - round(value)) < 1e-9]
        written = ",." + (f"{digits}f" if places <= MAX_DIGITS else "3g")
        self.ticks = [(float(self.at(value)), format(value + 0.0, written)) for value in shown]

    @classmethod
    def around(
        cls, values: np.ndarray, least: float = -math.inf, most: float = math.inf, whole: bool = False
    ) -> "Scale":
        """The scale that fits some values, within `least` and `most`, with a small margin unless `whole`."""
        low, high = float(np.min(values)), float(np.max(values))
        if high <= low:
            half = 0.5 if whole or not 0 <= low <= 1 else 0.05
            low, high = max(least, low - half), min(most, high + half)
        elif not whole:
            low, high = _readable(low, high, least, most)
        step = round_step((high - low) / TICKS)
        if whole:
            return cls(low, high, max(1.0, math.ceil(step)), whole=True)
        room = (high - low) * 0.06  # so that no dot lies on the edge, except at `least` or `most`
        return cls(max(least, low - room), min(most, high + room), step)

    def at(self, value: np.ndarray | float) -> np.ndarray:
        """Where a value lies, as a share of the axis."""
        return np.asarray((np.asarray(value) - self.low) / (self.high - self.low))


def _readable(low: float, high: float, least: float, most: float) -> tuple[float, float]:
    """The ends of an axis, moved apart if the texts of its ticks would be equal."""
    # The text of a tick has MAX_DIGITS decimal places or, for smaller steps, 3 significant digits. Two ticks must
    # differ by at least one unit of the last digit.
    span = TICKS * min(10.0**-MAX_DIGITS, max(abs(low), abs(high)) / 100)
    if high - low >= span:
        return low, high
    low = max(least, (low + high - span) / 2)
    return min(low, most - span), min(low + span, most)


def round_step(step: float) -> float:
    """`step`, rounded up to a number that is 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def _is_round(step: float) -> bool:
    """Whether a step has one significant digit: true unless the step is 2.5 times a power of ten."""
    return abs(step / 10.0 ** math.floor(math.log10(step) + 1e-9) - 2.5) > 1e-6


def x_at(share: float) -> float:
    """The x of a share (0 to 1) of the width between the margins."""
    return MARGIN_LEFT + share * (WIDTH - MARGIN_LEFT - MARGIN_RIGHT)


def y_at(share: float) -> float:
    """The y of a share (0 to 1) of the height between the margins; SVG counts downwards."""
    return HEIGHT - MARGIN_BOTTOM - share * (HEIGHT - MARGIN_TOP - MARGIN_BOTTOM)


def points(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> str:
    """The text of the attribute `points` of an SVG polyline or polygon. `x` and `y` are shares of their axes."""
    return " ".join(f"{x_at(float(a)):.1f},{y_at(float(b)):.1f}" for a, b in zip(x, y, strict=True))


def vertical(share: float) -> str:
    """A dashed vertical line at a share of the x axis."""
    return f'<line class="reference" x1="{x_at(share):.1f}" x2="{x_at(share):.1f}" y1="{y_at(1)}" y2="{y_at(0)}"/>'


def _thinned(curve: Curve) -> str:
    shown = np.unique(np.linspace(0, len(curve.x) - 1, CURVE_POINTS).astype(int))
    return points(curve.x[shown], curve.y[shown])


def _dots(x: np.ndarray, y: np.ndarray) -> str:
    return "".join(
        f'<circle class="dot" cx="{x_at(float(a)):.1f}" cy="{y_at(float(b)):.1f}" r="{DOT_RADIUS}"/>'
        for a, b in zip(x, y, strict=True)
    )


def axes(x_label: str, y_label: str, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]) -> str:
    """The ticks and labels of both axes, and a grid line at each tick of the y axis.

    A tick is a pair: its position as a share of the axis (0 to 1), and its text.
    """
    grid = "".join(
        f'<line class="grid" x1="{x_at(0)}" x2="{x_at(1)}" y1="{y_at(share):.1f}" y2="{y_at(share):.1f}"/>'
        f'<text x="{MARGIN_LEFT - 6}" y="{y_at(share) + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        for share, text in y_ticks
    )
    grid += "".join(
        f'<text x="{x_at(share):.1f}" y="{y_at(0) + 19}" text-anchor="middle">{escape(text)}</text>'
        for share, text in x_ticks
    )
    return (
        f'{grid}<text x="{x_at(0.5)}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(11 {y_at(0.5)}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )


def svg(inside: str, label: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    """The SVG element around the content of a drawing, with a label for screen readers."""
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{inside}</svg>'
