"""A process of the preloaded Python: becomes the one that a command asks for, runs its program, and ends."""

import atexit
import ctypes
import fcntl
import io
import multiprocessing.process
import multiprocessing.spawn
import os
import resource
import runpy
import signal
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

#: Linux's prctl: the signal that a process gets when its parent has died, and the name of a process.
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
#: Linux's setns: a network namespace.
_CLONE_NEWNET = 0x40000000


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
    for name in [name for name in sys.modules if name.partition(".")[0] in ("__main__", "tests")]:
        del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")
    _as_just_imported()
    ctypes.CDLL(None).prctl(_PR_SET_NAME, shown_name(request.pid).encode())
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the server's end is its processes' end
    return _program(request.arguments, path)


def _as_just_imported() -> None:
    """What modules take from the process when they are imported, and Python does not renew after a fork."""
    sys.modules["numpy"].random.seed()
    # The server has no terminal, so Python would keep lines for later.
    stdout: io.TextIOWrapper = sys.stdout  # type: ignore[assignment]
    stdout.reconfigure(line_buffering=stdout.isatty(), write_through=bool(os.environ.get("PYTHONUNBUFFERED")))
    tempfile.tempdir = None
    multiprocessing.spawn.set_executable(sys.executable)
    multiprocessing.process.ORIGINAL_DIR = str(Path.cwd())  # type: ignore[attr-defined]


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
        return lambda: runpy._run_module_as_main(rest[0])  # type: ignore[attr-defined]
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
    threading._shutdown()  # type: ignore[attr-defined]
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
