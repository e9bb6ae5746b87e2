"""Turns a fork of the preloaded Python into the process that a command asks for, runs its program, and ends."""

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

#: Options of Linux's prctl. They set the signal that a process gets when its parent dies, and the name of the process.
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
#: The flag of Linux's setns for a network namespace.
_CLONE_NEWNET = 0x40000000


class Request(NamedTuple):
    """A command's request: the properties of the command that its process needs."""

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
        """Whether the command leads a process group. If so, signals to it go to the program's whole group."""
        return self.pid == self.group


def shown_name(command: int) -> str:
    """The name of a command's process in `ps -o comm`. It contains the command's process id."""
    return f"of {command}"


def become(request: Request, files: list[int], path: list[str]) -> Callable[[], object]:
    """Turns this process into the one that a command asks for.

    Args:
        request: the command's request.
        files: the command's open files, as received in this process.
        path: `sys.path` without its first entry, which depends on the program.

    Returns:
        The program to run.
    """
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
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # if the server dies, its processes do, too
    return _program(request.arguments, path)


def _as_just_imported() -> None:
    """Renews the state that modules took from the server when they were imported. A fork does not renew it."""
    sys.modules["numpy"].random.seed()
    # The server's standard output was a pipe, so Python would buffer lines even if this process has a terminal.
    stdout: io.TextIOWrapper = sys.stdout  # type: ignore[assignment]
    stdout.reconfigure(line_buffering=stdout.isatty(), write_through=bool(os.environ.get("PYTHONUNBUFFERED")))
    tempfile.tempdir = None
    # The client for Kubernetes reads KUBECONFIG when it is imported.
    if kube_config := sys.modules.get("kubernetes.config.kube_config"):
        kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ.get("KUBECONFIG", "~/.kube/config")  # type: ignore[attr-defined]
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
    """Enters the network namespace of another process, such as one that `ip netns exec` started."""
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
    """Runs a program, then ends this process almost as Python does.

    Threads are waited for, exit functions are called, and the standard streams are flushed. Unlike in Python, the
    imported modules are not destroyed one by one, which would take 2 s.
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
            code = code or 120  # Python's exit code if the output cannot be written
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)
