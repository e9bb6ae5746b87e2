"""The server's parts put together, and uvicorn around them."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import uvicorn

from purchase_predict.serving import guard
from purchase_predict.serving.answer_log import AnswerLog
from purchase_predict.serving.app import build
from purchase_predict.serving.follower import Follower
from purchase_predict.serving.health import Health
from purchase_predict.serving.meters import Meters
from purchase_predict.serving.on_redis import RedisState
from purchase_predict.serving.on_sqlite import SqliteState
from purchase_predict.serving.service import Service
from purchase_predict.serving.shadow import Shadow
from purchase_predict.serving.state import State

#: Schemes of a state in Redis.
_REDIS = ("redis://", "rediss://", "unix://")
#: Seconds that requests in progress have to end in. The launcher ends the process after `stopping.GRACE_SECONDS`.
_GRACE_SECONDS = 10
#: Requests at the same time; more get a 503.
_CONCURRENCY = 500
#: Threads that wait for Redis at the same time. SQLite has one writer.
_REDIS_THREADS = 8
#: Events of a request that are counted at once where the state is local: they take 0.5 ms each.
_AT_ONCE = 5
_HOUR_SECONDS = 3600
#: Seconds after which a thread of Python hands over to another one that waits. The default, 5 ms, would be half of what
#: an answer may take.
_SWITCH_SECONDS = 0.0005


@dataclass(frozen=True)
class Settings:
    """How the server is to be started; the parameters of the entry point `serve`."""

    registry_name: str
    env: str
    host: str
    port: int
    token_file: str = ""
    shadow: str = ""
    answers: str = ""
    retention_days: int = 90


def place_of(state: str) -> str | Path:
    """Where the state is: an address of Redis as it is, a file as a whole path."""
    if state.startswith(_REDIS):
        return state
    return Path(state).expanduser().resolve() if state else default_state()


def open_state(place: str | Path, retention_days: int) -> State:
    """The state at a place.

    Raises:
        click.ClickException: it cannot be opened.
    """
    if isinstance(place, str):
        shared = RedisState(place, retention_days)
        if not shared.survives_restart:
            click.echo(
                "serve: Redis keeps no append-only file, so its restart loses the state: set appendonly yes", err=True
            )
        return shared
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"state {place}: its folder cannot be made: {error.strerror}") from error
    return SqliteState(place)


def default_state() -> Path:
    """The state's file where none is named: outside the project, whose folder may be a clone that does not stay."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(home) / "purchase-predict" / "serving.sqlite"


def serve(settings: Settings, state: State, started: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C, then ends the requests in progress.

    Args:
        settings: the parameters.
        state: where visitors are remembered; it is closed at the end.
        started: called with one line once requests are answered.

    Raises:
        click.ClickException: the server cannot be started: no version holds the alias, or the port is taken.
    """
    token = guard.token_of(settings.token_file, settings.host)
    listening = _listen(settings.host, settings.port)
    sys.setswitchinterval(_SWITCH_SECONDS)
    meters = Meters()
    with contextlib.ExitStack() as stack:
        stack.callback(state.close)
        follower = _followed(settings.registry_name, settings.env, stack)
        if follower.scorer is None:
            raise click.ClickException(f"{follower.problem}: deploy one with mlflow run . -P env={settings.env}")
        log = AnswerLog(settings.answers, settings.retention_days, meters) if settings.answers else None
        if log:
            stack.callback(log.close)
        shadow = None
        if settings.shadow:
            shadow = Shadow(_followed(settings.registry_name, settings.shadow, stack), log, meters)
            stack.callback(shadow.close)
        service = Service(state, follower, meters, settings.retention_days, log, shadow)
        health = Health(service)
        shared = isinstance(state, RedisState)
        quick = ThreadPoolExecutor(_REDIS_THREADS if shared else 1, "state")
        slow = ThreadPoolExecutor(2, "slow")
        stack.enter_context(quick)
        stack.enter_context(slow)
        stack.enter_context(_forgetting(state, settings.retention_days))
        routes = build(service, health, quick, slow, 0 if shared else _AT_ONCE)
        app = guard.Guard(routes, token, settings.host, meters)
        place = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{listening.getsockname()[1]}"
        version = follower.scorer.version
        _run(app, listening, lambda: started(f"version {version} of {settings.registry_name} answers at {place}"))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, type_, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol named, asyncio sends each part of an answer at once: otherwise the second part waits 40 ms
        # for the acknowledgement of the first.
        listening = socket.socket(family, type_, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(2048)
        except OSError:
            listening.close()
            raise
        return listening
    except OSError as error:
        raise click.ClickException(f"port {port} of {host}: cannot be listened on: {_why(error)}") from error


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


def _followed(name: str, env: str, stack: contextlib.ExitStack) -> Follower:
    def seen(problem: str) -> None:
        click.echo(f"serve: {problem or f'the alias {env} is followed again'}", err=True)

    follower = Follower(name, env)
    stack.callback(follower.stop)
    follower.start()
    follower.problem_seen = seen
    return follower


class _Uvicorn(uvicorn.Server):
    """uvicorn, whose end is the end of the function that runs it: a signal is not raised again afterwards."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Asks the server to end on SIGTERM and Ctrl-C, however often they come."""

        def end(*_: object) -> None:
            self.should_exit = True

        before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen, and says so."""
        await super().startup(sockets)
        if self.started:
            self._started()


def _run(app: guard.Guard, listening: socket.socket, started: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,  # a path may have a session's id
        log_level="warning",
        server_header=False,
        limit_concurrency=_CONCURRENCY,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        timeout_keep_alive=65,  # longer than that of the usual load balancers, so that they end a connection first
    )
    _Uvicorn(config, started).run(sockets=[listening])


@contextlib.contextmanager
def _forgetting(state: State, retention_days: int) -> Iterator[None]:
    """Forgets visitors once an hour while the block runs."""
    ended = threading.Event()

    def keep_forgetting() -> None:
        while not ended.is_set():
            started = time.monotonic()
            try:
                state.forget(retention_days)
            except Exception as error:  # as on a full disk; the requests meet and report it
                logging.getLogger(__name__).warning("the old state was not deleted: %s", type(error).__name__)
            ended.wait(max(1.0, _HOUR_SECONDS - (time.monotonic() - started)))

    thread = threading.Thread(target=keep_forgetting, name="forgets", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5)
