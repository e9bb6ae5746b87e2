"""A Python that has imported other people's packages, and forks itself for each process of a workflow.

A stand-in for a fresh Python: to import MLflow and what it brings takes 2 to 5 s of CPU time in each process, and the
tests start hundreds. What is imported here is never the project: a process runs the code of its own checkout.

A process gets the arguments, variables, folder, files, limits and ignored signals of the command (command.py) that asks
for it. A signal to the command reaches the process; the command ends as the process does; a killed command takes its
process with it. Differences from a fresh Python:

- The command and the process have two process ids. `os.getppid` names the command's parent; `ps` shows the command.
- SIGSTOP stops the command only; a signal to a command that leads a process group is one to the group.
- All processes of a session hash strings with the same seed.

Tests of such things start fresh processes (`Workflow.fresh`).
"""

import array
import ast
import atexit
import contextlib
import ctypes
import fcntl
import gc
import marshal
import multiprocessing.process
import multiprocessing.spawn
import os
import resource
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy

PROJECT = Path(__file__).resolve().parent.parent.parent
#: Not imported: Spark, which few processes need, and what would count as the project's.
NOT_IMPORTED = {"pyspark", "purchase_predict", "steps", "main"}
#: Not kept: it becomes another one when it is imported within a server.
NOT_KEPT = "mlflow.server."
#: Variables that are read at import and once more by whoever uses them.
READ_AGAIN = {"HOME", "PATH", "PWD", "TMPDIR", "TEMP", "TMP", "PYTEST_CURRENT_TEST", "MLFLOW_TRACKING_URI"}
#: What these import late, when they are used.
LATE = (
    "mlflow.cli",
    "mlflow.projects.backend.local",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.artifact.mlflow_artifacts_repo",
    "mlflow.data.pandas_dataset",
    "ibis.backends.duckdb",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
)
#: Linux's prctl: the signal that a process gets when its parent has died, and the name of a process.
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
#: Linux's setns: a network namespace.
_CLONE_NEWNET = 0x40000000
#: Open files of a command, at most: those that Linux passes in one message.
_FILES = 253
#: In the status of a process that has ended.
_CORE_DUMPED = 0x80


class Request(NamedTuple):
    """What a command asks for."""

    pid: int
    group: int
    numbers: list[int]
    shown_as: str
    arguments: list[str]
    environ: dict[bytes, bytes]
    cwd: bytes
    umask: int
    ignored: list[int]

    @property
    def leads(self) -> bool:
        """Whether the command leads a process group: what signals it, signals the group."""
        return self.pid == self.group


def shown_name(command: int) -> str:
    """The name that `ps` shows of the process of a command."""
    return f"of {command}"


# ---- imports -----------------------------------------------------------------------------------------------------


def imported_by_the_project() -> Iterator[str]:
    """The modules of others that an import statement of the project names."""
    for file in (PROJECT / "main.py", *PROJECT.glob("steps/*.py"), *PROJECT.glob("purchase_predict/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            yield from (name for name in names if name.partition(".")[0] not in NOT_IMPORTED)


def preload() -> list[str]:
    """Imports all of it.

    Returns:
        The variables that were read meanwhile, by name (who goes through all of them reads none): where one of them
        differs, a process starts anew.
    """
    read: set[str] = set()
    kind = type(os.environ)
    get = kind.__getitem__

    def watched(environ: Any, name: Any) -> Any:
        if environ is os.environ and isinstance(name, str) and sys._getframe(1).f_code.co_name != "__iter__":
            read.add(name)
        return get(environ, name)

    kind.__getitem__ = watched
    for name in sorted({*imported_by_the_project(), *LATE}):
        try:
            __import__(name)
        except ImportError:
            continue  # whoever needs it says so
    assert not [name for name in sys.modules if name.partition(".")[0] in NOT_IMPORTED - {"pyspark"}]
    for name in [name for name in sys.modules if f"{name}.".startswith(NOT_KEPT)]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # no process has to look through these objects, nor to copy them for it
    kind.__getitem__ = get
    return sorted(read - READ_AGAIN)


# ---- a process ---------------------------------------------------------------------------------------------------


def become(request: Request, files: list[int], path: list[str]) -> Callable[[], object]:
    """Makes this process the one that was asked for; returns its program."""
    if request.leads:
        os.setpgid(0, 0)
    _take(files, request.numbers)
    _enter_network(request.pid)
    os.chdir(request.cwd)
    os.umask(request.umask)
    os.environb.clear()
    os.environb.update(request.environ)
    time.tzset()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN if number in request.ignored else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN if signal.SIGINT in request.ignored else signal.default_int_handler)
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, resource.prlimit(request.pid, limit))
    os.getppid = lambda: _parent_of(request.pid)
    sys.executable = str(Path(request.shown_as).with_name("python"))
    sys.orig_argv = [sys.executable, *request.arguments]
    sys.modules["__main__"] = types.ModuleType("__main__")
    _as_just_imported()
    ctypes.CDLL(None).prctl(_PR_SET_NAME, shown_name(request.pid).encode())
    return _program(request.arguments, path)


def _as_just_imported() -> None:
    """What modules take from the process when they are imported, and Python does not renew after a fork."""
    numpy.random.seed()
    tempfile.tempdir = None
    multiprocessing.spawn.set_executable(sys.executable)
    multiprocessing.process.ORIGINAL_DIR = str(Path.cwd())


def _take(files: list[int], numbers: list[int]) -> None:
    """Gives the files the numbers that they have in the command."""
    out_of_the_way = [fcntl.fcntl(file, fcntl.F_DUPFD, 1000) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(out_of_the_way, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def _enter_network(pid: int) -> None:
    """Enters the network namespace of a process (`ip netns exec`)."""
    mine, other = (Path(f"/proc/{of}/ns/net") for of in ("self", pid))
    if mine.stat().st_ino != other.stat().st_ino:
        with other.open("rb") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 1


def _program(arguments: list[str], path: list[str]) -> Callable[[], object]:
    first, *rest = arguments
    scope = sys.modules["__main__"].__dict__
    if first == "-m":
        sys.argv, sys.path[:] = ["-m", *rest[1:]], [str(Path.cwd()), *path]
        return lambda: runpy._run_module_as_main(rest[0])
    if first == "-c":
        sys.argv, sys.path[:] = ["-c", *rest[1:]], ["", *path]
        return lambda: exec(compile(rest[0], "<string>", "exec"), scope)  # noqa: S102  # a program
    sys.argv, sys.path[:] = [first, *rest], [str(Path(first).resolve().parent), *path]
    scope["__file__"] = first
    return lambda: exec(compile(Path(first).read_bytes(), first, "exec"), scope)  # noqa: S102  # a program


def run(program: Callable[[], object]) -> NoReturn:
    """Runs a program to the end of this process, as Python does: threads, exit functions, files.

    The imported modules are not taken apart one by one, which would take 2 s.
    """
    code, interrupted = 0, False
    try:
        program()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code, interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120  # as Python ends where nobody reads
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


# ---- the server --------------------------------------------------------------------------------------------------


def received(connection: socket.socket) -> tuple[Request, list[int]]:
    files = array.array("i")
    length, [(_, _, data)], *_ = connection.recvmsg(8, socket.CMSG_SPACE(_FILES * files.itemsize), socket.MSG_WAITALL)
    files.frombytes(data)
    request = connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
    return Request(*marshal.loads(request)), list(files)


class Server:
    """Forks a process for each command, and stands between the two until the process ends."""

    def __init__(self, address: str) -> None:
        self.path = sys.path[1:]
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(address)
        self.listener.listen(128)
        self.selector.register(self.listener, selectors.EVENT_READ, self.fork)
        self.selector.register(0, selectors.EVENT_READ, lambda: os._exit(0))  # the session has ended

    def serve(self) -> Callable[[], object]:
        """Returns in a new process only: the program that it is to run."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj not in self.selector.get_map():
                    continue  # closed a moment ago
                program = key.data()
                if program:
                    return program

    def fork(self) -> Callable[[], object] | None:
        connection, _ = self.listener.accept()
        try:
            request, files = received(connection)
        except (ValueError, EOFError, OSError):
            connection.close()  # killed before it could ask
            return None
        pid = os.fork()
        if pid:
            if request.leads:
                with contextlib.suppress(OSError):  # the process does it, too: whoever comes first
                    os.setpgid(pid, pid)
            for file in files:
                os.close(file)
            self.watch(connection, pid, request.leads)
            return None
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the server's end is its processes' end
        connection.close()
        self.forget()
        return become(request, files, self.path)

    def watch(self, connection: socket.socket, pid: int, leads: bool) -> None:
        """Passes signals on from the command to the process, and the process's end to the command."""
        process = os.pidfd_open(pid)

        def pass_on() -> None:
            try:
                asked = connection.recv(1)
            except OSError:
                asked = b""
            with contextlib.suppress(ProcessLookupError):  # all of it has ended
                (os.killpg if leads else os.kill)(pid, asked[0] if asked else signal.SIGKILL)
            if not asked:
                self.selector.unregister(connection)

        def ended() -> None:
            _, status = os.waitpid(pid, 0)
            self.selector.unregister(process)
            os.close(process)
            if connection in self.selector.get_map():
                self.selector.unregister(connection)
            with contextlib.suppress(OSError):  # the command has been killed
                connection.sendall((status & ~_CORE_DUMPED).to_bytes(4, "big"))
            connection.close()

        self.selector.register(connection, selectors.EVENT_READ, pass_on)
        self.selector.register(process, selectors.EVENT_READ, ended)

    def forget(self) -> None:
        """Closes, in a new process, what is the server's."""
        for key in list(self.selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            elif key.fileobj:
                os.close(key.fileobj)
        self.selector.close()


if __name__ == "__main__":
    _read = preload()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, whose end is the server's
    _server = Server(sys.argv[1])
    print(*_read, flush=True)
    run(_server.serve())
