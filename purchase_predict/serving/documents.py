"""The text of the server's own documentation: summary, example and responses of each endpoint.

`EVENTS`, `TRY` and the other public constants for endpoints hold keyword arguments for FastAPI's route decorators. The
module `app` uses them.
"""

from typing import Any

from purchase_predict.schema import EVENT_TYPES
from purchase_predict.serving import guard
from purchase_predict.serving.events import MAX_TEXT
from purchase_predict.serving.service import MAX_CARTS, MAX_EVENTS

DESCRIPTION = (
    "A visitor has just put a product in the cart: will they buy it in this session? Send the shop's events. The "
    "server answers each cart event with a probability. It uses the model version that holds the environment's alias."
)
_VIEW = {
    "event_time": "2019-10-07 12:30:05 UTC",
    "event_type": "view",
    "product_id": 1002524,
    "category_id": 2053013555631882655,
    "category_code": "electronics.smartphone",
    "brand": "apple",
    "price": 511.72,
    "user_id": 513014014,
    "user_session": "7d9b1c5a-3d4b-4f8e-8f3b-0a9b2f6f5f11",
}
_CART = {**_VIEW, "event_time": "2019-10-07 12:31:12 UTC", "event_type": "cart"}
_ANSWER = {
    "event": 1,
    "user_id": 513014014,
    "user_session": "7d9b1c5a-3d4b-4f8e-8f3b-0a9b2f6f5f11",
    "product_id": 1002524,
    "moment": "2019-10-07T12:31:12Z",
    "probability": 0.4127,
    "will_buy": 1,
    "model_version": "3",
    "missing": [],
    "late": False,
}
_ROW = {
    "product_id": 1002524,
    "brand": "apple",
    "price": 511.72,
    "category": "electronics",
    "sub_category": "smartphone",
    "num_views_session": 1,
    "num_views_product": 1,
    "hour": 12,
    "minute": 31,
    "weekday": 0,
    "duration": 67,
    "num_prev_sessions": 0,
    "num_prev_product_views": 0,
}
_INTEGER: dict[str, Any] = {"anyOf": [{"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, {"type": "null"}]}
_TEXT = {"anyOf": [{"type": "string", "maxLength": MAX_TEXT}, {"type": "null"}]}
_EVENT = {
    "type": "object",
    "required": ["event_time", "event_type", "product_id", "user_id", "user_session"],
    "properties": {
        "event_time": {
            "type": "string",
            "description": "UTC, with seconds",
            "pattern": r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d",
        },
        "event_type": {"type": "string", "enum": list(EVENT_TYPES)},
        "product_id": _INTEGER["anyOf"][0],
        "category_id": _INTEGER,
        "category_code": _TEXT,
        "brand": _TEXT,
        "price": {"anyOf": [{"type": "number", "minimum": 0, "exclusiveMaximum": 1e12}, {"type": "null"}]},
        "user_id": _INTEGER["anyOf"][0],
        "user_session": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
    },
}
_EVENTS_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"anyOf": [_EVENT, {"type": "array", "items": _EVENT, "minItems": 1, "maxItems": MAX_EVENTS}]},
            "example": [_VIEW, _CART],
        }
    },
}


def _answer(text: str, example: object = None) -> dict[str, Any]:
    content = {"content": {"application/json": {"example": example}}} if example is not None else {}
    return {"description": text, **content}


_REFUSED = {
    "event": 0,
    "field": "price",
    "value": "-1",
    "reason": "must be a price, 0 or more",
}
_HOST = "A server without a token refuses a `Host` header other than 127.0.0.1, localhost and [::1]."
_TOO_LARGE = f"The body is larger than {guard.MAX_EVENT_BYTES // 2**20} MiB"
_BODIES = "The request has a body, and the bodies of all requests in progress are too large in total."
#: The responses of the module `guard`, by status; any route may return them. A route that returns one of these statuses
#: for another reason, too, replaces the text.
_ANY_ROUTE = {
    400: _answer(_HOST, {"detail": guard.WRONG_HOST}),
    401: _answer("The server has a token, and the request does not.", {"detail": guard.NO_TOKEN}),
    413: _answer(f"{_TOO_LARGE}."),
    500: _answer("The server failed.", {"detail": guard.FAILED}),
    503: _answer("The server is too busy. Send the request again."),
}
_SLOW_BODY = {408: _answer(f"No part of the body arrived for {guard.BODY_SECONDS:.0f} s.")}
_ERRORS = {
    **_SLOW_BODY,
    400: _answer(f"The body is not JSON. {_HOST}", {"detail": "the body is not JSON"}),
    413: _answer(
        f"{_TOO_LARGE}, or has more than {MAX_EVENTS:,} events.",
        {"detail": f"a request may have at most {MAX_EVENTS} events"},
    ),
    415: _answer(
        "The Content-Type is not application/json, or the body is compressed (Content-Encoding).",
        {"detail": "Content-Type must be application/json"},
    ),
    422: _answer(
        "No event is valid: for each event, `refused` gives the invalid field, its value and the reason. Or the body "
        "is neither an event nor a list of events: `detail` says so.",
        {"events": 0, "repeated": 0, "refused": [_REFUSED], "answers": []},
    ),
    503: _answer("The server cannot write its state, or is too busy. Send the request again; no event counts twice."),
}


def _route(summary: str, description: str, responses: dict[int, Any], body: Any = None) -> dict[str, Any]:
    extra = {"openapi_extra": {"requestBody": body}} if body else {}
    all_ = dict(sorted({**_ANY_ROUTE, **responses}.items()))
    return {"summary": summary, "description": description, "responses": all_, "response_model": None, **extra}


EVENTS = _route(
    "Count events and score carts",
    "Send one event or a list of events. The events may come from different visitors. If a visitor has several events "
    "at the same time, send them in one request: an answer uses only events that have arrived. An event counts once, "
    "even if it is sent several times. A cart event that is sent again is answered again. Invalid events are refused; "
    "the other events are counted. `late` is true if the model's columns may include events from after the cart event, "
    "or may be wrong about earlier sessions. `missing` lists the model's columns that have no value, such as the price "
    "if the event has none.",
    {
        200: _answer(
            "The numbers of new and of repeated events, the refused events, and the answers.",
            {"events": 2, "repeated": 0, "refused": [], "answers": [_ANSWER]},
        ),
        **_ERRORS,
    },
    _EVENTS_BODY,
)
TRY = _route(
    "Try events out",
    "Returns the same answers as /events, but without `late`. Each answer also has the computed columns, and the "
    "contribution of each column (its SHAP value in log-odds). Events may be of any age. The server keeps nothing.",
    {200: _answer("The same answers as from /events, with columns and contributions."), **_ERRORS},
    _EVENTS_BODY,
)
CARTS = _route(
    "Show the cart of a session",
    "Lists the products that are now in the cart of a session. The current model scores each product. It uses the "
    "columns as they were when the product was put in the cart. With `why=true`, each answer also has the contribution "
    "of each column (its SHAP value in log-odds). Several visitors may share a session id: the cart then "
    f"holds the products of all of them. The server reads at most {MAX_CARTS} products of a session id. If there are "
    "more, `complete` is false.",
    {
        200: _answer(
            "The cart; empty if nothing is in it.",
            {
                "user_session": _CART["user_session"],
                "complete": True,
                "carts": [{k: v for k, v in _ANSWER.items() if k not in ("event", "late")} | {"columns": _ROW}],
            },
        ),
        422: _answer("`why` is neither true nor false, or the session id is not valid text."),
        503: _answer("The server cannot read its state, or is too busy. Send the request again."),
    },
)
_PREDICTIONS = {"predictions": [{"probability": 0.4127, "will_buy": 1, "missing": ""}]}
INVOCATIONS = _route(
    "Score precomputed columns",
    "For clients that have already computed the model's columns. The body has one of MLflow's formats: "
    "`dataframe_records`, `dataframe_split` or CSV. The predictions are the same as those of `mlflow models serve`.",
    {
        200: _answer("One prediction per row.", _PREDICTIONS),
        **_SLOW_BODY,
        400: _answer(f"A column is missing, a value is of the wrong type, or the body cannot be read. {_HOST}"),
        413: _answer(f"The body is larger than {guard.MAX_BYTES // 2**20} MiB."),
        415: _answer("The Content-Type is neither JSON nor CSV, or its charset is not UTF-8."),
        503: _answer("No version holds the alias, or the server is too busy."),
    },
    {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}, "example": {"dataframe_records": [_ROW]}},
            "text/csv": {"schema": {"type": "string"}},
        },
    },
)
HEALTH = _route(
    "Liveness",
    "Returns 200 while the process is alive.",
    {200: _answer("Alive.", {"status": "alive"}), 503: _answer(_BODIES)},
)
READY = _route(
    "Readiness",
    "Returns 200 if the server has a model and can read its state. `problems` lists all problems, "
    "including those that do not stop the server from answering.",
    {
        200: _answer(
            "Ready.",
            {"ready": True, "model": "purchase_predict", "env": "production", "model_version": "3", "problems": []},
        ),
        503: _answer(f"No version holds the alias, or the server cannot read its state. Or: {_BODIES}"),
    },
)
METRICS = _route(
    "Metrics",
    "Returns all metrics in Prometheus's text format.",
    {
        200: {"description": "All metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        503: _answer(_BODIES),
    },
)
