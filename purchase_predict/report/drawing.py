"""Drawings of the report as SVG."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from purchase_predict.metrics import Score

WIDTH, _HEIGHT = 420, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 10, 40


def interval(area: Score | None) -> str:
    """A line from the low to the high end of a ROC AUC between 0 and 1, beside the 0.5 of a coin."""
    if area is None:
        return ""
    return (
        '<svg class="interval" viewBox="0 0 100 10" aria-hidden="true"><line class="reference" x1="50" x2="50" y1="0" y2="10"/>'
        f'<line class="line" x1="{100 * area.low:.1f}" x2="{100 * area.high:.1f}" y1="5" y2="5"/>'
        f'<circle class="dot" cx="{100 * area.value:.1f}" cy="5" r="2.5"/></svg>'
    )


def figure(svg: str, caption: str) -> str:
    """A drawing with its caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def thin(x: np.ndarray, y: np.ndarray, most: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points of a curve: more cannot be seen."""
    keep = np.unique(np.linspace(0, len(x) - 1, most).astype(int))
    return x[keep], y[keep]


def x_at(share: float) -> float:
    """The x of a share (0 to 1) of the width between the margins."""
    return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


def y_at(share: float) -> float:
    """The y of a share (0 to 1) of the height between the margins."""
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def points(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> str:
    """Points of a polyline, from shares of both axes."""
    return " ".join(f"{x_at(float(a)):.1f},{y_at(float(b)):.1f}" for a, b in zip(x, y, strict=True))


def axes(x_label: str, y_label: str, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]) -> str:
    """Grid, ticks and labels."""
    grid = "".join(
        f'<line class="grid" x1="{x_at(0)}" x2="{x_at(1)}" y1="{y_at(at):.1f}" y2="{y_at(at):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y_at(at) + 4:.1f}" text-anchor="end">{text}</text>'
        for at, text in y_ticks
    )
    grid += "".join(
        f'<text x="{x_at(at):.1f}" y="{y_at(0) + 16}" text-anchor="middle">{text}</text>' for at, text in x_ticks
    )
    return (
        f'{grid}<text x="{x_at(0.5)}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(11 {y_at(0.5)}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )


def svg(inside: str, label: str) -> str:
    """The drawing, with a label for those who do not see it."""
    return f'<svg viewBox="0 0 {WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{inside}</svg>'


def chart(
    lines: Sequence[tuple[str, Any, Any]],
    x_label: str,
    y_label: str,
    reference: Sequence[tuple[float, float]],
    dots: bool = False,
    band: tuple[Sequence[float], Sequence[float], Sequence[float]] | None = None,
) -> str:
    """Lines between 0 and 1 on both axes, with a dashed reference and a shaded interval."""
    ticks = [(share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    inside = axes(x_label, y_label, ticks, ticks)
    if band:
        x, low, high = band
        inside += f'<polygon class="band" points="{points(x, low)} {points(x[::-1], high[::-1])}"/>'
    inside += f'<polyline class="reference" points="{points(*zip(*reference, strict=True))}"/>'
    for _, x, y in lines:
        inside += f'<polyline class="line" points="{points(x, y)}"/>'
        if dots:
            inside += "".join(
                f'<circle class="dot" cx="{x_at(float(a)):.1f}" cy="{y_at(float(b)):.1f}" r="3.5"/>'
                for a, b in zip(x, y, strict=True)
            )
    return svg(inside, f"{y_label} over {x_label}")


def scatter(x: np.ndarray, y: np.ndarray, x_label: str, y_label: str, line: np.ndarray | None = None) -> str:
    """Points in the range that they have, and a line through `line` at the same x."""

    def scaled(values: np.ndarray) -> tuple[float, float]:
        low, high = float(values.min()), float(values.max())
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    (left, right), (low, high) = scaled(x), scaled(y)
    across, up = (x - left) / (right - left), (y - low) / (high - low)
    inside = axes(
        x_label,
        y_label,
        [(share, f"{left + share * (right - left):.3g}") for share in (0, 0.5, 1)],
        [(share, f"{low + share * (high - low):.4f}"[:6]) for share in (0, 0.5, 1)],
    )
    if line is not None:
        inside += f'<polyline class="line" points="{points(across, (line - low) / (high - low))}"/>'
    inside += "".join(
        f'<circle class="dot" cx="{x_at(a):.1f}" cy="{y_at(b):.1f}" r="3.5"/>' for a, b in zip(across, up, strict=True)
    )
    return svg(inside, f"{y_label} over {x_label}")
