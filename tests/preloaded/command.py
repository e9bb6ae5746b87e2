"""The command that stands for `python` or `mlflow`: it lets a preloaded Python (server.py) do the work.

The command ends with the exit status of the process that did the work. It must start within milliseconds, so it runs
without `site` and imports little. If a preloaded Python would differ from a fresh one, the command replaces itself with
the real program.
"""

import _signal  # type: ignore[import-not-found]  # `signal` takes longer to import
import _socket
import marshal
import os
import sys

#: Prefixes of variables that Python, the dynamic loader and native libraries read only once, at their start.
AT_START = ("PYTHON", "LD_", "LC_", "LANG", "OMP_", "OPENBLAS_", "MKL_", "MALLOC_", "OPENSSL_")
#: A variable with such a prefix that need not be equal: a process of the preloaded Python obeys it, too (process.py).
OBEYED = "PYTHONUNBUFFERED"
FORWARDED = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2)


def start(at_import: list[str], environ: "os._Environ[str] | dict[str, str]") -> tuple[dict[str, str], int]:
    """What must be equal in a command and in the preloaded Python.

    Args:
        at_import: names of variables that the preloaded Python read during its imports.
        environ: the environment of the process.

    Returns:
        The values of the variables in `at_import` and of those with a prefix in AT_START, except OBEYED, and the
        effective user id.
    """
    counts = {
        name: value
        for name, value in environ.items()
        if name in at_import or (name.startswith(AT_START) and name != OBEYED)
    }
    return counts, os.geteuid()


def can_be_preloaded(arguments: list[str]) -> bool:
    """Whether the arguments begin with a script, a module (`-m`) or code (`-c`), not with another option of Python."""
    return bool(arguments) and (
        not arguments[0].startswith("-") or (arguments[0] in ("-m", "-c") and len(arguments) > 1)
    )


def open_files() -> list[int]:
    """The numbers of the open files."""

    def is_open(file: int) -> bool:
        try:
            os.fstat(file)
        except OSError:  # the listed folder was open itself, and is closed by now
            return False
        return True

    return [file for file in map(int, os.listdir("/proc/self/fd")) if is_open(file)]


def hand_over(address: str, shown_as: str, arguments: list[str]) -> int:
    """Lets the preloaded Python run the arguments; returns the status of its process in the form of `os.waitpid`."""
    ignored = [int(number) for number in FORWARDED if _signal.getsignal(number) == _signal.SIG_IGN]
    umask = os.umask(0)
    os.umask(umask)
    files = open_files()
    request = marshal.dumps(
        (os.getpid(), os.getpgrp(), files, shown_as, arguments, dict(os.environb), os.getcwdb(), umask, ignored)
    )
    passed = b"".join(file.to_bytes(4, sys.byteorder) for file in files)
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.connect(address)
    for number in FORWARDED:
        if number not in ignored:
            _signal.signal(number, lambda number, _: connection.send(bytes([number])))
    connection.sendmsg([len(request).to_bytes(8, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, passed)])
    connection.sendall(request)
    status = connection.recv(4)  # empty if the server has ended; then its processes are killed
    return int.from_bytes(status, "big") if status else _signal.SIGKILL


def end_like(status: int) -> None:
    """Ends this process like the one with this `os.waitpid` status: by the same signal or with the same exit code."""
    number = status & 0x7F
    if number:
        if number != _signal.SIGKILL:
            _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(status >> 8)


def run(
    address: str, at_import: list[str], expected: tuple[dict[str, str], int], python: str, script: list[str]
) -> None:
    """Runs the command.

    Args:
        address: the socket of the preloaded Python.
        at_import: names of variables that the preloaded Python read during its imports.
        expected: the result of `start` for the preloaded Python. If it differs here, the real program runs instead.
        python: the real Python.
        script: the file of the program, such as the real `mlflow`; empty for `python`.
    """
    arguments = [*script, *sys.argv[1:]]
    if start(at_import, os.environ) != expected or not can_be_preloaded(arguments):
        os.execv(python, [python, *arguments])
    end_like(hand_over(address, os.path.abspath(sys.argv[0]), arguments))
