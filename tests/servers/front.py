"""A real HTTP server that stands before a tracking server: asks for a bearer token, or fails as it is told."""

import http.client
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: What it does instead of handing a request on: answers with that status, cuts the connection, or says nothing.
Fault = int | str | None


@dataclass
class Front:
    """Hands requests on to `behind` (none may be needed where each fails).

    Attributes:
        behind: URI of the server behind, with user and password where it wants them.
        fault: decides by method, path and the number of the request, counted from 1.
        token: what a client must bear, or '' to let everybody in.
    """

    behind: str = ""
    token: str = ""
    fault: Callable[[str, str, int], Fault] = lambda method, path, number: None
    url: str = ""
    seen: list[str] = field(default_factory=list)


@contextmanager
def standing(front: Front) -> Iterator[Front]:
    """Serves on a free port of the loopback until the block ends."""
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
            ):  # a client that has hung up is no error of the server's
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
