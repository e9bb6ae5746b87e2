"""A tracking server that fails, hangs or cuts connections.

MLflow repeats a failed request as often as its own settings say. After the last try, the step ends with one line.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.conftest import PROJECT
from tests.servers.front import Fault, Front, standing
from tests.workflow.runner import Outcome, Workflow, tracking_server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a tracking server on SQLite that asks for no password."""
    with tracking_server(tmp_path_factory.mktemp("plain")) as uri:
        yield uri


@pytest.fixture
def load(caplog: pytest.LogCaptureFixture) -> Callable[..., Outcome]:
    """Runs the step load alone, in this process. A request is tried at most twice, with a timeout of 2 s."""
    quick = {"MAX_RETRIES": "1", "BACKOFF_FACTOR": "0", "BACKOFF_JITTER": "0", "TIMEOUT": "2"}

    def run(uri: str, **settings: str) -> Outcome:
        workflow = Workflow(PROJECT, uri, experiment="")
        asked = {f"MLFLOW_HTTP_REQUEST_{name}": value for name, value in (quick | settings).items()}
        outcome = workflow.step_here("load", "-P", "source=sample:300", **asked)
        # In a process of its own, load would print warnings to stderr. Those of urllib3 would not be printed, because
        # urllib3 has a handler that drops them.
        records = [record for record in caplog.records if record.levelno >= logging.WARNING]
        warned = [record.getMessage() for record in records if not record.name.startswith("urllib3.")]
        return replace(outcome, err=outcome.err + "".join(f"{line}\n" for line in warned))

    return run


@pytest.mark.parametrize("fault", [500, 503, "cut", "hang"])
def test_a_server_that_always_fails_is_named_without_its_password_after_the_last_try(
    fault: Fault, load: Callable[..., Outcome]
) -> None:
    with standing(Front(fault=lambda method, path, number: fault)) as front:
        outcome = load(front.url.replace("://", "://ann:planted-password@"))
        assert len(front.seen) == 2  # the first try, and 1 retry (MLFLOW_HTTP_REQUEST_MAX_RETRIES)
    assert outcome.code == 1
    assert re.fullmatch(rf"Error: tracking server {front.url}: .*\n", outcome.err), outcome.err
    assert "planted-password" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "mlflow-artifacts/artifacts"),
        ("POST", "runs/set-tag"),
        ("GET", "mlflow-artifacts/artifacts?"),
        ("POST", "runs/update"),
    ],
)
def test_a_server_that_fails_in_the_middle_of_a_step_ends_it_in_one_line(
    method: str, path: str, plain: str, load: Callable[..., Outcome]
) -> None:
    def fault(asked: str, at: str, number: int) -> Fault:
        return 503 if asked == method and path in at else None

    with standing(Front(plain, fault=fault)) as front:
        outcome = load(front.url)
        assert any(request.startswith(method) and path in request for request in front.seen)
    assert outcome.code == 1
    assert re.fullmatch(rf"Error: tracking server {front.url}: .*\n", outcome.err), outcome.err


def test_a_server_that_fails_now_and_then_costs_nothing_but_time(plain: str, load: Callable[..., Outcome]) -> None:
    kinds: list[Fault] = [503, "cut", 500]

    def fault(method: str, path: str, number: int) -> Fault:
        return kinds[number // 4 % 3] if number % 4 == 0 else None

    with standing(Front(plain, fault=fault)) as front:
        outcome = load(front.url, MAX_RETRIES="5")
        assert len(front.seen) > 8
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
