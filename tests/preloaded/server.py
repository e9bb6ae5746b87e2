"""The preloaded Python: a server that has imported third-party packages, and forks itself for each new process.

It saves time: in a fresh Python, importing MLflow and its dependencies takes 2 to 5 s of CPU time, and the tests start
hundreds of processes. The server never imports the project, because a process must run the code of its own checkout.

A command (command.py) asks the server for a process. The process gets the command's arguments, variables, working
folder, open files, limits and ignored signals. A signal to the command is passed on to the process. The command ends as
the process does. If the command is killed, the process is killed, too. Differences from a fresh Python:

- The command and its process have different process ids. In the process, `os.getppid` returns the command's parent.
  `ps -o comm` shows the process as `of <process id of the command>`.
- SIGSTOP to the command does not stop the process.
- If the command leads a process group, a signal to the command goes to the whole group of the process.
- All processes of one server hash strings with the same seed.
- With PYTHONUNBUFFERED, the process writes at once, but `sys.flags.unbuffered` is 0.

Tests that depend on one of these differences start fresh processes (`Workflow.fresh`).
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

#: The most open files that a command can have. Linux passes no more in one message.
_FILES = 253
#: The bit for a core dump in the status of an ended process.
_CORE_DUMPED = 0x80


def received(connection: socket.socket) -> tuple[Request, list[int]]:
    files = array.array("i")
    length, [(_, _, data)], *_ = connection.recvmsg(8, socket.CMSG_SPACE(_FILES * files.itemsize), socket.MSG_WAITALL)
    files.frombytes(data)
    request = connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
    return Request(*marshal.loads(request)), list(files)


class Server:
    """Forks a process for each command, and connects the two until the process ends."""

    def __init__(self, address: str) -> None:
        self.path = sys.path[1:]
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(address)
        self.listener.listen(128)
        self.selector.register(self.listener, selectors.EVENT_READ, self.fork)
        self.selector.register(0, selectors.EVENT_READ, lambda: os._exit(0))  # the tests have ended

    def serve(self) -> Callable[[], object]:
        """Serves commands. Returns only in a forked process, with the program that this process must run."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj not in self.selector.get_map():
                    continue  # an earlier event of this round has closed it
                program = key.data()
                if program:
                    return program

    def fork(self) -> Callable[[], object] | None:
        connection, _ = self.listener.accept()
        try:
            request, files = received(connection)
        except (ValueError, EOFError, OSError):
            connection.close()  # the command was killed before its request was complete
            return None
        pid = os.fork()
        if pid:
            if request.leads:
                with contextlib.suppress(OSError):  # the process does this, too; either may be first
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
            with contextlib.suppress(ProcessLookupError):  # the process, or its whole group, has ended
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
        """Closes the server's files and sockets in a forked process."""
        for key in list(self.selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            elif key.fileobj:
                os.close(key.fileobj)
        self.selector.close()


if __name__ == "__main__":
    _read = preload()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests; the server ends after them
    _server = Server(sys.argv[1])
    print(*_read, flush=True)
    run(_server.serve())
