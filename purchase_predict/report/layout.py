"""Renders the pages from the templates of this folder, with the style of `layout.css`.

A page is one HTML file with styles and drawings inside, without scripts and outside requests.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from purchase_predict.metrics import METRICS

#: How a metric is written in pages and plots: as on the terminal and on MLflow's page, so that one finds it again.
METRIC = "{:.4f}"
#: How a threshold and any other limit of probabilities is written.
PROBABILITY = "{:.3f}"


def render(template: str, **values: Any) -> str:
    """A page as an HTML document.

    Args:
        template: a file of this folder; it extends `layout.html.jinja`.
        values: the template's variables.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"metric": METRIC.format, "probability": PROBABILITY.format}
    return environment.get_template(template).render(metrics=METRICS, **values)
