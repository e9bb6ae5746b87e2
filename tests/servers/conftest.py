import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from tests.conftest import checkout
from tests.workflow.runner import Workflow
from tools.machine import program
from tools.server import Server


@contextmanager
def started(host: str, auth: bool) -> Iterator[Server]:
    """What `make server` starts, in a folder that goes when the block ends."""
    try:
        program("initdb")
    except click.ClickException as missing:
        pytest.skip(missing.message)
    # Not pytest's own folder: nobody but its owner can enter that, and PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="server-", dir="/tmp"))
    folder.chmod(0o755)
    server = Server(folder)
    server.configure(host, 0, "", auth)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """PostgreSQL, the emulator of Cloud Storage, and mlflow with authentication."""
    with started("127.0.0.1", auth=True) as running:
        yield running


def with_password(server: Server) -> str:
    """The URI of a server that asks for a password, with user and password in it."""
    return server.config.uri.replace("://", f"://admin:{server.config.password}@")


@pytest.fixture(scope="module")
def workflow(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A checkout of the project that works against the server."""
    return Workflow(checkout(tmp_path_factory.mktemp("checkout") / "project"), with_password(server))
