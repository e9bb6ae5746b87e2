"""The benchmark's client counts a request as failed unless its answer has the status 200 and a Content-Length."""

import itertools
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks import arrivals


class Shop(BaseHTTPRequestHandler):
    """Treats each request as its body asks.

    The body is a status, `silence` (no answer), `cut` (the connection is closed), or `no length` (status 200 without a
    Content-Length).
    """

    protocol_version = "HTTP/1.1"
    over = threading.Event()

    def do_POST(self) -> None:
        wish = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if wish == "silence":
            self.over.wait(30)
        if wish in ("silence", "cut"):
            self.close_connection = True
            return
        self.send_response(int(wish) if wish.isdigit() else 200)
        if wish != "no length":
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_whatever_is_not_answered_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "LAST_SECONDS", 0.5)
    wishes = [b"200", b"503", b"silence", b"cut", b"no length"]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        waits = arrivals.arrive(f"http://127.0.0.1:{server.server_port}", "/", itertools.cycle(wishes), 50, 1.0)
    finally:
        Shop.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert waits.failed == 40
    assert len(waits.seconds) == 20  # the answers with a Content-Length, of either status
