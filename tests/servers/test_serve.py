"""The server of `mlflow run -e serve`, asked over HTTP: what it takes, answers, refuses, and survives."""

import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from purchase_predict.models import packaging
from purchase_predict.schema import FEATURES
from purchase_predict.serving.columns import COLUMNS
from tests.conftest import DEEP_EXAMPLES
from tests.serving import served
from tests.serving.served import NAME, Served, event


@pytest.fixture(scope="module")
def server(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server filled with the events of the sample. It has staging as its shadow, and a log of answers."""
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
    assert (cart["moment"], cart["model_version"]) == ("2019-12-02T10:01:00Z", "1")
    assert cart["missing"] == ["category", "sub_category"]  # the event has no category_code
    assert 0 < cart["probability"] < 1
    assert cart["will_buy"] in (0, 1)


@pytest.mark.parametrize(
    ("lacks", "missing"),
    [
        ({}, []),
        ({"price": None}, ["price", "product_relative_price"]),
        ({"brand": ""}, ["brand"]),
        ({"category_code": "electronics"}, ["sub_category"]),
        ({"product_id": 7}, ["product_relative_price"]),  # a product that nobody has seen before
    ],
)
def test_an_answer_names_the_columns_that_it_had_to_do_without(
    server: Served, lacks: dict[str, object], missing: list[str]
) -> None:
    whole = {"category_code": "electronics.audio"}
    session = f"without {missing}"
    cart = event("10:30:00", "cart", **{**whole, **lacks, "user_session": session})
    tried, sent = (server.ask(path, cart)[1]["answers"][0] for path in ("/try", "/events"))
    (kept,) = server.ask(f"/carts/{quote(session)}")[1]["carts"]
    assert tried["missing"] == sent["missing"] == kept["missing"] == missing


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


@pytest.mark.parametrize("name", ["price", "product_id", "user_id", "category_id", "event_time", "no_column"])
def test_a_number_of_thousands_of_digits_refuses_its_event_alone(server: Served, name: str) -> None:
    wrong = json.dumps(event("12:00:01", "cart") | {name: "HERE"}).replace('"HERE"', "9" * 5000)
    good = json.dumps(event("12:00:02", "view", user_session=f"beside {name}"))
    status, answer = server.ask("/events", f"[{wrong}, {good}]".encode())
    assert status == 200
    assert [refused["field"] for refused in answer["refused"]] == ([name] if name != "no_column" else [])


def test_where_all_are_wrong_the_status_says_so(server: Served) -> None:
    status, answer = server.ask("/events", event("12:00:00", "click"))
    assert (status, answer["events"], answer["refused"][0]["field"]) == (422, 0, "event_type")


@pytest.mark.parametrize(
    ("body", "headers", "status", "detail"),
    [
        (b"{", {}, 400, "the body is not JSON"),
        (b"\xff\xfe", {}, 400, "the body is not JSON"),
        (b"[" * 100_000, {}, 400, "the body is not JSON"),
        (b"[]", {}, 422, "the body must be an event or a list of events"),
        (b"3", {}, 422, "the body must be an event or a list of events"),
        (b"[" + b"1," * 1000 + b"1]", {}, 413, "a request may have at most 1000 events"),
        (b" " * (2**20 + 1), {}, 413, "a request may have at most 1048576 bytes"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "Content-Type must be application/json"),
        (b"{}", {"Content-Encoding": "gzip"}, 415, "Content-Encoding is not supported: send the body uncompressed"),
        *(
            (b"{}", {"Host": host}, 400, "the Host header must be 127.0.0.1, localhost or [::1]")
            for host in ("evil.example.org", "[evil.example.org]", "evil.example.org]:5001", "[::1].example.org")
        ),
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


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_probes_may_ask_without_a_body(server: Served, path: str) -> None:
    request = urllib.request.Request(server.address + path, method="HEAD")
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.read()) == (200, b"")


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
    unknown = {"user_session": "unknown / session", "complete": True, "carts": []}
    assert server.ask("/carts/unknown%20%2F%20session") == (200, unknown)


def test_a_session_id_that_very_many_visitors_share_is_answered_in_part(server: Served) -> None:
    for first in range(0, 1200, 400):
        shared = [event("13:30:00", "cart", user_id=first + n, user_session="null") for n in range(400)]
        assert server.ask("/events", shared)[0] == 200
    _, cart = server.ask("/carts/null?why=true")
    assert (len(cart["carts"]), cart["complete"]) == (1000, False)
    assert all(product["contributions"] for product in cart["carts"])


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
    assert "<code>late</code>" in page
    assert "`" not in page
    example = openapi["paths"]["/events"]["post"]["requestBody"]["content"]["application/json"]["example"]
    status, answer = server.ask("/events", example)
    shown = openapi["paths"]["/events"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    assert status == 200
    assert set(answer) == set(shown)
    assert set(answer["answers"][0]) == set(shown["answers"][0])


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_cart_is_typed_and_a_visit_replayed_on_the_page(
    server: Served, browser: Any, width: int, scheme: str, pictures: Path
) -> None:
    tab = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme, timezone_id="America/New_York"
    )
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
    assert "Version 1 of the model answered" in typed
    assert "num_views_product" in typed
    # Every typed view has a different time before the cart event, even if `seconds` is 0. A typed time is UTC,
    # whatever the time zone of the browser.
    for time_, views, seconds in (("2019-10-07 12:30:05", "2", "0"), ("2019-10-07 12:30:05 UTC", "200", "30")):
        for name, value in {"time": time_, "views": views, "seconds": seconds}.items():
            tab.fill(f"[name={name}]", value)
        with tab.expect_response("**/try") as asked_for:
            tab.click("#cart button")
        (answer,) = asked_for.value.json()["answers"]
        assert answer["moment"] == "2019-10-07T12:30:05Z"
        assert answer["columns"]["num_views_product"] == int(views)
        assert answer["columns"]["duration"] == max(1, int(seconds))  # never 0: each view is in an earlier second
    tab.reload()
    tab.wait_for_selector("#events td")
    tab.click("#visit button")
    tab.wait_for_selector(".probability")
    assert len(tab.query_selector_all("#events tr")) > 3
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.screenshot(path=pictures / f"serving-{width}-{scheme}.png", full_page=True)
    tab.goto(f"{server.address}/docs")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    named = server.address.replace("://", "://user:password@")
    tab.goto(named)
    tab.wait_for_selector("#events td")
    assert said == []
    assert [url for url in asked if not url.startswith((server.address, named, "data:"))] == []
    tab.close()


# ---- /invocations: rows whose columns are already computed -------------------------------------------------------


def test_invocations_answer_as_the_packaged_model_does(server: Served, rows: pd.DataFrame, registry: str) -> None:
    packaged = packaging.load(f"models:/{NAME}/1")
    frame = rows[packaged.columns].head(50)
    expected = packaged.loaded.predict(frame)
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
        assert predictions["missing"].tolist() == expected["missing"].tolist()
    # A row without the optional columns gets the same answer alone and beside a complete row.
    lacking = {name: value for name, value in records[0].items() if name in FEATURES}
    (alone,), together = (
        server.ask("/invocations", {"dataframe_records": sent})[1]["predictions"]
        for sent in ([lacking], [records[0], lacking])
    )
    assert together[1] == alone
    assert "num_prev_purchases" in alone["missing"]


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


# ---- health, metrics, shadow and log -----------------------------------------------------------------------------


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
    columns = {**dict.fromkeys(COLUMNS), "price": 9.5, secret: 1}
    server.ask("/invocations", {"dataframe_records": [columns], "params": {secret: 1}})
    # pandas reads a large CSV in parts. If a column's types differ between parts, pandas warns, and names the column.
    row = "1," * len(COLUMNS)
    lines = [",".join([*COLUMNS, secret]), *[f"{row}1"] * 40_000, *[f"{row}{secret}"] * 40_000]
    assert server.ask("/invocations", "\n".join(lines).encode(), **{"Content-Type": "text/csv"})[0] == 200
    _, metrics = server.ask("/metrics")
    assert secret not in metrics
    assert secret not in server.log.read_text()


# ---- input of any kind -------------------------------------------------------------------------------------------


def test_requests_that_its_own_description_gives_rise_to_are_answered(server: Served) -> None:
    """schemathesis generates valid and invalid requests to every address in openapi.json."""
    before = server.memory
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json", "--no-color"]
    command += ["--checks", "not_a_server_error", "--phases", "examples,fuzzing", "--mode", "all", "--seed", "1"]
    # Each of the 4 addresses that take input gets this many requests. The total is 2,167 requests with the profile
    # `deep`, and 143 otherwise.
    deep = settings().max_examples >= DEEP_EXAMPLES
    run = subprocess.run([*command, "--max-examples", str(540 if deep else 34)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    # The output may also have a warning that few requests were valid.
    made = re.search(r"([\d,]+) generated, ([\d,]+) passed", run.stdout)
    assert made, run.stdout
    assert made[1] == made[2]
    assert int(made[1].replace(",", "")) >= (2000 if deep else 100)
    assert server.process.poll() is None
    assert server.memory < before + 300 * 2**20
    _, metrics = server.ask("/metrics")
    assert not [line for line in metrics.splitlines() if "errors_total{" in line and not line.endswith(" 0")]
