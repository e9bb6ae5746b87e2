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
import contextlib
import marshal
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable

from tests.preloaded.imports import preload
from tests.preloaded.process import Request, become, run

#: Open files of a command, at most: those that Linux passes in one message.
_FILES = 253
#: In the status of a process that has ended.
_CORE_DUMPED = 0x80


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
