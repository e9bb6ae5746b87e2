import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tools.server import Server, program


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """What `make server AUTH=true` starts: PostgreSQL, the emulator of Cloud Storage, mlflow with authentication."""
    try:
        program("initdb")
    except click.ClickException as missing:
        pytest.skip(missing.message)
    # Not pytest's own folder: nobody but its owner can enter that, and PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="server-", dir="/tmp"))
    folder.chmod(0o755)
    running = Server(folder)
    running.configure("127.0.0.1", 0, "", auth=True)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)
