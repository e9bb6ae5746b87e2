"""Serves the stand-in for a cluster (see `standin`) over HTTP on this machine, and writes a kubeconfig for it."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.kubernetes.standin import TOKEN, Cluster, Error


class Handler(BaseHTTPRequestHandler):
    """Answers the calls of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise a body would wait 40 ms until the client has confirmed the headers
    cluster: Cluster

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.cluster.outages:
                self.cluster.outages -= 1
                raise Error(503, "ServiceUnavailable", "the server is currently unable to handle the request")
            if self.headers.get("Authorization") != f"Bearer {self.cluster.token}":
                raise Error(401, "Unauthorized", "Unauthorized")
            self._answer(method, address.path, query, body)
        except Error as error:
            status = {"kind": "Status", "status": "Failure", "message": str(error), "reason": error.reason}
            self._json({**status, "code": error.code}, error.code)
        except ConnectionError:
            pass

    def _answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        jobs = re.fullmatch(r"/apis/batch/v1/namespaces/([^/]+)/jobs(?:/([^/]+))?", path)
        core = re.fullmatch(r"/api/v1/namespaces/([^/]+)/(pods|events)(?:/([^/]+)/log)?", path)
        if jobs and method == "POST":
            self._json(self.cluster.create(jobs[1], json.loads(body), query.get("fieldValidation") == "Strict"), 201)
        elif jobs and jobs[2] and method == "GET":
            self._json(self.cluster.job(jobs[2]))
        elif jobs and jobs[2] and method == "DELETE":
            self.cluster.delete(jobs[2])
            self._json({"kind": "Status", "status": "Success"})
        elif jobs and query.get("watch") == "true":
            name, since = query["fieldSelector"].removeprefix("metadata.name="), int(query["resourceVersion"])
            self._stream(json.dumps(one) for one in self.cluster.watch(name, since, float(query["timeoutSeconds"])))
        elif core and core[2] == "pods" and core[3]:
            self._stream(self._log(core[3], query))
        elif core and core[2] == "pods":
            self._json({"items": self.cluster.pods_of(query["labelSelector"].removeprefix("job-name="))})
        elif core and core[2] == "events":
            name = query["fieldSelector"].removeprefix("involvedObject.name=")
            self._json({"items": [one for one in self.cluster.events if one["involvedObject"]["name"] == name]})
        else:
            raise Error(404, "NotFound", "the server could not find the requested resource")

    def _log(self, pod: str, query: dict[str, str]) -> Iterator[str]:
        container = self.cluster.containers.get(pod)
        if container is None:
            raise Error(400, "BadRequest", f'container in pod "{pod}" is waiting to start')

        def lines() -> Iterator[str]:
            sent, ended = 0, False
            while not ended:
                with container.changed:
                    if len(container.lines) == sent and container.code is None:
                        container.changed.wait(1)
                    new, ended = container.lines[sent:], container.code is not None
                for time, text in new:
                    if time[:19] >= query.get("sinceTime", "")[:19]:  # the API ignores fractions of a second
                        yield f"{time} {text}"
                sent += len(new)

        return lines()

    def _json(self, answer: Any, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, lines: Iterator[str]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            data = f"{line}\n".encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints no traceback, because a test may have killed the caller during the call."""


@contextmanager
def served(cluster: Cluster, folder: Path) -> Iterator[Path]:
    """Serves a stand-in until the block ends, and yields the path of a kubeconfig for it. At the end, kills the
    containers that still run.

    Args:
        cluster: the stand-in.
        folder: where the kubeconfig is written.
    """
    handler = type("Bound", (Handler,), {"cluster": cluster})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = folder / "kubeconfig"
    address = f"http://127.0.0.1:{server.server_port}"
    config.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "standin",
                "contexts": [{"name": "standin", "context": {"cluster": "standin", "user": "launcher"}}],
                "clusters": [{"name": "standin", "cluster": {"server": address}}],
                "users": [{"name": "launcher", "user": {"token": TOKEN}}],
            }
        )
    )
    try:
        yield config
    finally:
        server.shutdown()
        server.server_close()
        cluster.close()
