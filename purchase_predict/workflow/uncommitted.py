"""Records the uncommitted changes of the checkout on the run of the entry point `main`.

MLflow itself records the commit (`mlflow.source.git.commit`). This module sets the tag `mlflow.source.git.dirty`, which
says whether there were uncommitted changes, and writes the changes to an artifact.
"""

import logging
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.utils.mlflow_tags import MLFLOW_GIT_DIRTY

from purchase_predict.settings import PROJECT

#: Path of the artifact with the uncommitted changes.
UNCOMMITTED = "source/uncommitted.diff"

#: Maximum number of bytes kept of each of two outputs: the names of changed files (`git status`) and the differences
#: (`git diff`). This is enough for edits by hand, and too small for data files.
_MAX_BYTES = 1_000_000
#: Maximum size in bytes of the list of the tracked files' names. If it is larger, no changes are recorded.
_MAX_NAMES = 100_000_000
#: Words in a file's name that suggest a secret, compared in lower case.
_SECRET_WORD = re.compile(
    r".*(passw|passphrase|secret|credential|htpasswd|keystore|keyring|token)[a-z]*|[a-z]*keys?|apikey[a-z]*|o?auth|creds?"
    r"|pwd|pass|pgpass|netrc|jwt|bearer|vault|wallet|kubeconfig|gcp|gcloud|serviceaccount|env(rc)?|dotenv"
)
#: A word of a file's name. It ends before a capital letter that follows a small one, and before any character that is
#: not an ASCII letter.
_WORD = re.compile(r"[A-Z]*[a-z]+|[A-Z]+")
#: Endings of key files, password stores, encrypted files, and settings files that often hold passwords.
_SECRET_ENDING = re.compile(
    r"pem|key|p8|p12|pfx|ppk|der|jks|jceks|keytab|kdbx?|asc|gpg|pgp|age|ovpn|tfvars|tfstate|rdp|htpasswd|pgpass", re.I
)
#: Names of files that often hold passwords, tokens or keys: settings files, histories, SSH keys, service accounts.
_SECRET_FILE = re.compile(
    r"[._]netrc|\.(npmrc|yarnrc(\.yml)?|pypirc|condarc|dockercfg|boto|s3cfg|my\.cnf|databrickscfg|mc|htaccess)"
    r"|pip\.conf|rclone\.conf|\.?\w*_history|service.?account.*|id_\w+.*",
    re.I,
)
#: Names of folders that often hold files with passwords, tokens or keys.
_SECRET_FOLDER = re.compile(r"\.(ssh|gnupg|aws|azure|kube|docker|gcloud|oci|password-store)|secrets?|credentials", re.I)
#: Endings of code. The name of a code file suggests no secret: `secrets.py` usually handles secrets, but holds none.
_CODE = (".py", ".pyi")
#: Maximum number of seconds that main waits at its end for the recording.
_MAX_WAIT = 10


@contextmanager
def recorded(run_id: str) -> Iterator[None]:
    """Records the checkout's uncommitted changes on a run, in a thread, while the block runs.

    At the end of the block, waits at most `_MAX_WAIT` seconds for the thread. An error is not raised, but logged at the
    level DEBUG.
    """
    client = mlflow.MlflowClient()

    def record() -> None:
        try:
            changes = uncommitted(PROJECT)
            if changes is not None:
                client.set_tag(run_id, MLFLOW_GIT_DIRTY, "true" if changes else "false")
            if changes:
                client.log_text(run_id, changes, UNCOMMITTED)
        except Exception:  # not raised: the workflow itself reports problems of the tracking server
            logging.getLogger(__name__).debug("uncommitted changes are not recorded", exc_info=True)

    thread = threading.Thread(target=record, name="uncommitted", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(_MAX_WAIT)


def uncommitted(project: Path) -> str | None:
    """The uncommitted changes of the project's folder: the names (`git status`), then the differences (`git diff`).

    Differences are kept only for modified files. Added, renamed and untracked files, and files that replaced a
    symbolic link, may hold secrets, so only their names are kept. Of a new folder, only the folder's name is kept. Of a
    modified file whose path suggests a secret (`suggests_secrets`), only the name is kept, too. Names and differences
    are each cut after `_MAX_BYTES`.

    Returns:
        The text; empty if everything is committed. None if a git command fails (no git, no repository, no commit), or
        if the list of all file names exceeds `_MAX_NAMES` bytes.
    """
    status = _git(project, "status", "--porcelain", "--", ".")
    if not status:
        return status
    # All tracked files, not only the changed ones, because a file may still change before `git diff` runs.
    names = _git(project, "ls-files", "-z", "--", ".", most=_MAX_NAMES)
    if names is None or len(os.fsencode(names)) > _MAX_NAMES:  # a cut list is longer, because `_git` adds a note
        return None
    secret = [name for name in names.split("\0") if suggests_secrets(name)]
    differences = _git(
        project,
        *("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--diff-filter=M"),
        *("--", ".", *(f":(exclude,literal){name}" for name in secret)),
    )
    if differences is None:
        return None
    return f"{status}\n{differences}".encode(errors="replace").decode()


def suggests_secrets(path: str) -> bool:
    """Whether the path of a file, with `/` between folders, suggests that the file holds passwords, tokens or keys."""
    *folders, name = path.split("/")
    if name.lower().endswith(_CODE):
        return False
    ending = name.rpartition(".")[2]
    return bool(
        any(_SECRET_WORD.fullmatch(word.lower()) for word in _WORD.findall(name))
        or ("." in name and _SECRET_ENDING.fullmatch(ending))
        or _SECRET_FILE.fullmatch(name)
        or any(map(_SECRET_FOLDER.fullmatch, folders))
    )


def _git(folder: Path, *arguments: str, most: int = _MAX_BYTES) -> str | None:
    """The output of a git command, cut after `most` bytes; None if the command fails.

    Bytes that cannot be decoded become surrogate characters.
    """
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
            kept = process.stdout.read(most)
            if process.stdout.read(1):
                process.kill()
                return os.fsdecode(kept) + f"\n[cut after {most} bytes]\n"
    except OSError:
        return None
    return os.fsdecode(kept) if process.returncode == 0 else None
