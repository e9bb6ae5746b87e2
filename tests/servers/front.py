"""A real HTTP server in front of a tracking server: it asks for a bearer token, or fails as a test wants."""

import http.client
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: What happens to a request. None: it is passed on. An HTTP status: the response has this status. "cut": the connection
#: is closed without a response. "hang": the same, after up to 30 s of silence.
Fault = int | str | None


@dataclass
class Front:
    """The settings of the server in front, and the requests that it has received.

    Attributes:
        behind: URI of the tracking server, with user and password if it needs them; empty if every request fails.
        token: the bearer token that a request must have; empty: none is required.
        fault: returns the fault for a request from its method, its path and its number, counted from 1.
        url: URL of the server in front, set by `standing`.
        seen: method and path of each request so far.
    """

    behind: str = ""
    token: str = ""
    fault: Callable[[str, str, int], Fault] = lambda method, path, number: None
    url: str = ""
    seen: list[str] = field(default_factory=list)


@contextmanager
def standing(front: Front) -> Iterator[Front]:
    """Runs the server in front on a free port of 127.0.0.1 until the block ends."""
    over = threading.Event()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                front.seen.append(f"{self.command} {self.path}")
                fault = front.fault(self.command, self.path, len(front.seen))
            if fault == "hang":
                over.wait(30)
            if fault in ("hang", "cut"):
                self.close_connection = True
                return
            if front.token and self.headers.get("Authorization") != f"Bearer {front.token}":
                fault = 401
            if isinstance(fault, int):
                self.reply(fault, {}, b"no")
                return
            server = urlsplit(front.behind)
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            if server.username:
                headers["Authorization"] = (
                    "Basic " + b64encode(f"{server.username}:{server.password}".encode()).decode()
                )
            connection = http.client.HTTPConnection(str(server.hostname), server.port, timeout=120)
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            self.reply(response.status, dict(response.headers.items()), response.read())
            connection.close()

        def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    class FrontServer(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            if not isinstance(
                sys.exc_info()[1], ConnectionError
            ):  # a client that disconnects is not an error of the server
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    server = FrontServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    front.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield front
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()
