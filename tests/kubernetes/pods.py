"""The stand-in's node: a container is a process of this machine, in a network and a file system of its own.

Where the test asks for it (as root on Linux), a container has the network namespace of its step, its own process ids
(so that nobody outside takes its heartbeat for one of a process of this machine), and mounts under which the launcher's
files are hidden. Otherwise it is a plain process. In both cases its folder, a copy of the image, is gone when it ends.
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

from tests.workflow.processes import children

#: Makes a container of a process: $1 is its folder, $2 what it may not see, the rest its command.
ISOLATED = """
mount --make-rprivate /
mount --bind "$1" /mnt
mount -t tmpfs tmpfs "$2"
cd /mnt/project
shift 2
exec "$@"
"""
#: What the image sets, and a container always has.
_IMAGE = {"LANG": "C.UTF-8", "MLFLOW_DISABLE_TELEMETRY": "true"}


def expanded(word: str, variables: Mapping[str, str]) -> str:
    """A word of a command or a variable's value as the kubelet expands it.

    `$(NAME)` of a known variable becomes its value, `$$` becomes `$`, and everything else stays.
    """

    def piece(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", piece, word)


class Container:
    """A container of an image.

    Attributes:
        command: its words, as its process has got them.
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
        """Starts it.

        Args:
            image: the folder that is copied for it.
            command: its words, expanded.
            environ: its variables.
            machine: the network namespace; empty: this one.
            hidden: the folder that it may not see; None: it is a plain process.
            python: the folder of the image's `python`.
            ended: called when it has ended.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="pod-", dir="/tmp"))
        shutil.copytree(image, self.folder / "project")
        (self.folder / "tmp").mkdir()
        home = Path("/mnt") if hidden else self.folder
        variables = _IMAGE | {"PATH": f"{python}:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(home)}
        variables |= {"TMPDIR": str(home / "tmp")} | dict(environ)
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
        """The container's first process, by its id outside."""
        inside = children(self._process.pid) if self._isolated else []
        return inside[0] if inside else self._process.pid

    def stop(self, grace: float) -> None:
        """SIGTERM, and after the grace period SIGKILL, as the kubelet does; returns when it has ended."""
        self._send(signal.SIGTERM)
        with self.changed:
            self.changed.wait_for(lambda: self.code is not None, grace)
        self.kill()

    def kill(self) -> None:
        """Ends it at once, as the kernel does where memory is out."""
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
