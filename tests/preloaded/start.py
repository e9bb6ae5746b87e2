"""Starts the preloaded Python (server.py) of this test process, when it is first needed."""

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.preloaded import command
from tests.preloaded.process import shown_name

HERE = Path(__file__).resolve().parent
REAL_PYTHON = sys.executable
_FOLDER = "preloaded-"
#: Variables that joblib and scikit-learn set when they are imported. The preloaded Python starts without them and sets
#: them itself. So a command is preloaded whether or not its environment has them.
_SET_AT_IMPORT = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
#: Variables that differ from machine to machine, are read when Python or its modules start, and change no result.
_OF_THE_MACHINE = ("CI", "LANG", "OMP_WAIT_POLICY", "SSL_CERT_DIR", "SSL_CERT_FILE")


@functools.cache
def environment() -> dict[str, str]:
    """The environment with which the preloaded Pythons start: that of this process at the first call.

    The first call is before the first test. A test may set a variable that a module reads at its import. If a
    preloaded Python started with that value, no command of any later test would be preloaded.
    """
    return {name: value for name, value in os.environ.items() if name not in _SET_AT_IMPORT}


@functools.cache
def commands(at_start: tuple[tuple[str, str], ...] = ()) -> Path | None:
    """A folder for the front of PATH, with a preloaded `python` and `mlflow`; None if the system is not Linux.

    Args:
        at_start: variables that take effect only at the start of a process, by name and value. Each combination has a
            preloaded Python of its own.
    """
    if sys.platform != "linux":
        return None
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address = str(folder / "socket")
    environ = environment() | dict(at_start)
    # Nothing is written to the server's standard input. When this process ends, the input ends, and so does the server.
    server = subprocess.Popen(
        [REAL_PYTHON, "-m", "tests.preloaded.server", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=HERE.parent.parent,
        env=environ,
    )
    atexit.register(_stop, server)
    assert server.stdout
    at_import = server.stdout.readline().decode().split()
    assert at_import, "the preloaded Python has ended"
    _write_commands(folder, address, at_import, command.start(at_import, environ))
    return folder


def machine_variables() -> dict[str, str]:
    """Variables of this machine that a command needs to be preloaded, and that configure no program of the tests.

    A test that gives its commands an environment of their own adds them.
    """
    return {name: os.environ[name] for name in _OF_THE_MACHINE if name in os.environ}


def program(name: str) -> str:
    """The path of the preloaded `python` or `mlflow`; on systems other than Linux, of the real one."""
    return str((commands() or Path(REAL_PYTHON).parent) / name)


@contextlib.contextmanager
def preloaded() -> Iterator[None]:
    """Sets `sys.executable` to the preloaded Python during the block, so that child processes use it."""
    before, sys.executable = sys.executable, program("python")
    try:
        yield
    finally:
        sys.executable = before


def process_of(command: int) -> int:
    """The id of the process that does the work of a command; the command's own id if the command is not preloaded.

    Args:
        command: the process id of the command.
    """
    if sys.platform != "linux":
        return command
    # A preloaded command is a script. Its command line begins with the interpreter, its options, and the script's file.
    words = Path(f"/proc/{command}/cmdline").read_text().split("\0")
    if len(words) < 3 or not Path(words[2]).parent.name.startswith(_FOLDER):
        return command
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for file in Path("/proc").glob("[0-9]*/comm"):
            with contextlib.suppress(OSError):
                if file.read_text() == f"{shown_name(command)}\n":
                    return int(file.parent.name)
        time.sleep(0.01)
    raise AssertionError(f"{command} has no process")


def _stop(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin
    server.stdin.close()
    server.wait()


def _write_commands(folder: Path, address: str, at_import: list[str], start: tuple[dict[str, str], int]) -> None:
    real = Path(REAL_PYTHON).parent
    for name, script in (("python", []), ("mlflow", [str(real / "mlflow")])):
        run = f"run({address!r}, {at_import!r}, {start!r}, {REAL_PYTHON!r}, {script!r})"
        file = folder / name
        file.write_text(
            f"#!{Path(sys.executable).resolve()} -IS\n"
            f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom command import run\n{run}\n"
        )
        file.chmod(0o755)
