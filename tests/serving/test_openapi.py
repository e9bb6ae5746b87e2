"""The statuses that openapi.json documents for a route are those that the guard and the route return."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from unittest import mock

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from starlette.responses import Response
from starlette.types import ASGIApp, Message

from purchase_predict.serving import app, documents, guard
from purchase_predict.serving.events import Refused, parse
from purchase_predict.serving.guard import Guard
from purchase_predict.serving.meters import Meters
from purchase_predict.serving.service import MAX_EVENTS
from purchase_predict.serving.state import Unavailable
from tests.serving.served import event

TOKEN = "0123456789abcdef0123"
JSON = {"content-type": "application/json"}
#: `COUNTING`: the routes that take events. `READING`: all routes that read a body.
COUNTING = ("/events", "/try")
READING = (*COUNTING, "/invocations")
COUNTED = {"refused": []}


class Server:
    """The server's routes, with a service that counts nothing."""

    def __init__(self) -> None:
        self.service, self.health = mock.Mock(), mock.Mock()
        self.service.count.return_value = self.service.try_out.return_value = COUNTED
        self.service.cart.return_value = {}
        self.health.ready.return_value, self.health.metrics.return_value = {"ready": True}, ""
        threads = ThreadPoolExecutor(1)
        self.routes = app.build(self.service, self.health, threads, threads, threads)

    @property
    def documented(self) -> dict[str, set[int]]:
        paths = self.routes.openapi()["paths"]
        return {path: set(map(int, next(iter(ways.values()))["responses"])) for path, ways in paths.items()}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(app, "invoke", mock.Mock(return_value=Response()))
    return Server()


def status(routes: ASGIApp, path: str, body: bytes | None = b"[1]", token: str = "", **headers: str) -> int:
    """The status of the response to a request. If `body` is None, the body never arrives."""
    found: list[int] = []

    async def receive() -> Message:
        if body is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    path, _, query = path.replace("{user_session}", "s").partition("?")
    given = {"host": "127.0.0.1", **JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": "POST" if path in READING else "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    asyncio.run(Guard(routes, token, "127.0.0.1", Meters())(scope, receive, send))
    assert len(found) == 1
    return found[0]


def of_guard(routes: ASGIApp, path: str, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    async def fails(*_: object) -> None:
        raise ZeroDivisionError

    found = {
        status(routes, path, host="shop.example.org"),
        status(routes, path, token=TOKEN),
        status(routes, path, content_length=str(10**9)),
        status(fails, path),
    }
    assert found == {400, 401, 413, 500}
    for name, limit in (("MAX_REQUESTS", 0), ("MAX_BYTES_IN_PROGRESS", 1), ("BODY_SECONDS", 0.01)):
        with monkeypatch.context() as patched:
            patched.setattr(guard, name, limit)
            found.add(status(routes, path, None if name == "BODY_SECONDS" else b"[1]", content_length="3"))
    return found


def of_routes(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Paths, each with a status that its route returns; `of_guard` has the statuses that the guard returns."""
    routes = server.routes
    for path in server.documented:
        yield path, status(routes, path)
    for path in READING:
        too_large = b" " * (guard.MAX_BYTES + 1)
        yield path, status(routes, path, too_large)
    for path in COUNTING:
        many = json.dumps([1] * (MAX_EVENTS + 1)).encode()
        yield from ((path, status(routes, path, body)) for body in (b"?", b"[]", b"1", many))
        yield path, status(routes, path, content_type="text/plain")
        yield path, status(routes, path, content_encoding="gzip")
    refused = {"refused": [{}]}
    server.service.count.return_value = server.service.try_out.return_value = refused
    yield from ((path, status(routes, path)) for path in COUNTING)
    for name in ("count", "try_out", "cart"):
        getattr(server.service, name).side_effect = Unavailable("the state cannot be read")
    server.health.ready.return_value = {"ready": False}
    yield from ((path, status(routes, path)) for path in (*COUNTING, "/carts/{user_session}", "/ready"))
    yield "/carts/{user_session}", status(routes, "/carts/{user_session}?why=perhaps")
    for answer in (Response(status_code=415), MlflowException("the body cannot be read", error_code=BAD_REQUEST)):
        monkeypatch.setattr(app, "invoke", mock.Mock(side_effect=[answer]))
        yield "/invocations", status(routes, "/invocations")
    server.service.follower.scorer, server.service.follower.problem = None, "no version"
    yield "/invocations", status(routes, "/invocations")


def test_every_status_that_a_route_returns_is_documented_and_no_other(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {path: of_guard(server.routes, path, monkeypatch) for path in server.documented}
    for path, returned in of_routes(server, monkeypatch):
        found[path].add(returned)
    assert found == server.documented


def test_the_documented_limits_are_those_of_the_server(server: Server) -> None:
    one, many = documents.EVENTS["openapi_extra"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    for more, wanted in ((0, 200), (1, 413)):
        body = json.dumps([1] * (many["maxItems"] + more)).encode()
        assert [status(server.routes, path, body) for path in COUNTING] == [wanted] * 2
    for name in ("user_session", "brand", "category_code"):
        schema = one["properties"][name]
        longest = "a" * (schema.get("maxLength") or schema["anyOf"][0]["maxLength"])
        assert parse(event("10:00:00", "view") | {name: longest}, datetime.now(UTC))
        with pytest.raises(Refused):
            parse(event("10:00:00", "view") | {name: f"{longest}a"}, datetime.now(UTC))
