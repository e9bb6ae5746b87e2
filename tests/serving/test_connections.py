"""Silent connections are closed. The numbers of connections, of requests in progress and of their bytes are limited."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from purchase_predict.serving import connections, guard
from purchase_predict.serving.app import _add_errors
from purchase_predict.serving.guard import Guard
from purchase_predict.serving.meters import Meters

HEAD = "POST /events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\n"
WHOLE = f"{HEAD}12345"


async def read_and_answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers once the whole body has arrived."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def with_handlers() -> FastAPI:
    """Like `read_and_answer`, but as a FastAPI endpoint with the server's own error handlers."""
    app = FastAPI()
    _add_errors(app)

    @app.post("/events")
    async def events(request: Request) -> Response:
        await request.body()
        return Response()

    return app


@contextmanager
def serving(meters: Meters, app: ASGIApp = read_and_answer) -> Iterator[Callable[[], socket.socket]]:
    """Runs a server in a thread; yields a function that connects to it."""
    guarded = Guard(app, "", "127.0.0.1", meters)
    config = uvicorn.Config(guarded, http=connections.protocol(meters), lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield lambda: socket.create_connection(listening.getsockname(), timeout=10)
        finally:
            server.should_exit = True
            thread.join()


def status(connection: socket.socket) -> int:
    """Reads a response to its end; returns its status, or 0 if the server closes the connection without a response."""
    response = HTTPResponse(connection)
    try:
        response.begin()
    except ConnectionError:
        return 0
    response.read()
    assert (response.headers["Retry-After"] == "1") == (response.status == 503)
    return response.status


@pytest.mark.parametrize("said", ["", "POST /events HTTP/1.1\r\nHost: 127"])
def test_a_connection_without_a_request_is_closed(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.3)
    with serving(Meters()) as connect, connect() as silent, connect() as talking:
        silent.sendall(said.encode())
        talking.sendall(WHOLE.encode())
        assert status(talking) == 200
        assert status(silent) == 0
        talking.sendall(WHOLE.encode())  # a connection that has sent a request stays open
        assert status(talking) == 200


def test_connections_beyond_the_limit_are_closed_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    meters = Meters()
    with serving(meters) as connect, connect() as one, connect() as two:
        one.sendall(WHOLE.encode())
        two.sendall(WHOLE.encode())
        assert [status(one), status(two)] == [200, 200]
        with connect() as third:
            assert status(third) == 0
        assert meters.value("connections_refused_total") == 1


def test_requests_beyond_the_limit_get_a_503_that_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_REQUESTS", 1)
    meters = Meters()
    with serving(meters) as connect, connect() as slow, connect() as other:
        slow.sendall(HEAD.encode())
        time.sleep(0.2)
        other.sendall(WHOLE.encode())
        assert status(other) == 503
        for probe in guard.PROBES:  # the limit does not apply to probes: a busy server is alive
            other.sendall(WHOLE.replace("/events", probe).encode())
            assert status(other) == 200
        slow.sendall(b"12345")
        assert status(slow) == 200
        other.sendall(WHOLE.encode())
        assert status(other) == 200
    assert meters.value("errors_total", route="other") == 1


@pytest.mark.parametrize("app", [read_and_answer, with_handlers()])
@pytest.mark.parametrize("together", [False, True])
def test_bodies_that_are_too_large_together_get_a_503_that_is_counted(
    together: bool, app: ASGIApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_BYTES_IN_PROGRESS", 7)
    meters = Meters()
    with serving(meters, app) as connect, connect() as slow, connect() as other:
        if together:  # both requests have begun before the first byte of a body arrives
            other.sendall(HEAD.encode())
            time.sleep(0.2)
        slow.sendall(f"{HEAD}1234".encode())
        time.sleep(0.2)
        other.sendall(b"12345" if together else WHOLE.encode())
        assert status(other) == 503
        slow.sendall(b"5")
        assert status(slow) == 200
        for _ in range(3):  # answered and refused bodies no longer count
            slow.sendall(WHOLE.encode())
            assert status(slow) == 200
    assert meters.value("bodies_refused_total") == 1


def test_a_body_that_does_not_arrive_ends_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.3)
    with serving(Meters()) as connect, connect() as slow:
        slow.sendall(f"{HEAD}12".encode())
        assert status(slow) == 408
