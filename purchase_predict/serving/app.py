"""The server's HTTP endpoints."""

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from mlflow.exceptions import MlflowException
from starlette.requests import ClientDisconnect

from purchase_predict.serving import documents, pages
from purchase_predict.serving.guard import BodyRefused
from purchase_predict.serving.health import Health
from purchase_predict.serving.invocations import invoke
from purchase_predict.serving.service import MAX_EVENTS, Service
from purchase_predict.serving.state import Busy, Unavailable

#: A whole number with more digits than this is read as infinity (`_whole`). Numbers in valid fields are much shorter.
_MOST_DIGITS = 400
#: The status in the metrics if a client disconnects before its whole request has arrived. No client receives it.
_CLIENT_GONE = 499

Result = TypeVar("Result")


class _Wrong(Exception):
    """An invalid request, with the HTTP status to return and an error text that quotes nothing of the request."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def build(
    service: Service, health: Health, quick: Executor, slow: Executor, probes: Executor, at_once: int = 0
) -> FastAPI:
    """Builds the FastAPI application.

    Args:
        service: counts events and scores carts.
        health: readiness and metrics.
        quick: runs the calls of /events, which wait for the state.
        slow: runs calls that may take long, so that /events does not wait for these calls.
        probes: runs /ready and /metrics, so that they do not queue behind requests that wait for the state.
        at_once: a request to /events with at most this many events is counted in the event loop itself, unless the
            state is busy. With a local state, passing the request to a thread takes longer than counting its events.
            0: all requests to /events use `quick`.
    """
    app = FastAPI(
        title="purchase-predict", version="1", description=documents.DESCRIPTION, docs_url=None, redoc_url=None
    )
    _add_errors(app)
    _add_events(app, service, quick, slow, at_once)
    _add_health(app, health, probes)
    _add_pages(app, slow)

    @app.post("/invocations", **documents.INVOCATIONS)
    async def invocations(request: Request) -> Response:
        scorer = service.follower.scorer
        if scorer is None:
            return JSONResponse({"detail": service.follower.problem}, 503)
        body, kind = await request.body(), request.headers.get("content-type", "")
        return await _in(slow, lambda: invoke(scorer, body, kind))

    return app


async def _in(executor: Executor, call: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(executor, call)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(BodyRefused)
    async def body_refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, BodyRefused)
        retry = {"Retry-After": "1"} if error.status == 503 else {}
        return JSONResponse({"detail": error.detail}, error.status, {"Connection": "close"} | retry)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=_CLIENT_GONE)

    @app.exception_handler(Unavailable)
    async def unavailable(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})

    @app.exception_handler(_Wrong)
    async def wrong(_: Request, error: Exception) -> Response:
        assert isinstance(error, _Wrong)
        return JSONResponse({"detail": error.detail}, error.status)

    @app.exception_handler(MlflowException)
    async def of_mlflow(_: Request, error: Exception) -> Response:
        assert isinstance(error, MlflowException)
        # MLflow's text may quote half a surrogate pair, which UTF-8 cannot encode. `JSONResponse` would therefore fail.
        # `serialize_as_json` escapes all characters that are not ASCII.
        return Response(error.serialize_as_json(), error.get_http_status_code(), media_type="application/json")


def _add_events(app: FastAPI, service: Service, quick: Executor, slow: Executor, at_once: int) -> None:
    @app.post("/events", **documents.EVENTS)
    async def events(request: Request) -> Response:
        raw = await _events(request)
        counted = None
        if len(raw) <= at_once:
            with contextlib.suppress(Busy):  # the state is in use: a thread of `quick` then waits
                counted = service.count(raw, wait=False)
        if counted is None:
            counted = await _in(quick, lambda: service.count(raw))
        return _json(counted, 422 if len(counted["refused"]) == len(raw) else 200)

    @app.post("/try", **documents.TRY)
    async def try_out(request: Request) -> Response:
        raw = await _events(request)
        tried = await _in(slow, lambda: service.try_out(raw))
        return _json(tried, 422 if len(tried["refused"]) == len(raw) else 200)

    @app.get("/carts/{user_session:path}", **documents.CARTS)
    async def carts(user_session: str, why: bool = False) -> Response:
        try:
            user_session.encode()
        except UnicodeEncodeError:
            raise _Wrong(422, "user_session must be text") from None
        return _json(await _in(slow, lambda: service.cart(user_session, why)), 200)


def _add_health(app: FastAPI, health: Health, probes: Executor) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health", **documents.HEALTH)
    async def alive() -> Response:
        return JSONResponse({"status": "alive"})

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", **documents.READY)
    async def ready() -> Response:
        found = await _in(probes, health.ready)
        return _json(found, 200 if found["ready"] else 503)

    @app.get("/metrics", **documents.METRICS)
    async def metrics() -> Response:
        return PlainTextResponse(
            await _in(probes, health.metrics), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


def _add_pages(app: FastAPI, slow: Executor) -> None:
    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(pages.try_page(), headers=pages.HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(pages.docs_page(app.openapi()), headers=pages.HEADERS)

    @app.get("/sample", include_in_schema=False)
    async def sample() -> Response:
        return _json(await _in(slow, pages.visits), 200)


async def _events(request: Request) -> Sequence[object]:
    """Reads the raw events from a request's body: one event, a list of events, or an object with the list `events`.

    Raises:
        _Wrong: the body has another form, is not JSON or is compressed, or has more than `MAX_EVENTS` events.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _Wrong(415, "Content-Type must be application/json")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise _Wrong(415, "Content-Encoding is not supported: send the body uncompressed")
    try:
        body = json.loads(await request.body(), parse_int=_whole)
    except (ValueError, RecursionError):
        raise _Wrong(400, "the body is not JSON") from None
    if isinstance(body, dict):
        body = body["events"] if isinstance(body.get("events"), list) else [body]
    if not isinstance(body, list) or not body:
        raise _Wrong(422, "the body must be an event or a list of events")
    if len(body) > MAX_EVENTS:
        raise _Wrong(413, f"a request may have at most {MAX_EVENTS} events")
    return body


def _whole(digits: str) -> float:
    """Parses a whole number in JSON; more than `_MOST_DIGITS` digits become infinity.

    `events.parse` then refuses only the event with this number. Python's `int` raises an error for more than 4,300
    digits, and the whole request would then be refused.
    """
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


def _json(value: object, status: int) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), status, media_type="application/json")
