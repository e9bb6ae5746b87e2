"""Raw events are accepted, or refused with a reason, by the rules that `load` applies to a source."""

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict.reading.load import load_source
from purchase_predict.schema import EVENTS
from purchase_predict.serving.events import Event, Refused, as_time, microseconds, parse
from tests.features.shops import VALUES

NOW = datetime(2026, 11, 29, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "event_time": "2019-10-07 12:30:05 UTC",
    "event_type": "view",
    "product_id": 7,
    "category_id": 2053013555631882655,
    "category_code": "electronics.audio",
    "brand": "acme",
    "price": 9.99,
    "user_id": 1,
    "user_session": "s",
}


def test_a_good_event_is_taken_as_it_is() -> None:
    event = parse(GOOD | {"colour": "red"}, NOW)
    assert as_time(event.time) == datetime(2019, 10, 7, 12, 30, 5, tzinfo=UTC)
    assert event[1:] == ("view", 7, 2053013555631882655, "electronics.audio", "acme", 9.99, 1, "s")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (
            "event_time",
            ["2019-10-07T12:30:05Z", "2019-10-07 12:30:05", "2019-10-07T14:30:05+02:00", "2019-10-07 12:30:05.000 UTC"],
        ),
        ("product_id", ["7", 7.0, "+7"]),
        ("price", ["9.99", "999e-2"]),
    ],
)
def test_a_value_may_be_written_in_several_ways(field: str, values: list[object]) -> None:
    assert {parse(GOOD | {field: value}, NOW) for value in values} == {parse(GOOD, NOW)}


@pytest.mark.parametrize("field", ["category_id", "category_code", "brand", "price"])
def test_what_may_be_null_may_be_absent_or_empty(field: str) -> None:
    events = [parse(GOOD | {field: value}, NOW) for value in (None, "")]
    events.append(parse({name: value for name, value in GOOD.items() if name != field}, NOW))
    assert len(set(events)) == 1
    assert None in events[0]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("event_time", "yesterday", "must lie between 1970 and 2099 and be written as 2019-10-07 12:30:05 UTC"),
        ("event_time", 1570451405, "must lie between 1970 and 2099 and be written as 2019-10-07 12:30:05 UTC"),
        ("event_time", "2019-02-30 12:00:00 UTC", "must be a UTC time"),
        ("event_time", "1969-12-31 23:59:59 UTC", "must lie between 1970 and 2099"),
        ("event_time", "2101-01-01 00:00:00 UTC", "must lie between 1970 and 2099"),
        ("event_time", "2026-12-01 00:00:00 UTC", "must be at most 1 day ahead of this server's clock"),
        ("event_time", None, "must not be empty"),
        ("event_type", "click", "must be one of view, cart, remove_from_cart, purchase"),
        ("event_type", ["view"], "must be one of view, cart, remove_from_cart, purchase"),
        ("product_id", None, "must not be empty"),
        ("product_id", 7.5, "must be a whole number"),
        ("product_id", True, "must be a whole number"),
        ("product_id", 2**63, "must be a whole number"),
        ("product_id", "\uff17", "must be a whole number"),
        ("product_id", {"$gt": 0}, "must be a whole number"),
        ("user_id", "me", "must be a whole number"),
        ("user_session", "", "must not be empty"),
        ("user_session", 5, "must be text"),
        ("user_session", "\ud800", "must be text"),
        ("user_session", "s" * 501, "must be at most 500 characters long"),
        ("brand", ["acme"], "must be text"),
        ("price", -0.01, "must be a price, 0 or more"),
        ("price", float("nan"), "must be a price, 0 or more"),
        ("price", 1e12, "must be a price, 0 or more"),
        ("price", "1_000", "must be a price, 0 or more"),
        ("price", 10**400, "must be a price, 0 or more"),
        ("price", True, "must be a price, 0 or more"),
    ],
)
def test_a_wrong_value_is_refused_with_field_value_and_reason(field: str, value: object, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(GOOD | {field: value}, NOW)
    assert (caught.value.field, caught.value.reason) == (field, reason)
    assert len(caught.value.value) <= 100


@pytest.mark.parametrize("field", list(GOOD))
def test_a_value_that_is_nested_too_deep_to_be_shown_is_refused(field: str) -> None:
    nested: list[Any] = []
    for _ in range(10_000):
        nested = [nested]
    with pytest.raises(Refused) as caught:
        parse(GOOD | {field: nested}, NOW)
    assert (caught.value.field, caught.value.value) == (field, "list")


@pytest.mark.parametrize("raw", [None, 5, "view", [GOOD]])
def test_what_is_no_object_is_refused(raw: object) -> None:
    with pytest.raises(Refused) as caught:
        parse(raw, NOW)
    assert caught.value.field == "event"


def test_load_refuses_the_same_values(tmp_path: Path) -> None:
    """`load` and `parse` accept and refuse the same values of a CSV file, and read the same times."""
    times = [
        "2019-10-07 12:30:05 UTC",
        "2019-10-07T12:30:05Z",
        "2019-10-07 12:30:05.5 UTC",
        "2019-10-07 12:30:05.999999 UTC",
        "2019-10-07 14:30:05.000001+02:00",
        "2019-02-30 12:00:00 UTC",
        "1969-12-31 23:59:59 UTC",
        "noon",
        "",
    ]
    given_values = {
        "event_time": times,
        "event_type": ["view", "cart", "click", ""],
        "product_id": ["7", "", "x", "9223372036854775807", "9223372036854775808"],
        "category_id": ["", "5", "x"],
        "price": ["", "0", "9.99", "1e3", "-1", "nan", "inf", "1e12", "cheap"],
        "user_id": ["1", "", "x"],
        "user_session": ["s", ""],
    }
    rows = [GOOD | {field: value} for field, values in given_values.items() for value in values]
    source = tmp_path / "events.csv"
    with source.open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in EVENTS])
        writer.writeheader()
        writer.writerows(rows)
    for name in ("target", "scratch"):
        (tmp_path / name).mkdir()
    loaded = load_source(str(source), tmp_path / "target", tmp_path / "scratch", 1)
    taken = []
    for row in rows:
        try:
            taken.append(parse(row, NOW))
        except Refused:
            continue
    assert loaded.rows == len(taken)
    assert loaded.rejected == len(rows) - len(taken)
    table = pq.read_table(tmp_path / "target/events", partitioning=None)
    times_ = [microseconds(time) for time in table["event_time"].to_pylist()]
    assert sorted(times_) == sorted(event.time for event in taken)


ANY_EVENT = st.builds(
    Event,
    time=st.sampled_from([microseconds(value) for value in VALUES["event_time"]]),
    kind=st.sampled_from(VALUES["event_type"]),
    product=st.sampled_from([1, 11]),
    category_id=st.sampled_from([None, 1, 11]),
    category_code=st.sampled_from([None, "a", "ab", "1|", "|"]),
    brand=st.sampled_from([None, "a", "b", "|1"]),
    price=st.sampled_from([None, 1.0, 11.0, 0.1]),
    user=st.just(1),
    session=st.sampled_from(["a", "ab", "b", "1"]),
)


@given(ANY_EVENT, ANY_EVENT)
def test_two_events_share_a_digest_exactly_if_they_agree(first: Event, second: Event) -> None:
    second = second._replace(time=first.time)
    assert (first.digest == second.digest) == (first == second)
