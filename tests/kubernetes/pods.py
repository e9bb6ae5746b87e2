"""The containers of the stand-in for a cluster. Each is a process on this machine.

A test may ask for isolated containers (as root on Linux). An isolated container has the network namespace of its step,
its own process ids, and mounts that hide the launcher's files. Because of its own process ids, nobody outside takes its
heartbeat for that of a process on this machine. Any other container is a plain process. In both cases the container
works in a copy of the image's folder, and this copy is removed when the container ends.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.preloaded.start import machine_variables
from tests.workflow.processes import children

#: Shell script that sets up the mounts of an isolated container and then becomes its command. $1: the container's
#: folder; $2: the folder that is hidden from it; the other arguments: its command.
ISOLATED = """
mount --make-rprivate /
mount --bind "$1" /mnt
mount -t tmpfs tmpfs "$2"
cd /mnt/project
shift 2
exec "$@"
"""
#: Environment variables of every container: those of the Dockerfile that concern steps, and the LANG of its base image.
_IMAGE = {"LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "true"}


def expanded(word: str, variables: Mapping[str, str]) -> str:
    """Replaces the references in a word of a command, or in a variable's value, as the kubelet does.

    `$(NAME)` of a known variable becomes its value, `$$` becomes `$`, and everything else stays.
    """

    def piece(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", piece, word)


class Container:
    """A container of an image.

    Attributes:
        command: the words of its command, after their expansion.
        lines: time and text of each line that it has written.
        code: its exit code; None while it runs.
    """

    def __init__(
        self,
        image: Path,
        command: Sequence[str],
        environ: Mapping[str, str],
        machine: str,
        hidden: Path | None,
        python: Path,
        ended: Callable[[], None],
    ) -> None:
        """Starts the container.

        Args:
            image: the image's folder, which is copied for the container.
            command: the words of its command, already expanded.
            environ: its environment variables.
            machine: its network namespace; empty: that of this process.
            hidden: the folder that is hidden from it; None: the container is a plain process.
            python: the folder of the image's `python`.
            ended: called when the container has ended.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="pod-", dir="/tmp"))
        shutil.copytree(image, self.folder / "project")
        (self.folder / "tmp").mkdir()
        home = Path("/mnt") if hidden else self.folder
        variables = machine_variables() | _IMAGE | {"PATH": f"{python}:/usr/bin:/bin:/usr/sbin:/sbin"}
        variables |= {"HOME": str(home), "TMPDIR": str(home / "tmp")} | dict(environ)
        unshare = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "sh",
            "-euc",
            ISOLATED,
            "sh",
        ]
        front = [*(["ip", "netns", "exec", machine] if machine else [])]
        front += [*unshare, str(self.folder), str(hidden)] if hidden else []
        self.command = command
        self.lines: list[tuple[str, str]] = []
        self.code: int | None = None
        self.changed = threading.Condition()
        self._isolated, self._ended = hidden is not None, ended
        self._process = subprocess.Popen(
            [*front, *command],
            cwd=self.folder / "project",
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process id of the container's first process, as seen from outside the container."""
        inside = children(self._process.pid) if self._isolated else []
        return inside[0] if inside else self._process.pid

    def stop(self, grace: float) -> None:
        """Sends SIGTERM, and SIGKILL after `grace` seconds, as the kubelet does. Waits for the end."""
        self._send(signal.SIGTERM)
        with self.changed:
            self.changed.wait_for(lambda: self.code is not None, grace)
        self.kill()

    def kill(self) -> None:
        """Sends SIGKILL, as the kernel does when memory runs out. Returns when the container has ended."""
        self._send(signal.SIGKILL)
        with self.changed:
            self.changed.wait_for(lambda: self.code is not None, 20)

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self.changed:
                self.lines.append((_now(), line.rstrip("\n")))
                self.changed.notify_all()
        code = self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        with self.changed:
            self.code = code if code >= 0 else 128 - code
            self.changed.notify_all()
        self._ended()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
