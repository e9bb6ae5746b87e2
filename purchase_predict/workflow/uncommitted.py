"""Which source main's run was made from, where that is more than its commit says.

MLflow itself records the commit (`mlflow.source.git.commit`). What has not been committed is kept beside it: whether
there is any, and what it is.
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

#: Bytes kept of the differences: enough for what a person has edited, not for data that was added by mistake.
_MOST = 1_000_000
#: How long the end of the run is held up at most for it.
_SECONDS = 10


@contextmanager
def recorded(run_id: str) -> Iterator[None]:
    """Records the source's state in the run while the block runs, at no cost to what runs in the block."""
    client = mlflow.MlflowClient()

    def record() -> None:
        try:
            changes = uncommitted(PROJECT)
            if changes is not None:
                client.set_tag(run_id, MLFLOW_GIT_DIRTY, "true" if changes else "false")
            if changes:
                client.log_text(run_id, changes, UNCOMMITTED)
        except Exception:  # whatever ails the server, the work itself meets and reports it
            logging.getLogger(__name__).debug("the source's state is not recorded", exc_info=True)

    thread = threading.Thread(target=record, name="provenance", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(_SECONDS)


def uncommitted(project: Path) -> str | None:
    """What the project's folder holds that is not committed: the names (`git status`), then the differences.

    Files whose name starts with `.env` hold secrets where people put them there: they are named, no more. So are files
    that git does not follow. "" where all is committed; None where there is no git, no repository, or no commit.
    """
    status = _git(project, "status", "--porcelain", "--", ".")
    if not status:
        return status
    differences = _git(
        project, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--", ".", ":(exclude,glob)**/.env*"
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
            kept = process.stdout.read(_MOST)
            if process.stdout.read(1):
                process.kill()
                return kept.decode(errors="replace") + f"\n[cut after {_MOST} bytes]\n"
    except OSError:
        return None
    return kept.decode(errors="replace") if process.returncode == 0 else None
