"""Access control: checks each request's token or Host header, and its size, and limits the requests in progress.

A body that arrives too slowly is refused, too.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import logging
import re
import time
from collections.abc import Mapping

import click
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from purchase_predict.parameters import local_path
from purchase_predict.serving import token_file
from purchase_predict.serving.meters import Meters

#: Names and addresses at which only programs on the same machine reach the server.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Maximum size of a request's body in bytes: `MAX_BYTES` for /invocations, `MAX_EVENT_BYTES` for all other paths.
MAX_EVENT_BYTES, MAX_BYTES = 2**20, 8 * 2**20
#: Maximum total size, in bytes, of the bodies of all requests in progress. A request that would exceed this total gets
#: a 503. A body stays in memory until its request is answered. Parsed as JSON, it may need 20 times as
#: much memory.
MAX_BYTES_IN_PROGRESS = 64 * 2**20
#: A refused body is read up to about this many bytes before the response is sent (`_drain`).
_DRAINED_BYTES = 32 * 2**20
#: Maximum seconds that the server waits for each part of a body.
BODY_SECONDS = 30.0
#: Maximum number of requests in progress. A further request gets a 503.
MAX_REQUESTS = 500
#: Paths that `MAX_REQUESTS` does not limit: a busy server must not seem dead, and its metrics show why it is busy.
PROBES = ("/health", "/ready", "/metrics")
#: The `detail` in responses: `NO_TOKEN` with status 401, `WRONG_HOST` with 400, `FAILED` with 500.
NO_TOKEN = "a token is needed: Authorization: Bearer <token>"
WRONG_HOST = "the Host header must be 127.0.0.1, localhost or [::1]"
FAILED = "the server failed; its log says where"
_TOO_MANY_BYTES = "the bodies of the requests in progress are too large in total: try again"
#: A Host header: a name, an IPv4 address or an IPv6 address in brackets, and perhaps a port.
_HOST = r"(\[[^\[\]]*\]|[^:\[\]]*)(?::[0-9]*)?"
#: Minimum number of characters of a token. A shorter token could be guessed.
_MIN_TOKEN = 16


def token_of(file: str, host: str) -> str:
    """Returns the token that every request must have; empty if none is required.

    Args:
        file: a file with the token as its only line; empty: no token.
        host: the address that the server listens on.

    Raises:
        click.ClickException: no file is given although other machines can reach the server, the file cannot be read,
            or it holds no valid token.
    """
    if not file:
        if host not in LOOPBACK:
            raise click.ClickException(
                f"host={host}: other machines can reach the server, so a token is needed. Write a token into a file "
                "(openssl rand -hex 32 prints a token), and add -P token_file=<file>"
            )
        return ""
    try:
        token = token_file.text_of(local_path("token_file", file))
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"token_file {file}: cannot be read: {error}") from error
    if len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise click.ClickException(
            f"token_file {file}: must hold one token of at least {_MIN_TOKEN} printable ASCII characters without spaces"
        )
    return token


class BodyRefused(Exception):
    """A request's body exceeds a limit or does not arrive. The exception has the HTTP status and an error text."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Guard:
    """ASGI middleware: checks and times each request, and turns an unexpected exception into a 500 without details."""

    def __init__(self, app: ASGIApp, token: str, host: str, meters: Meters) -> None:
        """Makes the middleware.

        Args:
            app: the application behind the middleware.
            token: the token that every request must have; empty: none is required.
            host: the address that the server listens on.
            meters: counts requests and refused bodies, and records how long requests took.
        """
        self._app, self._token, self._meters = app, token.encode(), meters
        self._names = None if token or host not in LOOPBACK else (*LOOPBACK, "[::1]")
        self._running = self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        probe = scope["path"] in PROBES
        self._running += not probe
        try:
            if refusal := self._refusal(headers, probe):
                await _drain(receive)
                await _answer(noting, *refusal)
            else:
                await self._limited(scope, receive, noting, headers)
        finally:
            self._running -= not probe
            # Metrics show the route's pattern instead of the path, because a path may contain a session id. `other`: no
            # route was reached.
            route = getattr(scope.get("route"), "path_format", "other")
            self._meters.request(str(route), status, time.perf_counter() - started)

    def _refusal(self, headers: Mapping[str, str], probe: bool) -> tuple[int, str] | None:
        if self._running > MAX_REQUESTS and not probe:
            return 503, f"{MAX_REQUESTS} requests are in progress: try again"
        if self._token:
            if not _has_token(headers.get("authorization", ""), self._token):
                return 401, NO_TOKEN
        elif self._names:
            # DNS rebinding: a foreign site can point its name to this machine. The browser then lets the site's page
            # send requests to this server. The Host header of these requests is the site's name.
            host = re.fullmatch(_HOST, headers.get("host", ""))
            if not host or host[1] not in self._names:
                return 400, WRONG_HOST
        return None

    async def _limited(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str]) -> None:
        limit = MAX_BYTES if scope["path"] == "/invocations" else MAX_EVENT_BYTES
        length = headers.get("content-length", "0")
        too_large = f"a request may have at most {limit} bytes"
        if not re.fullmatch("[0-9]{1,18}", length) or int(length) > limit:
            await _drain(receive)
            await _answer(send, 413, too_large)
            return
        if self._too_many_bytes(int(length)):
            await _drain(receive)
            await _answer(send, 503, _TOO_MANY_BYTES)
            return
        received, begun = 0, False

        async def counting() -> Message:
            nonlocal received
            message = await _part(receive)
            size = len(message.get("body", b""))
            if received + size > limit:
                raise BodyRefused(413, too_large)
            if self._too_many_bytes(size):
                raise BodyRefused(503, _TOO_MANY_BYTES)
            received += size
            self._bytes += size
            return message

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, counting, noting)
        except BodyRefused as error:
            await _answer(send, error.status, error.detail)
        except Exception as error:
            # The error's text may quote the request, so only the error's type and place are logged.
            place = error.__traceback__
            while place and place.tb_next:
                place = place.tb_next
            where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "unknown"
            logging.getLogger(__name__).error("a request failed: %s at %s", type(error).__name__, where)
            if not begun:
                await _answer(send, 500, FAILED)
        finally:
            self._bytes -= received

    def _too_many_bytes(self, more: int) -> bool:
        """Whether `more` further bytes would raise the total above `MAX_BYTES_IN_PROGRESS`.

        If so, the refusal is counted.
        """
        exceeded = self._bytes + more > MAX_BYTES_IN_PROGRESS
        if exceeded:
            self._meters.add("bodies_refused_total")
        return exceeded


def _has_token(authorization: str, token: bytes) -> bool:
    """Whether the Authorization header has the token: as a bearer token, or as a Basic password (any user name)."""
    scheme, _, given = authorization.partition(" ")
    value = given.strip().encode("utf-8", "replace")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value, token)


async def _part(receive: Receive) -> Message:
    """Receives the next part of a body.

    Raises:
        BodyRefused: no part arrives within `BODY_SECONDS`.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await receive()
    except TimeoutError:
        raise BodyRefused(408, f"no part of the body has arrived for {BODY_SECONDS:.0f} s") from None


async def _drain(receive: Receive) -> None:
    """Reads and discards a body, up to about `_DRAINED_BYTES`.

    Without this, a client that is still sending the body would get a broken connection instead of a response.
    """
    received, more = 0, True
    with contextlib.suppress(BodyRefused):
        while more and received < _DRAINED_BYTES:
            message = await _part(receive)
            received += len(message.get("body", b""))
            more = message.get("more_body", False)


async def _answer(send: Send, status: int, detail: str) -> None:
    body = b'{"detail": "' + detail.encode() + b'"}'
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 401:
        headers += [(b"www-authenticate", b"Bearer"), (b"www-authenticate", b'Basic realm="purchase-predict"')]
    if status in (408, 413):
        headers.append((b"connection", b"close"))  # part of the body may still be unread
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
