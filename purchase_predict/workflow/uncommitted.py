"""The uncommitted changes of the checkout, kept with main's run.

MLflow itself records the commit (`mlflow.source.git.commit`). The tag `mlflow.source.git.dirty` says whether there were
uncommitted changes, and an artifact holds them.
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

UNCOMMITTED = "source/uncommitted.diff"

#: The most bytes of changes that are kept: enough for edits by hand, too few for data added by mistake.
_MAX_BYTES = 1_000_000
#: The most bytes of names of files.
_MAX_NAMES = 100_000_000
#: Words that say what is in a file, in any case; a word ends at a sign, a digit or a capital letter.
_SECRET_WORD = re.compile(
    r".*(passw|passphrase|secret|credential|htpasswd|keystore|keyring|token)[a-z]*|[a-z]*keys?|apikey[a-z]*|o?auth|creds?"
    r"|pwd|pass|pgpass|netrc|jwt|bearer|vault|wallet|kubeconfig|gcp|gcloud|serviceaccount|env(rc)?|dotenv"
)
_WORD = re.compile(r"[A-Z]*[a-z]+|[A-Z]+")
#: Endings of keys, of stores of keys and passwords, and of encrypted files.
_SECRET_ENDING = re.compile(
    r"pem|key|p8|p12|pfx|ppk|der|jks|jceks|keytab|kdbx?|asc|gpg|pgp|age|ovpn|tfvars|tfstate|rdp|htpasswd|pgpass", re.I
)
#: Settings of programs that keep a password or token in them, and the folders of such programs.
_SECRET_FILE = re.compile(
    r"[._]netrc|\.(npmrc|yarnrc(\.yml)?|pypirc|condarc|dockercfg|boto|s3cfg|my\.cnf|databrickscfg|mc|htaccess)"
    r"|pip\.conf|rclone\.conf|\.?\w*_history|service.?account.*|id_\w+.*",
    re.I,
)
_SECRET_FOLDER = re.compile(r"\.(ssh|gnupg|aws|azure|kube|docker|gcloud|oci|password-store)|secrets?|credentials", re.I)
#: Code holds no secret by its name: `secrets.py` handles them.
_CODE = (".py", ".pyi")
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

    Added, renamed and untracked files may hold secrets, so only their names are kept. The same holds for a file that
    took the place of a link, and for files whose name suggests a secret (`suggests_secrets`).

    Returns:
        "" if everything is committed; None without git, a repository or a commit, or in one with millions of files.
    """
    status = _git(project, "status", "--porcelain", "--", ".")
    if not status:
        return status
    # Of all files, because one may change between this call and the next.
    names = _git(project, "ls-files", "-z", "--", ".", most=_MAX_NAMES)
    if names is None or len(names) >= _MAX_NAMES:
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
    """Whether the path of a file, with `/` between folders, suggests that it holds passwords, tokens or keys."""
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
    """What a command of git prints, up to a number of bytes; None if it fails. Odd bytes stand as surrogates."""
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
