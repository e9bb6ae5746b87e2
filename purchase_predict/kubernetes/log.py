"""The log of a Job's pod: printed while the pod writes it, and kept in a file that becomes an artifact of the run."""

import os
import threading
from pathlib import Path

import click
import requests

from purchase_predict.errors import printable
from purchase_predict.kubernetes.cluster import Cluster
from purchase_predict.kubernetes.manifest import SECRETS
from purchase_predict.secrets import names_a_secret, without_secrets

#: `_PAUSE`: seconds between two attempts to read the log. `_LAST_LINE`: seconds to wait for the last lines after the
#: pod has ended.
_PAUSE, _LAST_LINE = 1.0, 20.0
#: Once a kept log has this size in bytes, further lines are only printed.
_MAX_BYTES = 20_000_000
_ERROR = "Error: "


class Log:
    """Reads the log of one pod in its own thread, and continues after the connection breaks.

    Attributes:
        error: the text after "Error: " in the last line that starts with it; empty: there is none.
    """

    def __init__(self, cluster: Cluster, namespace: str, file: Path) -> None:
        """Prepares to write the log's lines to `file`. Secrets that this process knows are masked in them."""
        self._cluster, self._namespace, self._file = cluster, namespace, file
        self._secrets = [value for name in SECRETS if names_a_secret(name) and (value := os.environ.get(name, ""))]
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self.error = ""

    def follow(self, pod: str, container: str) -> None:
        """Begins to read the log of a container in a pod. Further calls do nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, args=[pod, container], name="log", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Waits up to 20 s for the rest of the log. Call it when the pod has ended."""
        self._ended.set()
        if self._thread:
            self._thread.join(_LAST_LINE)

    def _read(self, pod: str, container: str) -> None:
        since, last = "", False
        with self._file.open("w", encoding="utf-8") as kept:
            while True:
                try:
                    for time, line in self._cluster.log(self._namespace, pod, container, since):
                        since = time
                        masked = self.masked(line)
                        self._show(masked)
                        if kept.tell() < _MAX_BYTES:
                            kept.write(masked + "\n")
                            kept.flush()
                # The container has not started or is gone, the connection broke, or the API refused the call or did
                # not answer. `Job` finds out what happened.
                except (click.ClickException, requests.RequestException):
                    pass
                if last:
                    return
                last = self._ended.wait(_PAUSE)

    def _show(self, line: str) -> None:
        # Word by word, because `printable` merges spaces, which would break the columns of a table.
        line = " ".join(printable(word) for word in line.split(" "))
        is_error = line.startswith(_ERROR)
        if is_error:
            line = printable(line)
            self.error = line.removeprefix(_ERROR)
        click.echo(line, err=is_error)

    def masked(self, text: str) -> str:
        """A text from the pod or the cluster, without passwords and without the secrets that this process knows."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return without_secrets(text)
