"""Renders the pages from the templates of this folder, with the style of `layout.css`.

A page is one HTML file that contains its styles and drawings. It has no scripts and loads nothing from elsewhere.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from purchase_predict.metrics import METRICS

#: Format of a metric in pages and plots: the same as on the terminal and on MLflow's page, so that readers recognise
#: the number.
METRIC = "{:.4f}"
#: Format of a threshold, or of another limit of probabilities.
PROBABILITY = "{:.3f}"


def render(template: str, **values: Any) -> str:
    """A page as an HTML document.

    Args:
        template: a file of this folder; it extends `layout.html.jinja`.
        values: the template's variables.

    Raises:
        jinja2.UndefinedError: the template uses a variable that is not among the values.
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
