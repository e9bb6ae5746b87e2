"""Starts the preloaded Python of this test process, when the first workflow asks for it."""

import atexit
import contextlib
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.preloaded import command

HERE = Path(__file__).resolve().parent


@functools.cache
def commands() -> Path | None:
    """A folder for the front of PATH, with a preloaded `python` and `mlflow`; None where this is not Linux."""
    if sys.platform != "linux":
        return None
    folder = Path(tempfile.mkdtemp(prefix="preloaded-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address = str(folder / "socket")
    _write_commands(folder, address)
    # Its standard input is never written to: it ends with this process.
    server = subprocess.Popen(
        [sys.executable, HERE / "server.py", address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    )
    atexit.register(_stop, server)
    assert server.stdout
    assert server.stdout.readline() == b"ready\n"
    return folder


@contextlib.contextmanager
def preloaded() -> Iterator[None]:
    """What this process starts with its own Python while the block runs, starts with the preloaded one."""
    before, folder = sys.executable, commands()
    sys.executable = str(folder / "python") if folder else before
    try:
        yield
    finally:
        sys.executable = before


def _stop(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin
    server.stdin.close()
    server.wait()


def _write_commands(folder: Path, address: str) -> None:
    real = Path(sys.executable).parent
    for name, script in (("python", []), ("mlflow", [str(real / "mlflow")])):
        run = f"run({address!r}, {command.start()!r}, {sys.executable!r}, {script!r})"
        file = folder / name
        file.write_text(
            f"#!{Path(sys.executable).resolve()} -IS\n"
            f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom command import run\n{run}\n"
        )
        file.chmod(0o755)
