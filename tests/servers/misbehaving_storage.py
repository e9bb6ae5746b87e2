"""A stand-in for the JSON API of Cloud Storage, on a real socket. Tests can make it fail."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

BUCKET = "shop"


def crc32c(content: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


class Storage(ThreadingHTTPServer):
    """A server with one bucket, `BUCKET`.

    Attributes:
        objects: content of each object, by name.
        generations: generation of each object, by name.
        fault: returns what goes wrong with a request; None: nothing. It is called with the kind ("list" or "read"),
            the object's name (empty for a list), and the number of the request among those of the same kind and name,
            counted from 1. A status with a message is returned as an error. Two faults affect reads only: "cut" ends
            the connection after half of the content, and "garbled" sends wrong bytes of the right length.
        requests: number of requests so far, by kind and name.
        ranges: Range header of each read of an existing object; empty if the read had none.
    """

    daemon_threads = True

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects = objects
        self.generations = dict.fromkeys(objects, 1)
        self.fault: Callable[[str, str, int], tuple[int, str] | str | None] = lambda kind, name, number: None
        self.requests: Counter[tuple[str, str]] = Counter()
        self.ranges: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def reads(self) -> int:
        return sum(count for (kind, _), count in self.requests.items() if kind == "read")


class _Handler(BaseHTTPRequestHandler):
    server: Storage
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise a body would wait 40 ms until the client has confirmed the headers

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        _, _, name = url.path.partition("/o/")
        kind, name = ("read", unquote(name)) if query.get("alt") == "media" else ("list", "")
        with self.server.lock:
            self.server.requests[kind, name] += 1
            number = self.server.requests[kind, name]
        fault = self.server.fault(kind, name, number)
        if isinstance(fault, tuple):
            self._json(fault[0], {"error": {"code": fault[0], "message": fault[1]}})
        elif f"/b/{BUCKET}/" not in url.path:
            self._json(404, {"error": {"code": 404, "message": "The specified bucket does not exist."}})
        elif kind == "list":
            self._list(query)
        elif name not in self.server.objects or query.get("generation", "") != str(self.server.generations[name]):
            self._json(404, {"error": {"code": 404, "message": f"No such object: {BUCKET}/{name}"}})
        else:
            self._read(name, fault)

    def _json(self, status: int, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _list(self, query: dict[str, str]) -> None:
        prefix = query.get("prefix", "")
        names = sorted(name for name in self.server.objects if name.startswith(prefix))
        if query.get("delimiter"):
            names = [name for name in names if query["delimiter"] not in name[len(prefix) :]]
        start = int(query.get("pageToken", 0))
        page = names[start : start + 1000]
        answer: dict[str, object] = {"kind": "storage#objects", "items": [self._described(name) for name in page]}
        if start + 1000 < len(names):
            answer["nextPageToken"] = str(start + 1000)
        self._json(200, answer)

    def _described(self, name: str) -> dict[str, str]:
        content = self.server.objects[name]
        generation = str(self.server.generations[name])
        return {
            "name": name, "bucket": BUCKET, "size": str(len(content)), "generation": generation,
            "crc32c": crc32c(content),
        }  # fmt: skip

    def _read(self, name: str, fault: str | tuple[int, str] | None) -> None:
        content = self.server.objects[name]
        wanted = self.headers.get("Range", "")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        if start and start >= len(content):
            self._json(416, {"error": {"code": 416, "message": "range"}})
            return
        body = content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(bytes(byte ^ 1 for byte in body) if fault == "garbled" else body)


@contextmanager
def serving(objects: dict[str, bytes]) -> Iterator[Storage]:
    server = Storage(objects)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
