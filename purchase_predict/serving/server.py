"""Assembles the server and runs it with uvicorn."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import click
import uvicorn

from purchase_predict.errors import print_line
from purchase_predict.serving import connections, guard
from purchase_predict.serving.answer_log import AnswerLog
from purchase_predict.serving.app import build
from purchase_predict.serving.circuit_breaker import CircuitBreaker
from purchase_predict.serving.follower import Follower
from purchase_predict.serving.health import Health
from purchase_predict.serving.meters import Meters
from purchase_predict.serving.on_redis import RedisState
from purchase_predict.serving.service import Service
from purchase_predict.serving.shadow import Shadow
from purchase_predict.serving.state import State
from purchase_predict.workflow.hints import command_line

#: Maximum seconds to wait for requests in progress when the server ends. This must be less than
#: `workflow.stopping.GRACE_SECONDS`: if the server's launcher dies, the server exits by itself after that many seconds,
#: even if requests are in progress.
_GRACE_SECONDS = 10
#: Number of threads for /events if the state is in Redis. For SQLite, 1 thread is enough, because SQLite allows only
#: one writer at a time.
_REDIS_THREADS = 8
#: With a local state, the event loop itself counts the events of a request that has at most this many events. This
#: takes about 0.5 ms per event.
_AT_ONCE = 5
_HOUR_SECONDS = 3600
#: Python's thread switch interval in seconds. With the default, 5 ms, a request could wait for another thread longer
#: than its own work takes.
_SWITCH_SECONDS = 0.0005


@dataclass(frozen=True)
class Settings:
    """The server's settings: parameters of the entry point `serve`, which `MLproject` describes."""

    registry_name: str
    env: str
    host: str
    port: int
    token_file: str = ""
    shadow: str = ""
    answers: str = ""
    retention_days: int = 90


def serve(settings: Settings, state: State, started: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C, then finishes the requests in progress.

    Args:
        settings: the parameters.
        state: the store of the visitors' state. `serve` closes it at the end, even if the server cannot be started.
        started: called when the server begins to accept requests, with the version and the address in one line.

    Raises:
        click.ClickException: the server cannot be started. Possible causes: the settings are invalid, the token is
            missing or invalid, the port is taken, no version holds the alias, the version that holds the alias does not
            load, or the log cannot be written.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(state.close)
        if settings.shadow == settings.env:
            raise click.ClickException(
                f"shadow={settings.shadow}: the server already answers with this environment's version; name the other "
                "environment, or leave shadow empty"
            )
        token = guard.token_of(settings.token_file, settings.host)
        listening = stack.enter_context(_listen(settings.host, settings.port))
        sys.setswitchinterval(_SWITCH_SECONDS)
        warnings.simplefilter("ignore")  # pandas' warnings quote column names from requests; the output must not
        meters = Meters()
        follower = _followed(settings.registry_name, settings.env, stack)
        if follower.scorer is None:
            command = command_line("main", registry_name=settings.registry_name, env=settings.env)
            raise click.ClickException(f"{follower.problem}: deploy one with {command}")
        log = AnswerLog(settings.answers, settings.retention_days, meters) if settings.answers else None
        if log:
            stack.callback(log.close)
        shadow = None
        if settings.shadow:
            shadow = Shadow(_followed(settings.registry_name, settings.shadow, stack), log, meters)
            stack.callback(shadow.close)
        service = Service(CircuitBreaker(state), follower, meters, settings.retention_days, log, shadow)
        health = Health(service)
        shared = isinstance(state, RedisState)
        quick = ThreadPoolExecutor(_REDIS_THREADS if shared else 1, "state")
        slow, probes = ThreadPoolExecutor(2, "slow"), ThreadPoolExecutor(1, "probes")
        for threads in (quick, slow, probes):
            stack.enter_context(threads)
        stack.enter_context(_forgetting(state, settings.retention_days, meters))
        routes = build(service, health, quick, slow, probes, 0 if shared else _AT_ONCE)
        app = guard.Guard(routes, token, settings.host, meters)
        place = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{listening.getsockname()[1]}"
        version = follower.scorer.version
        connections.allow_open_files()
        _run(
            app, listening, meters, lambda: started(f"version {version} of {settings.registry_name} answers at {place}")
        )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, type_, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sets TCP_NODELAY only if the socket's protocol is IPPROTO_TCP. Without TCP_NODELAY, the second part of
        # a response waits 40 ms for the acknowledgement of the first part.
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
        raise click.ClickException(f"the server cannot listen on port {port} of {host}: {_why(error)}") from error


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


def _followed(name: str, env: str, stack: contextlib.ExitStack) -> Follower:
    def seen(problem: str) -> None:
        print_line(f"serve: {problem or f'the server follows the alias {env} again'}", err=True)

    follower = Follower(name, env)
    stack.callback(follower.stop)
    follower.start()
    follower.problem_seen = seen
    return follower


class _Uvicorn(uvicorn.Server):
    """A uvicorn server whose `run` returns after a signal. uvicorn itself would raise the signal again."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Makes SIGTERM and Ctrl-C end the server gracefully; repeated signals change nothing."""

        def end(*_: object) -> None:
            self.should_exit = True

        before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to accept requests, then calls the constructor's argument `started`."""
        await super().startup(sockets)
        if self.started:
            self._started()


def _run(app: guard.Guard, listening: socket.socket, meters: Meters, started: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app,
        http=connections.protocol(meters),
        lifespan="off",
        access_log=False,  # a path may contain a session id
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        # Seconds; longer than the idle timeout of most load balancers, so that the load balancer closes an idle
        # connection first. If the server closed it first, a request sent at the same time would fail.
        timeout_keep_alive=65,
    )
    _Uvicorn(config, started).run(sockets=[listening])


@contextlib.contextmanager
def _forgetting(state: State, retention_days: int, meters: Meters) -> Iterator[None]:
    """Removes old visitors from the state once an hour while the block runs."""
    ended = threading.Event()

    def keep_forgetting() -> None:
        while not ended.is_set():
            started = time.monotonic()
            _forget(state, retention_days, meters)
            ended.wait(max(1.0, _HOUR_SECONDS - (time.monotonic() - started)))

    thread = threading.Thread(target=keep_forgetting, name="forgets", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5)


def _forget(state: State, retention_days: int, meters: Meters) -> None:
    """Removes old visitors from the state once. Prints how many were removed, also if an error ends the removal."""
    name = "visitors_forgotten_total"
    before = meters.value(name)
    try:
        state.forget(retention_days, lambda visitors: meters.add(name, visitors))
    except Exception as error:  # for example, a full disk: requests then fail, too, and report it
        logging.getLogger(__name__).warning("old visitors were not removed from the state: %s", type(error).__name__)
    if visitors := int(meters.value(name) - before):
        print_line(
            f"serve: visitors forgotten after more than {retention_days} days without an event: {visitors}", err=True
        )
