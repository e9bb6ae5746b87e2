import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.servers.running import Network, machines, started, with_password
from tests.serving import served
from tests.workflow.runner import Workflow
from tools.server import Server


@pytest.fixture(scope="session")
def network() -> Iterator[Network | None]:
    """A network namespace for each step, which serves as its machine; None if they cannot be made here."""
    with machines() as made:
        yield made


@pytest.fixture(scope="session")
def server(network: Network | None) -> Iterator[Server]:
    """A server with PostgreSQL, the emulator of Cloud Storage and authentication, shared by all files of a worker.

    If there is a `network`, the server listens at the address of its bridge. Each test file uses its own experiment
    and its own registered models.
    """
    with started(network.bridge if network else "127.0.0.1", auth=True) as running:
        yield running


@pytest.fixture(scope="module")
def workflow(server: Server, project: Path, request: pytest.FixtureRequest) -> Workflow:
    """The project's workflow. It uses the server, and an experiment named after the test file."""
    made = Workflow(project, with_password(server), request.module.__name__)
    made.client.create_experiment(made.experiment)
    return made


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The primary table of the built-in sample of 20,000 events."""
    return served.primary_of("sample:20000", tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def registry(rows: pd.DataFrame, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a store with 2 versions of a model trained on `rows`: version 1 in production, version 2 in staging."""
    with served.registry_of(rows, empty_store, tmp_path_factory.mktemp("registry")) as store:
        yield store


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with pytest.importorskip("playwright.sync_api").sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=options)
        yield opened
        opened.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The folder for screenshots; SCREENSHOTS names one that is kept.

    With SCREENSHOTS=docs, test_serve.py replaces the pictures in docs/serving.md. Do not run test_report_page.py with
    this setting: it would replace the README's pictures of a real report with pictures of test data.
    """
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
