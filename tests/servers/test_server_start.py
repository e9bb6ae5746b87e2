"""The first `make server` may be interrupted at any point: the next one continues."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tools.machine import program
from tools.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """A configured server that has not been started."""
    try:
        program("initdb")
    except click.ClickException as missing:
        pytest.skip(missing.message)
    folder = Path(tempfile.mkdtemp(prefix="server-", dir="/tmp"))  # PostgreSQL's own user must be able to enter it
    folder.chmod(0o755)
    made = Server(folder)
    made.configure("127.0.0.1", 0, "", False)
    yield made
    made.stop(["postgres"])
    shutil.rmtree(folder)


@pytest.mark.parametrize("interrupted", ["_pg", "_create_databases"], ids=["initdb", "createdb"])
def test_a_start_continues_where_an_earlier_one_was_interrupted(
    server: Server, interrupted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Server, interrupted, interrupt)
        with pytest.raises(KeyboardInterrupt):
            server.start(["postgres"])
    assert server.running("postgres") == (interrupted == "_create_databases")
    server.start(["postgres"])
    for name in ("mlflow", "auth"):
        assert "PostgreSQL database dump complete" in server.dump(name)
