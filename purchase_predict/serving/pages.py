"""The server's two pages: one to try a cart, one that documents the endpoints. They load nothing from other hosts.

Their templates are `try.html.jinja` and `docs.html.jinja`. Both pages use the style sheet `page.css`. Only the page to
try a cart has a script, `try.js`.
"""

import base64
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from purchase_predict.schema import EVENTS
from purchase_predict.sources import sample

_FOLDER = Path(__file__).parent
#: `_VISITS`: maximum number of visits that the page can replay. `_EVENTS`: number of events of the built-in sample from
#: which these visits are chosen.
_VISITS, _EVENTS = 8, 2_000


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


_SCRIPT = _text("try.js")
_SCRIPT_DIGEST = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
#: HTTP headers of both pages. They make the browser run no script except `try.js`, and let the page send requests only
#: to this server.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; script-src 'sha256-{_SCRIPT_DIGEST}'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@functools.cache
def try_page() -> str:
    """The page to enter a cart or replay a visit, as an HTML document."""
    return _environment().get_template("try.html.jinja").render(style=Markup(_text("page.css")), script=Markup(_SCRIPT))


def docs_page(openapi: dict[str, Any]) -> str:
    """The page with every endpoint, its example and its responses, as an HTML document.

    Args:
        openapi: the application's OpenAPI schema.
    """
    return (
        _environment()
        .get_template("docs.html.jinja")
        .render(style=Markup(_text("page.css")), info=openapi["info"], routes=_routes(openapi))
    )


@functools.cache
def visits() -> list[list[dict[str, Any]]]:
    """Visits (sessions) from the built-in sample. Each is a list of raw events with at least one cart event."""
    table = sample.events(_EVENTS)
    by_session: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        event = {column.name: row[column.name] for column in EVENTS}
        event["event_time"] = f"{event['event_time']} UTC"
        by_session.setdefault(str(event["user_session"]), []).append(event)
    carted = [events for events in by_session.values() if any(event["event_type"] == "cart" for event in events)]
    return sorted(carted, key=len, reverse=True)[: 3 * _VISITS : 3]


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["code"] = _code
    return environment


def _code(text: str) -> Markup:
    """Converts a description to HTML; text between backticks becomes code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _routes(openapi: dict[str, Any]) -> list[dict[str, Any]]:
    routes = []
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
            answers = [
                {
                    "status": status,
                    "description": answer["description"],
                    "example": _pretty(answer.get("content", {}).get("application/json", {}).get("example")),
                }
                for status, answer in route["responses"].items()
            ]
            routes.append(
                {
                    "path": path,
                    "method": method.upper(),
                    "summary": route["summary"],
                    "description": route["description"],
                    "example": _pretty(content.get("example")),
                    "answers": answers,
                }
            )
    return routes


def _pretty(example: object) -> str:
    return "" if example is None else json.dumps(example, indent=2)
