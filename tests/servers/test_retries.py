"""A tracking server that fails, hangs or is gone: tried again by MLflow's own settings, then told in one line."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import PROJECT
from tests.servers.front import Fault, Front, standing
from tests.workflow.runner import clean_environ, tracking_server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a tracking server on SQLite that asks for no password."""
    with tracking_server(tmp_path_factory.mktemp("plain")) as uri:
        yield uri


def load(uri: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """The step load by itself, with a server that is tried twice and not for long."""
    quick = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "MLFLOW_TRACKING_URI": uri,
    }  # fmt: skip
    return subprocess.run(
        ["python", "-m", "steps.load", "--source=sample:300"],
        cwd=PROJECT, env=clean_environ() | quick | environ, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("fault", [500, 503, "cut", "hang"])
def test_a_server_that_always_fails_is_named_without_its_password_after_the_last_try(fault: Fault) -> None:
    with standing(Front(fault=lambda method, path, number: fault)) as front:
        outcome = load(front.url.replace("://", "://ann:planted-password@"))
        assert len(front.seen) == 2  # once, and once more as MLFLOW_HTTP_REQUEST_MAX_RETRIES says
    assert outcome.returncode == 1
    assert re.fullmatch(rf"Error: tracking server {front.url}: .*\n", outcome.stderr), outcome.stderr
    assert "planted-password" not in outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "mlflow-artifacts/artifacts"),
        ("POST", "runs/set-tag"),
        ("GET", "mlflow-artifacts/artifacts?"),
        ("POST", "runs/update"),
    ],
)
def test_a_server_that_fails_in_the_middle_of_a_step_ends_it_in_one_line(method: str, path: str, plain: str) -> None:
    def fault(asked: str, at: str, number: int) -> Fault:
        return 503 if asked == method and path in at else None

    with standing(Front(plain, fault=fault)) as front:
        outcome = load(front.url)
        assert any(request.startswith(method) and path in request for request in front.seen)
    assert outcome.returncode == 1
    assert re.fullmatch(rf"Error: tracking server {front.url}: .*\n", outcome.stderr), outcome.stderr


def test_a_server_that_fails_now_and_then_costs_nothing_but_time(plain: str) -> None:
    kinds: list[Fault] = [503, "cut", 500]

    def fault(method: str, path: str, number: int) -> Fault:
        return kinds[number // 4 % 3] if number % 4 == 0 else None

    with standing(Front(plain, fault=fault)) as front:
        outcome = load(front.url, MLFLOW_HTTP_REQUEST_MAX_RETRIES="5")
        assert len(front.seen) > 8
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
