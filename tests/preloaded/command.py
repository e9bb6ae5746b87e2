"""The command that stands for `python` or `mlflow`: a preloaded Python (server.py) does its work, and it ends as that.

Without `site` and with hardly an import: it has to start in some milliseconds. It becomes the real command wherever a
preloaded Python would not be the same.
"""

import _signal  # type: ignore[import-not-found]  # what `signal` is made of; it starts sooner
import _socket
import marshal
import os
import sys

#: Variables that Python, the loader and native code read once, when they start, begin so.
AT_START = ("PYTHON", "LD_", "LC_", "LANG", "OMP_", "OPENBLAS_", "MKL_", "MALLOC_", "OPENSSL_")
FORWARDED = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2)


def start(at_import: list[str], environ: "os._Environ[str] | dict[str, str]") -> tuple[dict[str, str], int]:
    """What a process has from its start on: these variables and those above, and its user."""
    counts = {name: value for name, value in environ.items() if name in at_import or name.startswith(AT_START)}
    return counts, os.geteuid()


def can_be_preloaded(arguments: list[str]) -> bool:
    """Whether this is a script, a module or a line of code without any option."""
    return bool(arguments) and (
        not arguments[0].startswith("-") or (arguments[0] in ("-m", "-c") and len(arguments) > 1)
    )


def open_files() -> list[int]:
    """The numbers of the open files."""

    def is_open(file: int) -> bool:
        try:
            os.fstat(file)
        except OSError:  # the list of the files was one of them
            return False
        return True

    return [file for file in map(int, os.listdir("/proc/self/fd")) if is_open(file)]


def hand_over(address: str, shown_as: str, arguments: list[str]) -> int:
    """Has the preloaded Python run the arguments; returns how that ended, as `os.waitpid` says it."""
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
    status = connection.recv(4)  # its end is the server's: then all is lost
    return int.from_bytes(status, "big") if status else _signal.SIGKILL


def end_like(status: int) -> None:
    """Ends this process as another one has ended."""
    number = status & 0x7F
    if number:
        if number != _signal.SIGKILL:
            _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(status >> 8)


def run(
    address: str, at_import: list[str], expected: tuple[dict[str, str], int], python: str, script: list[str]
) -> None:
    """The command: `script` is the program's own file where the command is not `python`."""
    arguments = [*script, *sys.argv[1:]]
    if start(at_import, os.environ) != expected or not can_be_preloaded(arguments):
        os.execv(python, [python, *arguments])
    end_like(hand_over(address, os.path.abspath(sys.argv[0]), arguments))
