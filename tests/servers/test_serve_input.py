"""Requests with any content, sent to the server of `mlflow run -e serve`: none of them causes a server error."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from purchase_predict.serving.columns import COLUMNS
from tests.conftest import examples
from tests.serving import served
from tests.serving.served import Served, event

#: Any text that JSON can hold, including single halves of surrogate pairs.
TEXT = st.text(st.characters(codec=None), max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def server(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    with served.server(registry, folder / "log", state=folder / "state") as running:
        yield running
    assert "a request failed" not in (folder / "log").read_text()


def raw(server: Served, method: bytes, target: bytes, headers: bytes = b"", body: bytes = b"") -> int:
    """Sends exactly these bytes as a request. Returns the status; 0: the connection was closed without an answer."""
    host, _, port = server.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        length = b"Content-Length: %d\r\n" % len(body) if body else b""
        head = b"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" % (method, target)
        connection.sendall(head + length + headers + b"\r\n" + body)
        answer = connection.makefile("rb").readline().split()
        return int(answer[1]) if answer else 0


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


FIELD = st.sampled_from([*COLUMNS, "", "a"]) | TEXT
ROW = st.dictionaries(FIELD, ANYTHING, max_size=4)
FULL = st.builds(lambda row: dict.fromkeys(COLUMNS) | row, ROW)
WITH_SURROGATES = ("utf-8", "surrogatepass")
BODY = (
    st.builds(lambda rows: {"dataframe_records": rows}, st.lists(FULL | ROW, max_size=3) | ANYTHING)
    | st.builds(
        lambda columns, data: {"dataframe_split": {"columns": columns, "data": data}},
        st.lists(FIELD, max_size=4),
        st.lists(st.lists(ANYTHING, max_size=4), max_size=3) | ANYTHING,
    )
    | st.builds(
        lambda rows, params: {"dataframe_records": rows, "params": params},
        st.lists(FULL, min_size=1, max_size=2),
        st.dictionaries(TEXT | st.just("threshold"), ANYTHING, max_size=2) | ANYTHING,
    )
    | st.dictionaries(st.sampled_from(["instances", "inputs", "dataframe_split", "dataframe_records"]) | TEXT, ANYTHING)
    | ANYTHING
)


@settings(deadline=None, max_examples=examples(1000), suppress_health_check=list(HealthCheck))
@given(BODY)
@example({"dataframe_records": [{"price": "\ud800"}, {"price": 1}]})
@example({"dataframe_records": [dict.fromkeys(COLUMNS) | {"price": "\ud800"}]})
@example({"dataframe_records": [dict.fromkeys(COLUMNS) | {"brand": "\ud800"}]})
@example({"dataframe_records": [{"\ud800": 1}]})
@example({"dataframe_split": {"columns": ["\ud800"], "data": [[1]]}})
@example({"dataframe_records": [dict.fromkeys(COLUMNS)], "params": {"threshold": "\ud800"}})
@example({"dataframe_records": [dict.fromkeys(COLUMNS)], "params": {"\ud800": 1}})
@example({"\ud800": 1})
def test_invocations_of_any_json_are_answered_or_the_callers_fault(server: Served, body: Any) -> None:
    status, answer = server.ask("/invocations", json.dumps(body).encode())
    assert status in (200, 400, 422), answer


@settings(deadline=None, max_examples=examples(300), suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=60) | st.lists(TEXT, max_size=9).map(lambda row: ",".join(row).encode(*WITH_SURROGATES)))
@example(b"\xed\xa0\x80\n1\n")
def test_invocations_of_any_csv_are_answered_or_the_callers_fault(server: Served, body: bytes) -> None:
    assert server.ask("/invocations", body, **{"Content-Type": "text/csv"})[0] in (200, 400)


@settings(deadline=None, max_examples=examples(300), suppress_health_check=list(HealthCheck))
@given(TEXT | ANYTHING)
@example("\ud800")
def test_a_surrogate_anywhere_in_an_event_refuses_its_event(server: Served, value: Any) -> None:
    whole = event("10:00:00", "cart")
    events = [{**whole, name: value} for name in (*whole, "category_code", "category_id")]
    events += [{value: 1}, {**whole, value: 1}] if isinstance(value, str) else []
    for path in ("/events", "/try"):
        status, answer = server.ask(path, events)
        assert status in (200, 422), answer
        assert answer["events"] + answer["repeated"] + len(answer["refused"]) == len(events)


BYTES = st.binary(max_size=8) | st.sampled_from([b"\xed\xa0\x80", b"\xff", b"%ED%A0%80", b"%FF", b"%", b"%00", b"true"])


@settings(deadline=None, max_examples=examples(300), suppress_health_check=list(HealthCheck))
@given(BYTES, BYTES)
@example(b"\xed\xa0\x80", b"\xed\xa0\x80")
def test_any_path_query_and_header_is_answered(server: Served, path: bytes, value: bytes) -> None:
    coded = quote_from_bytes(path).encode(), quote_from_bytes(value).encode()
    safe = bytes(byte for byte in value if byte not in b"\r\n\0")
    targets = [b"/carts/" + coded[0] + b"?why=" + coded[1], b"/carts/x?" + coded[1] + b"=1", b"/" + coded[0]]
    targets += [b"/carts/" + path, b"/carts/x?why=" + value]
    for target in targets:
        if not set(target) & set(b" \r\n\t\0#"):
            assert raw(server, b"GET", target) < 500, target
    body = json.dumps(event("10:00:00", "view")).encode()
    for name in (b"Content-Type", b"Content-Encoding", b"Authorization", b"Accept", b"Host", b"X-Any"):
        for target in (b"/events", b"/invocations"):
            assert raw(server, b"POST", target, name + b": " + safe + b"\r\n", body) < 500, (name, target)
    assert raw(server, b"POST", b"/events", b"Content-Length: " + safe + b"\r\n") < 500
    assert raw(server, safe or b"GET", b"/health") < 500


@pytest.mark.parametrize("path", ["/events", "/try", "/invocations"])
@pytest.mark.parametrize("leaf", ["", "1"])
def test_a_field_nested_as_deep_as_json_can_be_is_the_callers_fault(server: Served, path: str, leaf: str) -> None:
    whole = json.dumps({**event("10:00:00", "view"), "price": "HERE"})
    found = set()
    for depth in range(900, 1000):
        found.add(server.ask(path, whole.replace('"HERE"', f"{'[' * depth}{leaf}{']' * depth}").encode())[0])
    assert found == ({400} if path == "/invocations" else {400, 422})
