"""The server of `mlflow run -e serve`: how it starts and ends, who may ask it, and what it survives."""

import base64
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.dataset as ds
import pytest

from purchase_predict.registry import promotion
from purchase_predict.registry.journal import Author
from purchase_predict.sources import sample
from steps.serve import serve
from tests.preloaded.start import program
from tests.registered import invoke
from tests.serving import served
from tests.serving.redis_server import RedisServer
from tests.serving.served import NAME, Served, as_sent, event
from tests.small_disk import enlarge, small_disk
from tests.workflow.runner import SMALL_SERVER
from tools.machine import answers, free_port, within

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def server(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    with served.server(registry, folder / "log", state=folder / "state") as running:
        yield running


# ---- its start, its end, and who may ask it ----------------------------------------------------------------------


def test_it_ends_on_sigterm_after_the_requests_at_work_and_its_run_is_closed(registry: str, tmp_path: Path) -> None:
    with served.server(registry, tmp_path / "log", state=tmp_path / "state", answers=tmp_path / "answers") as running:
        events = [event(f"10:{n // 60:02}:{n % 60:02}", "cart", product_id=n, user_session=str(n)) for n in range(900)]
        answered: list[tuple[int, Any]] = []
        asking = threading.Thread(target=lambda: answered.append(running.ask("/events", events)))
        asking.start()
        time.sleep(0.1)
        running.process.send_signal(signal.SIGTERM)
        asking.join()
        assert running.process.wait(timeout=20) == 0
    assert answered[0][0] == 200
    assert len(answered[0][1]["answers"]) == 900
    assert (tmp_path / "log").read_text().endswith("serve: stopped, after finishing the requests in progress\n")
    logged = ds.dataset(tmp_path / "answers", partitioning="hive").to_table()
    assert sorted(logged["product_id"].to_pylist()) == list(range(900))
    assert set(logged["model_version"].to_pylist()) == {"1"}
    (run,) = mlflow.search_runs(filter_string=f"tags.`serve.address` = '{running.address}'", output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.tags["serve.env"] == "production"


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"env": ""}, "no environment given: the parameter env and the variable ENV are empty; add -P env=staging"),
        ({"registry_name": "nobody"}, "no version of nobody holds production: deploy one with"),
        (
            {"shadow": "production"},
            "shadow=production: the server already answers with this environment's version; name the other environment",
        ),
        ({"host": "0.0.0.0"}, "host=0.0.0.0: other machines can reach the server, so a token is needed"),
        ({"port": "70000"}, "port=70000: must be a whole number from 0 (any free port) to 65535"),
        ({"state": "ftp://x"}, "state=ftp://x: must be a local file, redis://<host>"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    registry: str, tmp_path: Path, parameters: dict[str, str], line: str
) -> None:
    given = {"registry_name": NAME, "env": "production", "port": "0", "state": str(tmp_path / "state")} | parameters
    said = invoke(serve, **given)
    assert said.exit_code == 1
    assert said.stderr.startswith("Error: ")
    assert line in said.stderr


def test_a_port_that_is_taken_is_one_line(registry: str, server: Served, tmp_path: Path) -> None:
    port = server.address.rpartition(":")[2]
    said = invoke(serve, registry_name=NAME, env="production", port=port, state=tmp_path / "state")
    assert said.stderr == f"Error: the server cannot listen on port {port} of 127.0.0.1: Address already in use\n"


def test_a_second_server_on_a_file_ends_in_one_line_and_fills_nothing(registry: str, server: Served) -> None:
    server.ask("/events", [event("09:00:00", "view"), event("09:01:00", "cart")])
    state = server.log.parent / "state"
    said = invoke(serve, registry_name=NAME, env="staging", port="0", state=state, warm="sample:1000")
    assert said.exit_code == 1
    assert said.stderr.startswith(f"Error: state {state}: another server uses this file: name another file with state=")
    assert said.stderr.count("\n") == 1
    assert server.ask("/events", [event("09:00:00", "view"), event("09:01:00", "cart")])[1]["repeated"] == 2


def test_a_client_that_goes_away_is_no_error_of_the_server(server: Served) -> None:
    host, _, port = server.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            "POST /events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
        )
        connection.sendall(head.encode())
    server.wait_until(lambda: 'requests_total{route="/events",status="499"} 1' in server.ask("/metrics")[1])
    assert server.metric('errors_total{route="/events"}') == 0
    assert "ClientDisconnect" not in server.log.read_text()


def test_another_host_asks_for_the_token_and_says_nothing_without_it(registry: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    options = {"host": "0.0.0.0", "token_file": tmp_path / "token", "state": tmp_path / "state"}
    with served.server(registry, tmp_path / "log", **options) as running:
        refusal = (401, {"detail": "a token is needed: Authorization: Bearer <token>"})
        for path in ("/", "/docs", "/openapi.json", "/health", "/ready", "/metrics", "/sample", "/carts/x", "/nothing"):
            assert running.ask(path) == refusal, path
        for path in ("/events", "/try", "/invocations"):
            assert running.ask(path, b" " * 2**21) == refusal, path
        assert running.ask("/health", Authorization="Bearer wrong") == refusal
        assert running.ask("/health", Authorization=f"Bearer {TOKEN}")[0] == 200
        browser = base64.b64encode(f"me:{TOKEN}".encode()).decode()
        assert running.ask("/", Authorization=f"Basic {browser}")[0] == 200
        assert TOKEN not in running.log.read_text()


# ---- what it survives --------------------------------------------------------------------------------------------


def test_acknowledged_events_are_there_once_after_kill_9(registry: str, tmp_path: Path, all_outages: bool) -> None:
    table = as_sent(sample.events(60_000 if all_outages else 6000).to_pylist())
    table = list({json.dumps(row, sort_keys=True): row for row in table}.values())
    draw = random.Random(1)
    acknowledged = 0
    for kill_after in [draw.uniform(0.05, 0.45) for _ in range(20)] if all_outages else (0.15, 0.4):
        with served.server(registry, tmp_path / "log", state=tmp_path / "state") as running:
            if acknowledged:
                status, again = running.ask("/events", table[max(0, acknowledged - 500) : acknowledged])
                assert (status, again.get("events")) == (200, 0), again
            threading.Timer(kill_after, running.process.kill).start()
            try:
                while acknowledged < len(table):
                    status, said = running.ask("/events", table[acknowledged : acknowledged + 5])
                    assert status == 200, said  # only a 200 acknowledges events
                    acknowledged += 5
            except (OSError, HTTPException):
                pass
            running.process.wait(timeout=20)
    assert 20 < acknowledged < len(table)
    with served.server(registry, tmp_path / "log", state=tmp_path / "state") as running:
        fresh = sum(
            running.ask("/events", table[start : start + 500])[1]["events"] for start in range(0, len(table), 500)
        )
        # The events of the request that the last kill interrupted may be stored, too, although no client was told so.
        assert len(table) - acknowledged - 10 <= fresh <= len(table) - acknowledged


def under_load(running: Served, while_: Callable[[], None]) -> list[tuple[float, int, str | None]]:
    """Two clients send requests without a pause while `while_` runs. Returns time, status and version of each."""
    asked: list[tuple[float, int, str | None]] = []
    ended = threading.Event()

    def ask(user: int) -> None:
        for number in range(10**6):
            if ended.is_set():
                return
            sent, cart = time.time(), event("17:00:00", "cart", user_id=user, user_session=f"load-{user}-{number}")
            status, answer = running.ask("/events", cart)
            asked.append((sent, status, answer["answers"][0]["model_version"]))

    with ThreadPoolExecutor(2) as clients:
        asking = [clients.submit(ask, user) for user in (1, 2)]
        try:
            while_()
        finally:
            ended.set()
    for client in asking:
        client.result()
    return asked


class Moves:
    """Moves the alias production from version to version.

    Attributes:
        holders: time of each move, and the version that holds production from then on; None: no version.
    """

    def __init__(self) -> None:
        self.client = mlflow.MlflowClient()
        self.holders: list[tuple[float, str | None]] = []

    def promote(self, number: str) -> None:
        self.holders.append((time.time(), number))
        self.client.set_registered_model_alias(NAME, "production", number)

    def delete_the_alias(self) -> None:
        self.holders.append((time.time(), None))
        self.client.delete_registered_model_alias(NAME, "production")

    def delete_the_holder(self) -> None:
        """Deletes the version that holds production. The alias is deleted with it."""
        (_, number) = self.holders[-1]
        self.holders.append((time.time(), None))
        self.client.delete_model_version(NAME, number)

    def roll_back(self) -> None:
        """Rolls production back from version 2 to version 1, as the entry point `rollback` does."""
        two, one = (self.client.get_model_version(NAME, number) for number in "21")
        self.holders.append((time.time(), "1"))
        assert promotion.roll_back(two, one, "production", "for the test", Author("test", ""), blame=True)

    def promote_a_new_version(self) -> None:
        """Registers the model of version 2 again, as a new version, and promotes the new version."""
        two = self.client.get_model_version(NAME, "2")
        made = self.client.create_model_version(NAME, two.source, model_id=two.model_id, tags=two.tags)
        self.promote(str(made.version))

    def promote_and_delete_the_one_before(self) -> None:
        """Promotes version 1, and at once deletes the version that held production until then."""
        (_, number) = self.holders[-1]
        self.promote("1")
        self.client.delete_model_version(NAME, number)


def test_promotions_rollbacks_and_deletions_take_effect_within_five_seconds_and_no_request_fails(
    registry: str, tmp_path: Path, all_outages: bool
) -> None:
    moves = Moves()
    each = [
        lambda: moves.promote("2"),
        moves.roll_back,
        moves.promote_a_new_version,
        moves.promote_and_delete_the_one_before,
        moves.delete_the_alias,
        moves.promote_a_new_version,
        moves.delete_the_holder,
    ]

    try:
        with served.server(registry, tmp_path / "log", state=tmp_path / "state") as running:

            def answers_with_the_holder() -> bool:
                _, cart = running.ask("/carts/load-1-0")
                return [product["model_version"] for product in cart["carts"]] == [moves.holders[-1][1]]

            def move() -> None:
                for number in range(21 if all_outages else 7):
                    each[number % 7]()
                    running.wait_until(answers_with_the_holder, 5.5)
                    time.sleep(0.5)  # so that this version answers some requests of the load

            moves.holders.append((time.time(), "1"))
            asked = under_load(running, move)
    finally:
        moves.client.set_registered_model_alias(NAME, "production", "1")
    assert len(asked) > 500
    assert {status for _, status, _ in asked} == {200}
    for sent, _, version in asked:
        recent = [(since, holder) for since, holder in moves.holders if since <= sent + 1]
        in_time = {
            holder
            for (_, holder), (until, _) in zip(recent, [*recent[1:], (1e12, "")], strict=True)
            if until > sent - 5
        }
        assert version in in_time
    assert {version for _, _, version in asked} == {holder for _, holder in moves.holders}


def test_redis_that_restarts_is_a_503_in_one_line_and_nothing_acknowledged_is_lost(
    registry: str, tmp_path: Path
) -> None:
    redis_server = RedisServer(tmp_path)
    redis_server.start()
    events = [event(f"10:00:{second:02}", "view") for second in range(9)]
    try:
        with served.server(registry, tmp_path / "log", state=redis_server.uri) as running:
            assert running.ask("/events", events[:5])[1]["events"] == 5
            redis_server.kill()
            status, answer = running.ask("/events", events)
            assert (status, list(answer)) == (503, ["detail"])
            assert "cannot be reached" in answer["detail"]
            assert running.ask("/health")[0] == 200
            assert running.ask("/ready")[0] == 503
            assert running.metric("state_up") == 0
            redis_server.start()
            status, answer = running.ask("/events", events)
            assert (status, answer["events"], answer["repeated"]) == (200, 4, 5)
            assert running.ask("/ready")[0] == 200
    finally:
        redis_server.kill()


def test_a_full_disk_is_a_503_in_one_line_and_nothing_acknowledged_is_lost(registry: str, tmp_path: Path) -> None:
    batches = [
        [
            event(f"10:00:{second:02}", "view", user_id=1000 * batch + second, user_session=f"{batch}")
            for second in range(60)
        ]
        for batch in range(300)
    ]
    with (
        small_disk(tmp_path / "small", "4m") as disk,
        served.server(registry, tmp_path / "log", state=disk / "state", answers=tmp_path / "answers") as running,
    ):
        acknowledged = []
        for batch in batches:
            status, answer = running.ask("/events", batch)
            if status != 200:
                break
            acknowledged.append(batch)
        assert (status, list(answer)) == (503, ["detail"])
        assert answer["detail"].startswith("the state cannot be written: ")
        assert running.ask("/health")[0] == 200
        assert (running.metric("state_up"), running.metric("state_writable")) == (1, 0)
        # Repeated events need no write, so the full disk does not matter.
        assert running.ask("/events", acknowledged[0])[1]["repeated"] == len(batch)
        assert running.ask("/ready")[1]["problems"] == [answer["detail"]]
        enlarge(disk, "64m")
        again = [running.ask("/events", batch)[1] for batch in acknowledged]
        assert {(answer["events"], answer["repeated"]) for answer in again} == {(0, len(batch))}
        _, refused = running.ask("/events", batch)
        assert refused["events"] == len(batch)
        assert running.metric("state_writable") == 1
        assert running.ask("/ready")[1]["problems"] == []


def test_a_tracking_server_that_is_away_leaves_the_answers_as_they_are(
    registry: str, tmp_path: Path, all_outages: bool
) -> None:
    port = free_port()
    command = [program("mlflow"), "server", "--backend-store-uri", registry, "--port", str(port)]
    command += ["--host", "127.0.0.1"]

    def started() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            command,
            env=os.environ | SMALL_SERVER,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert within(90, lambda: answers(f"http://127.0.0.1:{port}/health"))
        return process

    tracking = started()
    try:
        with served.server(f"http://127.0.0.1:{port}", tmp_path / "log", state=tmp_path / "state") as running:
            os.killpg(tracking.pid, signal.SIGKILL)
            tracking.wait()
            running.wait_until(lambda: running.ask("/ready")[1]["problems"], 30)
            status, ready = running.ask("/ready")
            assert (status, ready["model_version"]) == (200, "1")
            assert ready["problems"][0].startswith("the registry does not answer: ")
            assert running.metric("model_behind") == 1
            seconds = 60 if all_outages else 0
            for second in range(seconds or 20):
                status, answer = running.ask("/events", event(f"11:00:{second:02}", "cart", user_session=f"{second}"))
                assert (status, answer["answers"][0]["model_version"]) == (200, "1")
                time.sleep(1 if seconds else 0)
            tracking = started()
            running.wait_until(lambda: not running.ask("/ready")[1]["problems"], 30)
    finally:
        os.killpg(tracking.pid, signal.SIGKILL)
        tracking.wait()
