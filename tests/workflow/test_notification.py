import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import mlflow
import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from main import main
from purchase_predict.settings import Settings
from purchase_predict.workflow import command as workflow_command
from purchase_predict.workflow import notification
from purchase_predict.workflow.command import StepFailed, command
from purchase_predict.workflow.notification import Posted, notify
from purchase_predict.workflow.stopping import MAIN_PROCESS
from steps.status import status
from steps.train import train
from tests.registered import invoke

SECRET = "T0SECRET"


@contextmanager
def listening(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[bytes]]]:
    """Starts a web server that answers each POST with `answer`; yields its address and the bodies posted so far."""
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
def posted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Sets NOTIFY_URL to a test server; yields a function that returns the texts posted so far, without run ids."""
    with listening(status_of(200)) as (address, bodies):
        monkeypatch.setenv("NOTIFY_URL", address)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
        yield lambda: [re.sub("run [0-9a-f]{32}", "run", json.loads(body)["text"]) for body in bodies]


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
            assert (out, err) == ("", f"notification not sent: {problem}; check the variable NOTIFY_URL\n")
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


class Away:
    """A tracking server that goes away while a run is open: after `go`, every write raises an MlflowException."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def __call__(self, *_: object, **__: object) -> None:
        raise MlflowException("API request failed: Connection refused")

    def go(self) -> None:
        for write in ("log_batch", "set_tag", "set_terminated", "update_run"):
            self.patch.setattr(mlflow.MlflowClient, write, self)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("error", "printed", "text"),
    [
        (
            MlflowException("Connection refused"),
            "Error: tracking server {uri}: Connection refused",
            "the workflow failed: MlflowException: Connection refused (run)",
        ),
        (click.ClickException("no rows"), "Error: no rows", "the workflow failed: no rows (run)"),
        (StepFailed("train: no rows"), "", "the workflow failed: train: no rows (run)"),
        (Posted("refused"), "Error: refused", ""),
        (ValueError("a bug"), "", "the workflow failed: ValueError: a bug (run)"),
        (KeyboardInterrupt(), "", ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_server_that_went_away_hides_neither_the_error_nor_its_notification(
    error: BaseException, printed: str, text: str, posted: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    @command("main")
    def fails(run: Run, **_: object) -> None:
        Away(monkeypatch).go()
        raise error

    result = invoke(fails)
    assert result.stderr.strip() == printed.format(uri=mlflow.get_tracking_uri())
    assert result.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert isinstance(result.exception, ValueError if isinstance(error, ValueError) else SystemExit)
    assert posted() == ([text] if text else [])


@pytest.mark.usefixtures("store")
def test_a_run_that_cannot_be_ended_is_notified_of(
    posted: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    @command("main")
    def works(run: Run, **_: object) -> None:
        Away(monkeypatch).go()

    assert invoke(works).exit_code == 1
    (text,) = posted()
    assert re.fullmatch("the workflow failed: tracking server sqlite:.*: API request failed: Connection refused", text)


@pytest.mark.usefixtures("store")
def test_an_error_before_the_run_opens_is_notified_of_once(
    run: Run, posted: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    invoke(main, nonsense=1)
    invoke(train, max_evals=0)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)  # as `mlflow run` does
    invoke(main, nonsense=1)
    assert "nonsense" in mlflow.MlflowClient().get_run(run.info.run_id).data.tags["error"]
    monkeypatch.delenv("MLFLOW_RUN_ID")
    monkeypatch.setenv("ENV", "prod")
    invoke(main)
    monkeypatch.setenv("ENV", "")
    uri = f"sqlite:///{tmp_path}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    invoke(train)
    invoke(status)
    monkeypatch.setenv(MAIN_PROCESS, "a process")  # main sets it for itself and its steps
    invoke(train)
    invoke(main)
    no_run = f"tracking server {uri}: no run can be opened: {tmp_path} is a folder, not a file"
    starts = [
        "the workflow failed: No such option '--nonsense'",
        "train failed: max_evals=0: must be a whole number, 1 or more (run)",
        "the workflow failed: No such option '--nonsense'",
        "the workflow failed: ENV=prod: must be staging, production or empty",
        f"train failed: {no_run}",
        f"the workflow failed: {no_run}",
    ]
    assert [text[: len(start)] for text, start in zip(posted(), starts, strict=True)] == starts
    assert posted()[2].endswith(" (run)")


@pytest.mark.usefixtures("store")
def test_main_notifies_for_its_steps(posted: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = mlflow.set_experiment("tests").experiment_id
    of_main = mlflow.MlflowClient().create_run(experiment, tags={MLFLOW_PARENT_RUN_ID: "main"})
    monkeypatch.setenv("MLFLOW_RUN_ID", of_main.info.run_id)
    assert invoke(train, max_evals=0).exit_code == 1
    assert posted() == []


def test_a_bug_before_the_run_opens_is_notified_of(
    posted: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_orphans() -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(workflow_command, "remove_orphans", remove_orphans)
    assert isinstance(invoke(main).exception, FileNotFoundError)
    assert posted() == ["the workflow failed: FileNotFoundError: no usable temporary directory"]
