"""Parquet files: columns, types and values, including those that no column of the project's tables can have."""

import datetime as dt
from decimal import Decimal
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from purchase_predict.schema import PRIMARY
from purchase_predict.sources import sample
from tests.reading.box import EVENTS, GOOD, HEADER, Box, bad

ROWS = 4


def with_column(name: str, values: Any) -> pa.Table:
    """Events of the sample with one column replaced."""
    events = sample.events(ROWS)
    return events.set_column(events.schema.get_field_index(name), name, values)


def refusal(box: Box) -> str:
    with pytest.raises(click.ClickException) as caught:
        box.load()
    message = caught.value.format_message()
    assert "\n" not in message
    return message


# ---- columns -----------------------------------------------------------------------------------------------------


def test_names_in_another_case_are_missing_in_every_format(box: Box, tmp_path: Any) -> None:
    message = (
        f"columns {', '.join(EVENTS)} are missing (found {', '.join(EVENTS).upper()}, but names are case-sensitive); "
        f"the events table has {', '.join(EVENTS)}"
    )
    pq.write_table(sample.events(ROWS).rename_columns([name.upper() for name in EVENTS]), box.source / "a.parquet")
    assert refusal(box) == f"a.parquet: {message}"
    (box.source / "a.parquet").unlink()
    box.write(f"{HEADER.upper()}\n{GOOD}\n", "a.csv")
    assert refusal(box) == f"a.csv: {message}"


def test_names_of_a_primary_table_in_another_case_are_not_taken_for_events(box: Box) -> None:
    box.write(",".join(column.name.upper() for column in PRIMARY) + "\n", "a.csv")
    assert "the primary table has" in refusal(box)


@pytest.mark.parametrize("names", [["a", "b"], ["filename"], ["PRICE"]])
def test_a_parquet_file_without_a_known_column_lacks_them(names: list[str], box: Box) -> None:
    pq.write_table(pa.table({name: [1, 2] for name in names}), box.source / "a.parquet")
    assert refusal(box).startswith(f"a.parquet: columns {', '.join(EVENTS)} are missing")


def test_columns_that_differ_in_case_are_named_as_ignored(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    events = sample.events(ROWS).append_column("PRICE", pa.array([0.0] * ROWS))
    pq.write_table(events, box.source / "a.parquet")
    assert box.load().rows == ROWS
    assert "load: ignored columns that the events table does not have: PRICE\n" in capsys.readouterr().out


# ---- types -------------------------------------------------------------------------------------------------------

BOOLEANS, DURATIONS = pa.array([True, False, True, None]), pa.array([1, 2, 3, 4], pa.duration("us"))
TIMES = pa.array([dt.time(1)] * ROWS)
LISTS, STRUCTS = pa.array([["x"]] * ROWS), pa.array([{"a": 1}] * ROWS)
MAPS = pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64()))
MOMENTS = pa.array([dt.datetime(2019, 10, 1)] * ROWS)
LISTS_OF_DECIMALS = pa.array([[Decimal("1.50")]] * ROWS, pa.list_(pa.decimal128(9, 2)))
LISTS_OF_MOMENTS = pa.array([[dt.datetime(2019, 10, 1)]] * ROWS)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("product_id", BOOLEANS, "must be a whole number, but has the type BOOLEAN"),
        ("product_id", MOMENTS, "must be a whole number, but has the type TIMESTAMP"),
        ("price", BOOLEANS, "must be a number, but has the type BOOLEAN"),
        ("price", DURATIONS, "must be a number, but has the type DURATION"),
        ("price", TIMES, "must be a number, but has the type TIME"),
        ("event_time", pa.array([1, 2, 3, 4]), "must be a UTC time, but has the type BIGINT"),
        ("event_time", TIMES, "must be a UTC time, but has the type TIME"),
        ("event_time", DURATIONS, "must be a UTC time, but has the type DURATION"),
        ("brand", LISTS, "must be text, but has the type VARCHAR[]"),
        ("price", LISTS_OF_DECIMALS, "must be a number, but has the type DECIMAL(9,2)[]"),
        ("user_id", LISTS_OF_DECIMALS, "must be a whole number, but has the type DECIMAL(9,2)[]"),
        ("event_time", LISTS_OF_MOMENTS, "must be a UTC time, but has the type TIMESTAMP[]"),
        ("brand", LISTS_OF_DECIMALS, "must be text, but has the type DECIMAL(9,2)[]"),
        ("brand", STRUCTS, "must be text, but has the type STRUCT(a BIGINT)"),
        ("brand", MAPS, "must be text, but has the type MAP(VARCHAR, BIGINT)"),
        ("brand", DURATIONS, "must be text, but has the type DURATION"),
        ("event_type", pa.array([[1.5]] * ROWS), "must be text, but has the type DOUBLE[]"),
    ],
)
@pytest.mark.parametrize("more", [[], ["PRICE"]], ids=["as it is", "from a copy"])
def test_a_column_that_cannot_be_of_our_type_is_an_error(
    column: str, values: pa.Array, message: str, more: list[str], box: Box
) -> None:
    table = with_column(column, values)
    for name in more:
        table = table.append_column(name, pa.array([0.0] * ROWS))
    pq.write_table(table, box.source / "a.parquet")
    assert refusal(box) == f"a.parquet: column {column} {message}"


def test_a_column_that_is_not_read_may_have_any_type(box: Box) -> None:
    pq.write_table(sample.events(ROWS).append_column("hour", LISTS), box.source / "a.parquet")
    assert box.load().rows == ROWS


@pytest.mark.parametrize(
    ("column", "values"),
    [
        *(("product_id", pa.array([1, 2, 3, 4], type_)) for type_ in (pa.int8(), pa.uint64(), pa.float32())),
        ("product_id", pa.array([Decimal(1), Decimal(2), Decimal(3), Decimal(4)], pa.decimal128(38, 0))),
        *(("product_id", pa.array(["1", "2", "3", "4"], type_)) for type_ in (pa.string(), pa.binary())),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_the_same_numbers_are_the_same_rows_in_every_type(column: str, values: pa.Array, box: Box) -> None:
    pq.write_table(with_column(column, pa.array([1, 2, 3, 4])), box.source / "a.parquet")
    expected = box.load(ratio=0.0)
    pq.write_table(with_column(column, values), box.source / "a.parquet")
    assert box.load(ratio=0.0).digest == expected.digest


@pytest.mark.parametrize(
    "type_", [pa.binary(), pa.large_binary(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_binary_text_is_text(type_: pa.DataType, box: Box) -> None:
    brands = pa.array(["é", None, "", "acme"])
    pq.write_table(with_column("brand", brands), box.source / "a.parquet")
    expected = box.load(ratio=0.0)
    pq.write_table(with_column("brand", brands.cast(type_)), box.source / "a.parquet")
    assert box.load(ratio=0.0).digest == expected.digest


def test_times_and_event_types_may_be_binary_text(box: Box) -> None:
    times = pa.array(
        [b"2019-10-01 00:00:00 UTC", b"2019-10-01T00:00:00+00:00", b"2019-10-01", b"2019-10-01 00:00:00.0"]
    )
    table = with_column("event_time", times)
    kinds = pa.array([b"view"] * ROWS)
    table = table.set_column(table.schema.get_field_index("event_type"), "event_type", kinds)
    pq.write_table(table, box.source / "a.parquet")
    assert box.load(ratio=0.0).rows == ROWS
    assert {row["event_time"] for row in box.table()} == {dt.datetime(2019, 10, 1)}


def test_columns_of_one_name_may_differ_in_type_between_files(box: Box) -> None:
    sessions = pa.array([bytes([number] * 16) for number in range(ROWS)], pa.uuid())
    pq.write_table(with_column("user_session", sessions), box.source / "a.parquet")
    pq.write_table(with_column("user_session", pa.array(range(ROWS))), box.source / "b.parquet")
    pq.write_table(with_column("category_id", pa.array([b"1"] * ROWS)), box.source / "c.parquet")
    pq.write_table(with_column("category_id", pa.array([1.5] * ROWS)), box.source / "d.parquet")
    box.write(f"{HEADER}\n{GOOD}\n{bad(category_id='x')}\n", "e.csv")
    loaded = box.load()
    assert (loaded.rows, loaded.rejected) == (3 * ROWS + 1, ROWS + 1)


# ---- values ------------------------------------------------------------------------------------------------------


def times(unit: str, value: int, zone: str | None = None) -> pa.Array:
    """Three times on 2019-10-01 and the time `value`, all as numbers of `unit` since 1970."""
    seconds = [1_569_888_000 + number for number in range(3)]
    scale = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    return pa.array([*(second * scale for second in seconds), value], pa.int64()).view(pa.timestamp(unit, zone))


#: Times far from today, in units since 1970: up to the limits of 64-bit integers, and in microseconds the year 10000.
FAR = [2**62, -(2**62), 2**63 - 1, -(2**63), -(2**63) + 1, 253_402_300_800_000_000]


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Paris"])
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_time_far_from_ours_is_refused_alone(unit: str, zone: str | None, statistics: bool, box: Box) -> None:
    for number, value in enumerate(FAR):
        table = with_column("event_time", times(unit, value, zone))
        pq.write_table(table, box.source / f"{number}.parquet", write_statistics=statistics)
    loaded = box.load()
    rejects = box.rejects()
    # In nanoseconds, 2**62 lies in 2116, which is refused, and the last value in 1978, which is accepted.
    good = 3 * len(FAR) + (unit == "ns")
    assert (loaded.rows, loaded.rejected) == (good, 4 * len(FAR) - good)
    assert {(line, column) for _, line, column, *_ in rejects} == {(4, "event_time")}
    if unit != "ns":
        assert (rejects[0][3], rejects[0][4]) == (f"{2**62} {unit} since 1970", "must be a UTC time")
    pq.write_table(with_column("event_time", times(unit, 0, zone)), box.source / "0.parquet")
    box.load(box.source / "0.parquet")
    expected = {row["event_time"] for row in box.table()} - {dt.datetime(1970, 1, 1)}
    box.load()
    assert expected <= {row["event_time"] for row in box.table()}


def test_a_far_time_does_no_harm_in_a_column_that_is_text(box: Box) -> None:
    pq.write_table(with_column("brand", times("us", 2**63 - 2)), box.source / "a.parquet")
    assert box.load(ratio=0.0).rows == ROWS


@pytest.mark.parametrize("more", [[], ["PRICE"]], ids=["as it is", "from a copy"])
def test_sparks_old_times_reach_to_the_year_9999(more: list[str], box: Box) -> None:
    year_9999 = (dt.datetime(9999, 12, 31) - dt.datetime(1970, 1, 1)).days * 86400 * 10**6
    table = with_column("event_time", times("us", year_9999))
    for name in more:
        table = table.append_column(name, pa.array([0.0] * ROWS))
    pq.write_table(table, box.source / "a.parquet", use_deprecated_int96_timestamps=True)
    assert (box.load().rows, box.rejects()[0][3:]) == (3, ("9999-12-31 00:00:00", "must lie between 1970 and 2099"))


@pytest.mark.parametrize(
    ("column", "values", "value", "reason"),
    [
        ("event_time", pa.array([18170, 18170, 18170, 2**31 - 1], pa.int32()).view(pa.date32()), "infinity", "2099"),
        ("event_time", pa.array([18170, 18170, 18170, -(2**31)], pa.int32()).view(pa.date32()), "(BC)", "a UTC time"),
        ("product_id", pa.array([1, 2, 3, 2**64 - 1], pa.uint64()), str(2**64 - 1), "must be a whole number"),
        ("product_id", pa.array([Decimal(1)] * 3 + [Decimal("9" * 38)], pa.decimal128(38, 0)), "9" * 38, "a whole"),
        ("product_id", pa.array([1.0, 2.0, 3.0, float("inf")]), "inf", "must be a whole number"),
        ("price", pa.array([Decimal(1)] * 3 + [Decimal("9" * 60)], pa.decimal256(60, 0)), "1e+60", "must be a price"),
        ("price", pa.array([b"1", b"2.5", b"", b"\xff"]), r"\xFF", "must be a number"),
        ("brand", pa.array([b"a", b"", None, b"\xff"]), r"\xFF", "must be text"),
        ("brand", pa.array([b"a", b"", None, b"\xff"]).view(pa.string()), r"\xFF", "must be text"),
        ("user_session", pa.array([b"a", b"b", b"c", b"\xff"]).view(pa.string()), r"\xFF", "must be text"),
        ("event_type", pa.array([b"view", b"view", b"view", b"vi\xff"]).view(pa.string()), r"vi\xFF", "must be text"),
    ],
    ids=lambda value: str(getattr(value, "type", ""))
)  # fmt: skip
def test_a_value_that_cannot_be_converted_is_refused_alone(
    column: str, values: pa.Array, value: str, reason: str, box: Box
) -> None:
    pq.write_table(with_column(column, values), box.source / "a.parquet")
    loaded = box.load()
    assert (loaded.rows, loaded.rejected) == (3, 1)
    ((file, line, where, what, why),) = box.rejects()
    assert (file, line, where) == ("a.parquet", 4, column)
    assert value in what
    assert reason in why


def test_a_dictionary_with_a_value_that_is_not_utf_8_is_an_error_that_names_the_file(box: Box) -> None:
    brands = pa.DictionaryArray.from_arrays([0, 1, 0, None], pa.array([b"a", b"\xff"]).view(pa.string()))
    pq.write_table(with_column("brand", brands), box.source / "a.parquet")
    assert refusal(box) == "a.parquet: cannot be read: Invalid UTF8 payload"
