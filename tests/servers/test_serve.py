"""The server of `mlflow run -e serve`, asked over HTTP: what it takes, answers, refuses, and survives."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import psutil
import pyarrow.dataset as ds
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purchase_predict.models import packaging
from purchase_predict.serving.columns import COLUMNS
from purchase_predict.sources import sample
from steps.deploy import deploy
from steps.serve import serve
from tests import registered
from tests.conftest import examples
from tests.registered import invoke
from tests.serving import served
from tests.serving.redis_server import RedisServer
from tests.serving.served import NAME, Served, as_sent
from tools.machine import answers, free_port, within

VISIT = {"user_id": 1, "user_session": "a visit", "product_id": 1000001, "price": 99.5, "brand": "brand-01"}
TOKEN = "0123456789abcdef0123456789abcdef"


def event(time_: str, kind: str, **other: object) -> dict[str, Any]:
    return {"event_time": f"2019-12-02 {time_} UTC", "event_type": kind, **VISIT, **other}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return served.primary_of("sample:20000", tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def registry(rows: pd.DataFrame, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store with version 1 in production and version 2 in staging."""
    with registered.store_for_many(empty_store, tmp_path_factory.mktemp("store")) as store:
        for env, rounds in (("production", 60), ("staging", 20)):
            trained = served.trained_on(rows, tmp_path_factory.mktemp("model"), rounds)
            assert invoke(deploy, model=trained.uri, registry_name=NAME, env=env).exit_code == 0
        yield store


@pytest.fixture(scope="module")
def server(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that was filled with the sample, with staging beside it and a log of answers."""
    folder = tmp_path_factory.mktemp("serve")
    options = {"state": folder / "state", "warm": "sample:20000", "shadow": "staging", "answers": folder / "answers"}
    with served.server(registry, folder / "log", **options) as running:
        yield running


# ---- events ------------------------------------------------------------------------------------------------------


def test_a_cart_event_is_answered_by_the_version_that_holds_the_alias(server: Served) -> None:
    status, answer = server.ask("/events", [event("10:00:00", "view"), event("10:01:00", "cart")])
    assert status == 200
    assert (answer["events"], answer["repeated"], answer["refused"]) == (2, 0, [])
    (cart,) = answer["answers"]
    assert {name: cart[name] for name in ("event", "user_id", "user_session", "product_id")} == {
        "event": 1,
        "user_id": 1,
        "user_session": "a visit",
        "product_id": 1000001,
    }
    assert (cart["moment"], cart["model_version"], cart["missing"]) == ("2019-12-02T10:01:00Z", "1", [])
    assert 0 < cart["probability"] < 1
    assert cart["will_buy"] in (0, 1)


def test_what_is_sent_again_counts_once_and_is_answered_as_before(server: Served) -> None:
    visit = [event("11:00:00", "view", user_session="again"), event("11:01:00", "cart", user_session="again")]
    _, first = server.ask("/events", visit)
    for _ in range(3):
        status, again = server.ask("/events", visit)
        assert (status, again["events"], again["repeated"]) == (200, 0, 2)
        assert again["answers"] == first["answers"]


def test_a_wrong_event_is_refused_alone(server: Served) -> None:
    wrong = event("12:00:00", "cart", price="cheap")
    status, answer = server.ask("/events", [wrong, event("12:00:00", "view", user_session="other"), 5])
    assert (status, answer["events"]) == (200, 1)
    assert answer["refused"] == [
        {"event": 0, "field": "price", "value": "cheap", "reason": "must be a price, 0 or more"},
        {
            "event": 2,
            "field": "event",
            "value": "int",
            "reason": "must be an object with the columns of the events table",
        },
    ]


def test_where_all_are_wrong_the_status_says_so(server: Served) -> None:
    status, answer = server.ask("/events", event("12:00:00", "click"))
    assert (status, answer["events"], answer["refused"][0]["field"]) == (422, 0, "event_type")


@pytest.mark.parametrize(
    ("body", "headers", "status", "detail"),
    [
        (b"{", {}, 400, "the body is no JSON"),
        (b"\xff\xfe", {}, 400, "the body is no JSON"),
        (b"[" * 100_000, {}, 400, "the body is no JSON"),
        (b"[]", {}, 422, "the body must be an event or a list of events"),
        (b"3", {}, 422, "the body must be an event or a list of events"),
        (b"[" + b"1," * 1000 + b"1]", {}, 413, "a request may have 1000 events"),
        (b" " * (2**20 + 1), {}, 413, "a request may have 1048576 bytes"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "Content-Type must be application/json"),
        (b"{}", {"Host": "evil.example.org"}, 400, "this server answers to 127.0.0.1 and localhost only"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_in_one_line(
    server: Served, body: bytes, headers: dict[str, str], status: int, detail: str
) -> None:
    assert server.ask("/events", body, **headers) == (status, {"detail": detail})


def test_a_body_without_a_length_is_bounded_too(server: Served) -> None:
    host, _, port = server.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = [
            "POST /events HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/json",
            "Transfer-Encoding: chunked",
        ]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        try:
            for _ in range(20):
                connection.sendall(chunk)
        except OSError:
            pass  # the server has answered, and reads no more
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


# ---- carts and the page ------------------------------------------------------------------------------------------


def test_a_cart_has_its_products_with_the_columns_of_the_moment(server: Served) -> None:
    visit = [event("13:00:00", "view", user_session="cart"), event("13:01:00", "cart", user_session="cart")]
    visit += [event("13:02:00", "cart", user_session="cart", product_id=1000002)]
    visit += [event("13:03:00", "remove_from_cart", user_session="cart", product_id=1000002)]
    _, answer = server.ask("/events", visit)
    status, cart = server.ask("/carts/cart")
    assert (status, cart["user_session"]) == (200, "cart")
    (product,) = cart["carts"]
    assert product["probability"] == answer["answers"][0]["probability"]
    assert product["columns"]["duration"] == 60
    assert list(product["columns"]) == list(COLUMNS)
    _, why = server.ask("/carts/cart?why=true")
    assert set(why["carts"][0]["contributions"]) == {*COLUMNS, "base"}
    assert server.ask("/carts/unknown%20%2F%20session") == (200, {"user_session": "unknown / session", "carts": []})


def test_trying_a_visit_out_keeps_nothing(server: Served) -> None:
    visit = [event("14:00:00", "view", user_session="tried"), event("14:01:00", "cart", user_session="tried")]
    before = server.metric("events_total")
    tried = [server.ask("/try", visit) for _ in range(2)]
    assert tried[0] == tried[1]
    assert tried[0][1]["answers"][0]["contributions"]
    assert server.metric("events_total") == before
    assert server.ask("/carts/tried")[1]["carts"] == []
    _, counted = server.ask("/events", visit)
    assert counted["events"] == 2
    assert counted["answers"][0]["probability"] == tried[0][1]["answers"][0]["probability"]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_ask_nobody_else(server: Served, path: str) -> None:
    with urllib.request.urlopen(server.address + path) as answer:
        text, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert "purchase-predict" in text


def test_the_docs_have_an_example_of_every_address(server: Served) -> None:
    _, openapi = server.ask("/openapi.json")
    assert openapi["info"]["title"] == "purchase-predict"
    assert set(openapi["paths"]) == {
        "/events",
        "/try",
        "/carts/{user_session}",
        "/invocations",
        "/health",
        "/ready",
        "/metrics",
    }
    _, page = server.ask("/docs")
    assert all(path in page for path in openapi["paths"])
    example = openapi["paths"]["/events"]["post"]["requestBody"]["content"]["application/json"]["example"]
    status, answer = server.ask("/events", example)
    shown = openapi["paths"]["/events"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    assert status == 200
    assert set(answer) == set(shown)
    assert set(answer["answers"][0]) == set(shown["answers"][0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with pytest.importorskip("playwright.sync_api").sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=options)
        yield opened
        opened.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_cart_is_typed_and_a_visit_replayed_on_the_page(
    server: Served, browser: Any, width: int, scheme: str, tmp_path: Path
) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    said: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(server.address)
    tab.fill("[name=brand]", "<img src=x onerror=alert(1)>")
    tab.click("#cart button")
    tab.wait_for_selector(".probability")
    typed = tab.inner_text("#answers").replace("\u200b", "")
    assert "Version 1 answered" in typed
    assert "num_views_product" in typed
    tab.reload()
    tab.wait_for_selector("#events td")
    tab.click("#visit button")
    tab.wait_for_selector(".probability")
    assert len(tab.query_selector_all("#events tr")) > 3
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))  # SCREENSHOTS=docs renews those of docs/serving.md
    tab.screenshot(path=folder / f"serving-{width}-{scheme}.png", full_page=True)
    tab.goto(f"{server.address}/docs")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    assert [url for url in asked if not url.startswith((server.address, "data:"))] == []
    tab.close()


# ---- ready columns -----------------------------------------------------------------------------------------------


def test_invocations_answer_as_the_packaged_model_does(server: Served, rows: pd.DataFrame, registry: str) -> None:
    packaged = packaging.load(f"models:/{NAME}/1")
    frame = rows[packaged.columns].head(50)
    expected = packaged.answer(frame)
    records = json.loads(frame.to_json(orient="records", double_precision=15))
    split = {"columns": list(frame), "data": [list(record.values()) for record in records]}
    bodies: list[tuple[Any, str]] = [
        ({"dataframe_records": records}, "application/json"),
        ({"dataframe_split": split}, "application/json"),
        (frame.to_csv(index=False).encode(), "text/csv"),
    ]
    for body, kind in bodies:
        status, answer = server.ask("/invocations", body, **{"Content-Type": kind})
        assert status == 200, answer
        predictions = pd.DataFrame(answer["predictions"])
        np.testing.assert_allclose(predictions["probability"], expected["probability"], rtol=0, atol=1e-12)
        assert predictions["will_buy"].tolist() == expected["will_buy"].tolist()


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"dataframe_records": 5}', "application/json", 400),
        (b'{"dataframe_records": [{"price": 1}]}', "application/json", 400),
        (b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}', "application/json", 400),
        (b'{"instances": {"a": [1, [2]]}}', "application/json", 400),
        (b"\xff", "text/csv", 400),
        (b"PAR1", "application/octet-stream", 415),
        (b"PAR1", "application/x-parquet", 415),
        (b"{}", "", 415),
    ],
)
def test_wrong_invocations_are_the_callers_fault(server: Served, body: bytes, kind: str, status: int) -> None:
    assert server.ask("/invocations", body, **{"Content-Type": kind})[0] == status


# ---- how it is ---------------------------------------------------------------------------------------------------


def test_health_ready_and_metrics(server: Served) -> None:
    assert server.ask("/health") == (200, {"status": "alive"})
    assert server.ask("/ready") == (
        200,
        {"ready": True, "model": NAME, "env": "production", "model_version": "1", "problems": []},
    )
    assert server.metric("state_visitors") > 1000
    assert server.metric("state_bytes") > 100_000
    assert server.metric('model_version{env="staging"}') == 2
    assert server.metric("model_age_seconds") > 0


def test_the_shadow_answers_beside_and_its_difference_is_measured(server: Served) -> None:
    before = server.metric("shadow_answers_total")
    server.ask("/events", [event(f"15:00:{second:02}", "cart", product_id=second + 1) for second in range(30)])
    server.wait_until(lambda: server.metric("shadow_answers_total") == before + 30)
    assert server.metric("shadow_difference_total") > 0


def test_nothing_of_a_request_is_in_the_log(server: Served) -> None:
    secret = "visit-of-somebody"
    server.ask("/events", [event("16:00:00", "cart", user_session=secret), event("16:00:00", secret)])
    server.ask("/events", f'{{"{secret}'.encode())
    server.ask(f"/carts/{secret}")
    server.ask(f"/{secret}?{secret}={secret}")
    server.ask("/invocations", {"dataframe_records": [{"price": secret}]})
    _, metrics = server.ask("/metrics")
    assert secret not in metrics
    assert secret not in server.log.read_text()


# ---- input of any kind -------------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MUTATED = st.fixed_dictionaries(
    {
        "event_time": st.sampled_from([f"2019-12-02 18:00:{second:02} UTC" for second in range(20)]) | ANYTHING,
        "event_type": st.sampled_from(["view", "cart", "remove_from_cart", "purchase"]) | ANYTHING,
        "product_id": st.integers(1, 4) | ANYTHING,
        "price": st.floats(0, 1e11) | ANYTHING,
        "user_id": st.integers(1, 3) | ANYTHING,
        "user_session": st.sampled_from(["a", "b"]) | ANYTHING,
    },
    optional={"brand": ANYTHING, "category_code": ANYTHING, "category_id": ANYTHING},
)


@settings(deadline=None, max_examples=examples(400), suppress_health_check=list(HealthCheck))
@given(st.lists(MUTATED | ANYTHING, min_size=1, max_size=20), st.sampled_from(["/events", "/try"]))
def test_events_of_any_kind_are_counted_or_refused(server: Served, events: list[Any], path: str) -> None:
    status, answer = server.ask(path, events)
    assert status in (200, 422), answer
    assert answer["events"] + answer["repeated"] + len(answer["refused"]) == len(events)


def test_requests_that_its_own_description_gives_rise_to_are_answered(server: Served) -> None:
    """schemathesis makes valid and invalid requests of every address out of openapi.json."""
    before = psutil.Process(server.process.pid).memory_info().rss
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json", "--no-color"]
    command += ["--checks", "not_a_server_error", "--phases", "examples,fuzzing", "--mode", "all", "--seed", "1"]
    run = subprocess.run([*command, "--max-examples", str(examples(550) // 4)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    made = re.search(r"([\d,]+) generated, ([\d,]+) passed", run.stdout)  # it may warn that few of them were valid
    assert made, run.stdout
    assert made[1] == made[2]
    assert int(made[1].replace(",", "")) > 100
    assert server.process.poll() is None
    assert psutil.Process(server.process.pid).memory_info().rss < before + 300 * 2**20
    _, metrics = server.ask("/metrics")
    assert not [line for line in metrics.splitlines() if "errors_total{" in line and not line.endswith(" 0")]


# ---- its run, its end --------------------------------------------------------------------------------------------


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
    assert (tmp_path / "log").read_text().endswith("serve: ended, after the requests at work\n")
    logged = ds.dataset(tmp_path / "answers", partitioning="hive").to_table()
    assert sorted(logged["product_id"].to_pylist()) == list(range(900))
    assert set(logged["model_version"].to_pylist()) == {"1"}
    (run,) = mlflow.search_runs(filter_string=f"tags.`serve.address` = '{running.address}'", output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.tags["serve.env"] == "production"


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"env": ""}, "env is empty and so is ENV: say whose model answers, with -P env=production"),
        ({"registry_name": "nobody"}, "no version of nobody holds production: deploy one with"),
        ({"host": "0.0.0.0"}, "host=0.0.0.0: other machines could ask, so a token is needed"),
        ({"port": "70000"}, "port=70000: must be a whole number from 0 (any) to 65535"),
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
    assert said.stderr == f"Error: port {port} of 127.0.0.1: cannot be listened on: Address already in use\n"


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


def test_acknowledged_events_are_there_once_after_kill_9(registry: str, tmp_path: Path) -> None:
    table = as_sent(sample.events(3000).to_pylist())
    table = list({json.dumps(row, sort_keys=True): row for row in table}.values())
    acknowledged = 0
    for kill_after in (0.15, 0.4):
        with served.server(registry, tmp_path / "log", state=tmp_path / "state") as running:
            if acknowledged:
                _, again = running.ask("/events", table[max(0, acknowledged - 500) : acknowledged])
                assert again["events"] == 0
            threading.Timer(kill_after, running.process.kill).start()
            try:
                while acknowledged < len(table):
                    running.ask("/events", table[acknowledged : acknowledged + 5])
                    acknowledged += 5
            except (OSError, HTTPException):
                pass
            running.process.wait(timeout=20)
    assert 20 < acknowledged < len(table)
    with served.server(registry, tmp_path / "log", state=tmp_path / "state") as running:
        fresh = sum(
            running.ask("/events", table[start : start + 500])[1]["events"] for start in range(0, len(table), 500)
        )
        # The request at which the server was killed may be there, too, though nobody was told.
        assert len(table) - acknowledged - 10 <= fresh <= len(table) - acknowledged


def under_load(running: Served, while_: Callable[[], None]) -> list[tuple[float, int, str]]:
    """Asks without a pause while something is done: when each request was sent, its status and the version."""
    asked: list[tuple[float, int, str]] = []
    ended = threading.Event()

    def ask() -> None:
        for number in range(10**6):
            if ended.is_set():
                return
            sent = time.time()
            status, answer = running.ask("/events", event("17:00:00", "cart", user_session=f"load-{number}"))
            asked.append((sent, status, answer["answers"][0]["model_version"]))

    thread = threading.Thread(target=ask)
    thread.start()
    while_()
    ended.set()
    thread.join()
    return asked


def test_promotions_and_rollbacks_take_effect_within_five_seconds_and_no_request_fails(
    registry: str, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    holders: list[tuple[float, str]] = []

    def move() -> None:
        for number in range(4):
            holders.append((time.time(), "21"[number % 2]))
            client.set_registered_model_alias(NAME, "production", holders[-1][1])
            time.sleep(5.5)

    try:
        with served.server(registry, tmp_path / "log", state=tmp_path / "state") as running:
            holders.append((time.time(), "1"))
            asked = under_load(running, move)
    finally:
        client.set_registered_model_alias(NAME, "production", "1")
    assert len(asked) > 500
    assert {status for _, status, _ in asked} == {200}
    for sent, _, version in asked:
        recent = [(since, holder) for since, holder in holders if since <= sent + 1]
        in_time = {
            holder
            for (_, holder), (until, _) in zip(recent, [*recent[1:], (1e12, "")], strict=True)
            if until > sent - 5
        }
        assert version in in_time
    assert {version for _, _, version in asked} == {"1", "2"}


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


def test_a_tracking_server_that_is_away_leaves_the_answers_as_they_are(registry: str, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", registry, "--port", str(port)]
    command += ["--workers", "1", "--host", "127.0.0.1"]

    def started() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
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
            for second in range(20):
                status, answer = running.ask("/events", event(f"11:00:{second:02}", "cart", user_session=f"{second}"))
                assert (status, answer["answers"][0]["model_version"]) == (200, "1")
            tracking = started()
            running.wait_until(lambda: not running.ask("/ready")[1]["problems"], 30)
    finally:
        os.killpg(tracking.pid, signal.SIGKILL)
        tracking.wait()
