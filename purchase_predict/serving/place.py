"""The location of the state: a Redis URI or a file. A server locks the file, so that no second server uses it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import click

from purchase_predict.parameters import local_path
from purchase_predict.serving.on_redis import RedisState
from purchase_predict.serving.on_sqlite import SqliteState
from purchase_predict.serving.state import State

#: URI schemes of a state in Redis.
_REDIS = ("redis://", "rediss://", "unix://")


def place_of(state: str, registry_name: str, env: str) -> str | Path:
    """The location of the state: a Redis URI unchanged, or the absolute path of a file.

    Args:
        state: the parameter `state`; empty: the default file of the registered model and the environment.
        registry_name: the registered model.
        env: the environment.
    """
    if state.startswith(_REDIS):
        return state
    return local_path("state", state or str(_default_file(registry_name, env)))


def _default_file(registry_name: str, env: str) -> Path:
    """The file of this model and environment. It lies outside the project's folder, which may be a temporary clone."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home) / "purchase-predict" / f"{quote(registry_name, safe=' ')}-{env}.sqlite"


@contextlib.contextmanager
def locked(place: str | Path) -> Iterator[None]:
    """Locks the state's file against other servers while the block runs. A state in Redis is shared and not locked.

    The lock is on a second file, `<state's file>.lock`, because filling replaces the state's file, and a lock would
    stay on the old file. The operating system removes the lock when the process ends, even if it is killed. The lock
    file stays: if it were removed, two servers could each hold a lock on a file of this name.

    Args:
        place: as `place_of` returns it.

    Raises:
        click.ClickException: another server uses the file, its folder cannot be created, or the lock file cannot be
            opened or locked.
    """
    if isinstance(place, str):
        yield
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"state {place}: its folder cannot be created: {error.strerror}") from error
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(place.with_name(f"{place.name}.lock").open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise click.ClickException(
                f"state {place}: another server uses this file: name another file with state=<file>, or let the "
                "servers share a Redis with state=redis://<host>"
            ) from error
        except OSError as error:
            raise click.ClickException(f"state {place}: cannot be locked: {error.strerror}") from error
        yield


def open_state(place: str | Path, retention_days: int) -> State:
    """Opens the state at a location that `place_of` returned. The folder of a file must exist; `locked` creates it.

    A line on stderr warns if Redis would lose the state when it restarts.

    Raises:
        click.ClickException: the state cannot be opened.
    """
    if isinstance(place, Path):
        return SqliteState(place)
    shared = RedisState(place, retention_days)
    if not shared.survives_restart:
        click.echo(
            "serve: Redis keeps no append-only file, so the state is lost if Redis restarts: set `appendonly yes` in "
            "Redis's configuration",
            err=True,
        )
    return shared
