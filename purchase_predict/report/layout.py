"""Renders the pages from the templates of this folder, with the style of `layout.css`.

A page is one HTML file with styles and drawings inside, without scripts and outside requests.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from purchase_predict.metrics import METRICS


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
    return environment.get_template(template).render(metrics=METRICS, **values)
