"""The text of the server's own documentation: summary, example and responses of each endpoint."""

from typing import Any

from purchase_predict.schema import EVENT_TYPES
from purchase_predict.serving.service import MAX_CARTS

DESCRIPTION = (
    "This visitor has just put this product in the cart: will they buy it in this session? Send the shop's "
    "events. The model that now holds the environment's alias answers each cart event with a probability."
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
_TEXT = {"anyOf": [{"type": "string", "maxLength": 500}, {"type": "null"}]}
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
        "user_session": {"type": "string", "minLength": 1, "maxLength": 500},
    },
}
_EVENTS_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"anyOf": [_EVENT, {"type": "array", "items": _EVENT, "minItems": 1, "maxItems": 1000}]},
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
_ERRORS = {
    400: _answer("The body is not JSON.", {"detail": "the body is not JSON"}),
    413: _answer(
        "The body has more than 1 MiB, or more than 1,000 events.", {"detail": "a request may have at most 1000 events"}
    ),
    415: _answer("The Content-Type is not application/json.", {"detail": "Content-Type must be application/json"}),
    422: _answer(
        "No event is valid. For each event, `refused` gives the invalid field, its value and the reason.",
        {"events": 0, "repeated": 0, "refused": [_REFUSED], "answers": []},
    ),
    503: _answer(
        "The state cannot be written, or the server is too busy. Nothing was counted. Send the request again."
    ),
}


def _route(summary: str, description: str, responses: dict[int, Any], body: Any = None) -> dict[str, Any]:
    extra = {"openapi_extra": {"requestBody": body}} if body else {}
    return {"summary": summary, "description": description, "responses": responses, "response_model": None, **extra}


EVENTS = _route(
    "Count events, answer carts",
    "Send one event or a list of events, of any visitors. An event counts once, however often exactly the same event "
    "is sent. A repeated cart event is answered again. An invalid event is refused, the others are counted. Send a "
    "visitor's events of the same second together, because an answer uses only the events that have arrived. `late` "
    "is true if the answer also used later events, or may be wrong about earlier sessions. `missing` lists the model's "
    "columns that the answer had to do without, such as the price if the event has none.",
    {
        200: _answer("What was counted.", {"events": 2, "repeated": 0, "refused": [], "answers": [_ANSWER]}),
        **_ERRORS,
    },
    _EVENTS_BODY,
)
TRY = _route(
    "Try events out",
    "Answers like /events, but without `late`. Each answer also has the columns and their contributions to the answer "
    "(SHAP values in log-odds). Events may be of any age. Nothing is kept.",
    {200: _answer("The answers that /events would give."), **_ERRORS},
    _EVENTS_BODY,
)
CARTS = _route(
    "What is in a cart",
    "The products in the cart of a session. The current model scores each product, with the columns as they were when "
    "the product was put in the cart. `why=true` adds each column's contribution to the answer. The answer shows at "
    f"most {MAX_CARTS} pairs of a user and a product. `complete` is false if the session id has more pairs than that.",
    {
        200: _answer(
            "The cart; empty for a session that has none.",
            {
                "user_session": _CART["user_session"],
                "complete": True,
                "carts": [{k: v for k, v in _ANSWER.items() if k not in ("event", "late")} | {"columns": _ROW}],
            },
        ),
        422: _answer("`why` is not true or false."),
        503: _answer("The state cannot be read."),
    },
)
_PREDICTIONS = {"predictions": [{"probability": 0.4127, "will_buy": 1, "missing": ""}]}
INVOCATIONS = _route(
    "Score ready columns",
    "For callers that have the columns. The body has one of MLflow's formats: `dataframe_records`, `dataframe_split` "
    "or CSV. The answers are the same as those of `mlflow models serve`.",
    {
        200: _answer("One prediction per row.", _PREDICTIONS),
        400: _answer("A column is missing, or a value is of the wrong type."),
        413: _answer("The body has more than 8 MiB."),
        415: _answer("The Content-Type is not that of JSON or CSV."),
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
HEALTH = _route("Alive", "200 as long as the process answers.", {200: _answer("Alive.", {"status": "alive"})})
READY = _route(
    "Ready",
    "200 if model and state can be used. `problems` lists all faults, including those with which the server still "
    "answers.",
    {
        200: _answer(
            "Ready.",
            {"ready": True, "model": "purchase_predict", "env": "production", "model_version": "3", "problems": []},
        ),
        503: _answer("No version holds the alias, or the state cannot be read."),
    },
)
METRICS = _route(
    "Metrics",
    "Prometheus's text format.",
    {200: {"description": "All metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
