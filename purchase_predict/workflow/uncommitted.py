"""The uncommitted changes of the checkout, kept with main's run.

MLflow itself records the commit (`mlflow.source.git.commit`). The tag `mlflow.source.git.dirty` says whether there were
uncommitted changes, and an artifact holds them.
"""

import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.utils.mlflow_tags import MLFLOW_GIT_DIRTY

from purchase_predict.settings import PROJECT

UNCOMMITTED = "source/uncommitted.diff"

#: The most bytes of changes that are kept: enough for edits by hand, too few for data added by mistake.
_MAX_BYTES = 1_000_000
#: Files that people keep secrets in.
_SECRETS = (
    *(".env*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", ".netrc", "id_*"),
    *("*key*.json", "*credential*", "*secret*"),
)
#: Seconds that the end of the run waits for the recording, at most.
_MAX_WAIT = 10


@contextmanager
def recorded(run_id: str) -> Iterator[None]:
    """Records the checkout's uncommitted changes in the run, in a thread beside the block."""
    client = mlflow.MlflowClient()

    def record() -> None:
        try:
            changes = uncommitted(PROJECT)
            if changes is not None:
                client.set_tag(run_id, MLFLOW_GIT_DIRTY, "true" if changes else "false")
            if changes:
                client.log_text(run_id, changes, UNCOMMITTED)
        except Exception:  # the workflow itself reports problems of the server
            logging.getLogger(__name__).debug("uncommitted changes are not recorded", exc_info=True)

    thread = threading.Thread(target=record, name="uncommitted", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(_MAX_WAIT)


def uncommitted(project: Path) -> str | None:
    """The uncommitted changes of the project's folder: the names (`git status`), then the differences (`git diff`).

    Added, renamed and untracked files may hold secrets, so only their names are kept. The same holds for files whose
    name suggests a secret (`_SECRETS`).

    Returns:
        "" if everything is committed; None without git, a repository or a commit.
    """
    status = _git(project, "status", "--porcelain", "--", ".")
    if not status:
        return status
    differences = _git(
        project,
        *("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--diff-filter=MT"),
        *("--", ".", *(f":(exclude,glob,icase)**/{pattern}" for pattern in _SECRETS)),
    )
    if differences is None:
        return None
    return f"{status}\n{differences}"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        with subprocess.Popen(
            ["git", *arguments],
            cwd=folder,
            # Git would otherwise lock its index, which the user may be working with.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout
            kept = process.stdout.read(_MAX_BYTES)
            if process.stdout.read(1):
                process.kill()
                return kept.decode(errors="replace") + f"\n[cut after {_MAX_BYTES} bytes]\n"
    except OSError:
        return None
    return kept.decode(errors="replace") if process.returncode == 0 else None
