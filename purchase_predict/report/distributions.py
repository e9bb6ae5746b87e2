"""SVG drawings of distributions, and of the features' contributions for single carts."""

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from purchase_predict.report.drawing import SERIES, UNIT_TICKS, Scale, axes, points, svg, vertical

#: Maximum number of carts in the drawing of contributions; more dots would hide each other.
SWARM_CARTS = 120
#: Sizes in the drawing of contributions, in SVG units.
SWARM_WIDTH, SWARM_LABEL_WIDTH, SWARM_ROW_HEIGHT = 380, 200, 26
SWARM_DOT_RADIUS = 2.2
#: Each dot is moved up or down by at most this many SVG units, so that equal contributions do not hide each other.
SWARM_SPREAD = 8
#: Maximum number of characters in the label of a feature; a longer name is cut.
SWARM_LABEL_LENGTH = 26
#: Number of shades of the dots, from low to high feature values (`rank0` to `rank4` in layout.css).
SHADES = 5
#: Size of a small drawing in a table, and the gap between its bars, in SVG units.
SMALL_WIDTH, SMALL_HEIGHT, SMALL_GAP = 180, 44, 2


def overlaid(groups: Sequence[np.ndarray], x_label: str, y_label: str, mark: float | None) -> str:
    """Overlapping histograms over the same bins from 0 to 1, and a dashed vertical line.

    Args:
        groups: for each group, the share of its rows in each bin; at most as many groups as there are `SERIES`.
        x_label: what the x axis shows.
        y_label: what the y axis shows.
        mark: the x of the vertical line; None: no line.
    """
    edges = np.linspace(0, 1, len(groups[0]) + 1)
    scale = Scale.around(np.array([0.0, *(group.max() for group in groups)]), 0.0, 1.0)
    y_ticks = [(share, f"{100 * float(text):.3g} %") for share, text in scale.ticks]
    inside = axes(x_label, y_label, UNIT_TICKS, y_ticks)
    for kind, shares in zip(SERIES, groups, strict=False):
        across = np.repeat(edges, 2)
        up = scale.at(np.concatenate([[0.0], np.repeat(shares, 2), [0.0]]))
        inside += f'<polygon class="area {kind}" points="{points(across, up)}"/>'
    return svg(inside + ("" if mark is None else vertical(mark)), f"{y_label} by {x_label}")


def beside(labels: Sequence[str], expected: Sequence[float], actual: Sequence[float], names: tuple[str, str]) -> str:
    """A small drawing without text: in each bin a bar for the expected share and a line for the actual share.

    Hovering over a bin shows its label and both shares.

    Args:
        labels: what each bin holds.
        expected: for each bin, the share (0 to 1) of the rows to compare with, such as the training rows.
        actual: for each bin, the share (0 to 1) of the rows that are compared, such as the test rows.
        names: the names of these two groups of rows, shown when hovering.
    """
    width, largest = SMALL_WIDTH / len(labels), max(*expected, *actual, 1e-9)
    parts = []
    for number, (label, e, a) in enumerate(zip(labels, expected, actual, strict=True)):
        x, y, line = number * width, *((1 - share / largest) * (SMALL_HEIGHT - 3) + 2 for share in (e, a))
        text = escape(f"{label}: {names[0]} {100 * e:.1f} %, {names[1]} {100 * a:.1f} %")
        parts.append(
            f'<g><title>{text}</title><rect class="hit" x="{x:.1f}" width="{width:.1f}" height="{SMALL_HEIGHT}"/>'
            f'<rect class="area first" x="{x:.1f}" y="{y:.1f}" width="{max(1, width - SMALL_GAP):.1f}" '
            f'height="{SMALL_HEIGHT - y:.1f}"/>'
            f'<line class="line second" x1="{x:.1f}" x2="{x + max(1, width - SMALL_GAP):.1f}" y1="{line:.1f}" '
            f'y2="{line:.1f}"/></g>'
        )
    return (
        f'<svg class="beside" viewBox="0 0 {SMALL_WIDTH} {SMALL_HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true">{"".join(parts)}</svg>'
    )


def swarm(contributions: pd.DataFrame, ranks: pd.DataFrame) -> str:
    """One row of dots per feature. A dot is a cart: its x is the contribution, its shade the rank of the value.

    Args:
        contributions: one row per cart, one column per feature, in log-odds.
        ranks: for each cart and feature, the rank of the feature's value among all values of the feature, 0 to 1. If it
            is NaN, the dot is hollow. Further rows and columns are ignored.
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
    parts.append(f'<text x="{SWARM_LABEL_WIDTH}" y="{height - 8}">less likely</text>')
    parts.append(f'<text x="{SWARM_WIDTH - 6}" y="{height - 8}" text-anchor="end">more likely</text>')
    return svg("".join(parts), "Contribution of each feature", SWARM_WIDTH, height)
