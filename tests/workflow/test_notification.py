import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from purchase_predict.settings import Settings
from purchase_predict.workflow import notification
from purchase_predict.workflow.notification import notify
from steps.status import status
from steps.train import train
from tests.registered import invoke

SECRET = "T0SECRET"


@contextmanager
def listening(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[bytes]]]:
    """An address, and the bodies that were posted to it."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/services/{SECRET}", bodies
    finally:
        server.shutdown()
        server.server_close()


def status_of(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


@pytest.fixture
def run(store: str) -> Run:
    return mlflow.MlflowClient().create_run("0")


def test_a_text_is_posted_as_slack_takes_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(status_of(200)) as (address, bodies):
        monkeypatch.setenv("NOTIFY_URL", address)
        notify("version 3 of https://me:password@host/x\x1b[31m", run)
    (body,) = bodies
    assert json.loads(body) == {"text": f"version 3 of https://host/x\\x1b[31m (run {run.info.run_id})"}


def test_without_an_address_nothing_is_sent(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTIFY_URL", "")
    notify("text", run)
    assert capsys.readouterr() == ("", "")


def test_whatever_is_wrong_with_the_address_is_one_line_without_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notification, "_TIMEOUT", 0.3)
    hangs = threading.Event()
    moved = status_of(302, Location="http://127.0.0.1:9/elsewhere")
    with (
        listening(status_of(404)) as (missing, _),
        listening(moved) as (redirected, _),
        listening(lambda handler: handler.wfile.write(b"no HTTP\r\n") and None) as (garbage, _),
        listening(lambda _: hangs.wait(5) and None) as (silent, _),
    ):
        for address, problem in (
            (missing, "the address answered 404"),
            (redirected, "the address answered 302"),
            (garbage, "the address cannot be reached (BadStatusLine)"),
            (silent, "no answer within 0 s"),
            (f"http://127.0.0.1:9/{SECRET}", "the address cannot be reached (ConnectionRefusedError)"),
            (f"http://[{SECRET}", "the address cannot be reached (ValueError)"),
            (f"file:///{SECRET}", "the address must begin with https:// or http://"),
        ):
            monkeypatch.setenv("NOTIFY_URL", address)
            started = time.monotonic()
            notify("text", run)
            assert time.monotonic() - started < 3
            out, err = capsys.readouterr()
            assert (out, err) == ("", f"notification not sent: {problem}; see the variable NOTIFY_URL\n")
        hangs.set()


def test_the_address_is_a_secret_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"NOTIFY_URL=https://hooks.example/{SECRET}")
    settings = Settings.read({}, tmp_path)
    assert settings.notify_url == f"https://hooks.example/{SECRET}"
    assert SECRET not in repr(settings)
    environ: dict[str, str] = {}
    settings.export(environ)
    assert environ == {}


def test_a_failure_is_told_once_and_leaves_nothing_of_the_address(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(status_of(500)) as (address, bodies):
        monkeypatch.setenv("NOTIFY_URL", address)
        failed = invoke(train, max_evals=0)
        asked = invoke(status, registry_name="missing")
    assert (failed.exit_code, asked.exit_code) == (1, 1)
    (text,) = (json.loads(body)["text"] for body in bodies)
    assert re.fullmatch(r"train failed: max_evals=0: must be a whole number, 1 or more \(run [0-9a-f]{32}\)", text)
    assert SECRET not in failed.output + failed.stderr
    client = mlflow.MlflowClient()
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert len(runs) == 2
    assert SECRET not in repr([run.to_dictionary() for run in runs])
