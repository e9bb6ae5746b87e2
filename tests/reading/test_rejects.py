"""Reading: refused rows; rows read and rows refused add up to the rows in the files."""

import csv
import datetime as dt
import gzip
import re

import click
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings

from purchase_predict.database import quoted
from purchase_predict.reading import csv_records
from purchase_predict.sources import sample
from tests.conftest import examples
from tests.reading.box import GOOD, HEADER, Box, bad
from tests.reading.broken import broken_csv

# ---- refused rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "column", "value", "reason"),
    [
        (bad(product_id="12.7"), "product_id", "12.7", "must be a whole number"),
        (bad(product_id="0.5e1"), "product_id", "0.5e1", "must be a whole number"),
        (bad(product_id="0x10"), "product_id", "0x10", "must be a whole number"),
        (bad(product_id="99999999999999999999"), "product_id", "99999999999999999999", "must be a whole number"),
        (bad(product_id=""), "product_id", "", "must not be empty"),
        (bad(user_session=""), "user_session", "", "must not be empty"),
        (bad(user_session='""'), "user_session", "", "must not be empty"),
        (bad(price="-1"), "price", "-1", "must be a price, 0 or more"),
        (bad(price="nan"), "price", "nan", "must be a price, 0 or more"),
        (bad(price="cheap"), "price", "cheap", "must be a number"),
        (bad(event_type="wish"), "event_type", "wish", "must be one of view"),
        (bad(event_time="1969-12-31 23:59:59"), "event_time", "1969-12-31 23:59:59", "must lie between 1970 and 2099"),
        (bad(event_time="2100-01-01"), "event_time", "2100-01-01", "must lie between 1970 and 2099"),
        (bad(event_time="soon"), "event_time", "soon", "must be a UTC time"),
        *(
            (bad(event_time=time), "event_time", time, "must be a UTC time")
            for time in ("epoch", "infinity", "2019-10-01 00:00:00+25:00", "2019-10-01 00:00:00+16:00",
                         "2019-10-01 00:00:00-02:75", "2019-10-01 (BC)", "290309-12-21 (BC) 00:00:00+00",
                         "2019-10-01 00:00:00+05:00 UTC")
        ),
        *((bad(price=price), "price", price, "must be a number") for price in ("1_000.5", "1e1_0", "1_0")),
        (bad(price="+-1"), "price", "'+-1", "must be a number"),
        (bad(product_id="1_0"), "product_id", "1_0", "must be a whole number"),
        (bad(category_id="+-1"), "category_id", "'+-1", "must be a whole number"),
        ("1,2", "", "1,2", "has 2 columns, not 9"),
        (GOOD + ",x", "", GOOD + ",x", "has 10 columns, not 9"),
        (GOOD + ",", "", GOOD + ",", "has 10 columns, not 9"),
        (GOOD + ",,", "", GOOD + ",,", "has 11 columns, not 9"),
        (bad(brand="not a UUID") + ",x", "", bad(brand="not a UUID") + ",x", "has 10 columns, not 9"),
        (bad(brand='"acme'), "", bad(brand='"acme'), "a quoted field has no closing quote"),
        (bad(brand='"a"b'), "", bad(brand='"a"b'), "wrong quoting"),
        (bad(brand="a\0b"), "", bad(brand="a\ufffdb"), "holds a NUL byte"),
        (bad(brand="a\rb"), "", bad(brand="a\rb"), "holds a carriage return"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_refused_with_its_line_and_column(
    line: str, column: str, value: str, reason: str, box: Box
) -> None:
    box.write(f"{HEADER}\n{GOOD}\n", "part-0.csv")
    box.write(f"{HEADER}\n{GOOD}\n\n{line}\n{GOOD}\n", "part-1.csv")
    loaded = box.load()
    assert (loaded.rows, loaded.rejected) == (3, 1)
    ((file, number, where, what, why),) = box.rejects()
    assert (file, number, where, what) == ("part-1.csv", 4, column, value)
    assert reason in why
    assert box.manifest()["rows_there"] == 4


@pytest.mark.parametrize("packed", [False, True])
def test_a_time_is_read_in_each_form_that_says_when_it_was(packed: bool, box: Box) -> None:
    forms = {
        "2019-10-01 02:03:04 UTC": 0, "2019-10-01 02:03:04": 0, "2019-10-01T02:03:04": 0, "2019-10-01T02:03:04Z": 0,
        "2019-10-01 02:03:04+00": 0, "2019-10-01 04:03:04+02:00": 0, "2019-10-01 04:03:04+0200": 0,
        "2019-09-30 11:03:04-1500": 0, "2019-10-01T02:03:04.000+00:00": 0, "2019-10-01 04:03:04 Europe/Paris": 0,
        "2019/10/01 02:03:04": 0, "2019-10-1 2:03:04": 0, "2019-10-01": -7384, "2019-10-01 02:03": -4,
        "2019-10-1 1:03+02:00": -10804, " 2019-10-01 02:03:04.500 UTC ": 0.5,
    }  # fmt: skip
    expected = {dt.datetime(2019, 10, 1, 2, 3, 4) + dt.timedelta(seconds=seconds) for seconds in forms.values()}
    text = "\n".join([HEADER, *(bad(event_time=form) for form in forms)]).encode()
    box.write(gzip.compress(text) if packed else text, "part-0.csv.gz" if packed else "part-0.csv")
    assert (box.load().rows, box.rejects()) == (len(forms), [])
    assert {row["event_time"] for row in box.table()} == expected
    for form in forms:  # each alone, so that the quickest way that accepts its form reads it
        box.write(f"{HEADER}\n{bad(event_time=form)}\n", "one.csv")
        assert box.load(box.source / "one.csv").rows == 1
        assert box.table()[0]["event_time"] in expected


def test_a_line_that_is_not_utf_8_is_refused_alone(box: Box) -> None:
    box.write(f"{HEADER}\n{GOOD}\n".encode() + bad(brand="café").encode("latin-1") + f"\n{GOOD}\n".encode())
    assert box.load().rows == 2
    assert box.rejects() == [("part-0.csv", 3, "", bad(brand="caf\ufffd"), "the line is not UTF-8")]


@pytest.mark.parametrize("name", ["part-0.csv", "part-0.csv.gz"])
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xef\xbb\xbf" + GOOD.encode() + b",note", "must be a UTC time"),
        (GOOD.encode() + b",caf\xe9", "the line is not UTF-8"),
        (GOOD.encode() + b",note,", "the record has 11 columns, not 10"),
        (GOOD.encode() + b',"a,b",', "the record has 11 columns, not 10"),
    ],
    ids=["BOM", "Latin-1 in an ignored column", "an empty field more", "an empty field more behind quotes"],
)
def test_a_single_doubtful_row_is_refused(line: bytes, reason: str, name: str, box: Box) -> None:
    text = b"\n".join([f"{HEADER},ignored".encode(), line, f"{GOOD},note".encode()])
    box.write(gzip.compress(text) if name.endswith(".gz") else text, name)
    loaded = box.load()
    ((file, number, *_, given_reason),) = box.rejects()
    assert (loaded.rows, loaded.rejected, file, number) == (1, 1, name, 2)
    assert given_reason == reason


def test_a_comma_at_the_end_is_an_empty_last_value(box: Box) -> None:
    box.write(gzip.compress(f"{HEADER},ignored\n{GOOD},\n".encode()), "part-0.csv.gz")
    assert (box.load().rows, box.rejects()) == (1, [])


def test_the_longest_line_is_read_line_by_line_too(box: Box) -> None:
    row = bad(brand="y" * (csv_records.LONGEST - len(bad(brand="")) - 1))
    box.write(f"{HEADER}\n{row}\n{bad(price='cheap')}\n")
    loaded = box.load()
    assert (loaded.rows, loaded.rejected) == (1, 1)


def test_a_row_of_parquet_is_refused_by_the_same_rules(box: Box) -> None:
    connection = duckdb.connect()
    columns = "TIMESTAMP '2019-10-01' AS event_time, 'view' AS event_type, product_id, 1 AS category_id, " \
        "NULL AS category_code, NULL AS brand, price, 1 AS user_id, 's' AS user_session"  # fmt: skip
    rows = "(VALUES (1.0::DOUBLE, 1.0), (12.7, 1.0), (13.0, -1.0), (14.0, NULL)) AS t(product_id, price)"
    connection.execute(f"COPY (SELECT {columns} FROM {rows}) TO {quoted(box.source / 'part.parquet')}")
    loaded = box.load()
    assert (loaded.rows, loaded.rejected) == (2, 2)
    assert [(line, column, value) for _, line, column, value, _ in box.rejects()] == [
        (2, "product_id", "12.7"), (3, "price", "-1.0"),
    ]  # fmt: skip
    assert sorted(row["product_id"] for row in box.table()) == [1, 14]  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("column", "reason"), [("price", "must be a price, 0 or more"), ("product_id", "must be a whole number")]
)
def test_nan_in_parquet_is_refused_though_its_statistics_leave_it_out(column: str, reason: str, box: Box) -> None:
    events = sample.events(10)
    values = [float(number) for number in range(10)]
    values[4] = float("nan")
    at = events.schema.get_field_index(column)
    pq.write_table(events.set_column(at, column, pa.array(values)), box.source / "part.parquet")
    loaded = box.load()
    assert (loaded.rows, loaded.rejected) == (9, 1)
    assert box.rejects() == [("part.parquet", 5, column, "nan", reason)]


def test_too_many_malformed_rows_name_the_three_most_frequent_reasons(box: Box) -> None:
    lines = [GOOD] * 90 + [bad(price="x")] * 5 + [bad(event_type="wish")] * 3 + ["1,2"] * 2 + [bad(product_id="")]
    box.write("\n".join([HEADER, *lines]))
    with pytest.raises(click.ClickException) as caught:
        box.load(ratio=0.1)
    message = caught.value.format_message()
    assert message.startswith("11 of 101 rows are malformed (10.89%, max_reject_ratio allows 10.00%): price must")
    assert "(5 rows, the first: 'x' in part-0.csv line 92); event_type must" in message
    assert "; the record has 2 columns, not 9 (2 rows, the first: '1,2' in part-0.csv line 100)" in message
    assert "must not be empty" not in message
    assert not list(box.target.iterdir())
    assert box.load(ratio=11 / 101).rows == 90


def test_where_every_row_is_refused_the_reasons_are_named_whatever_the_ratio(box: Box) -> None:
    box.write("\n".join([HEADER, bad(price="x"), bad(price="y"), "1,2"]))
    with pytest.raises(click.ClickException) as caught:
        box.load(ratio=1.0)
    message = caught.value.format_message()
    assert (
        "all 3 rows are malformed, so nothing is loaded: price must be a number (2 rows, the first: 'x' in " in message
    )
    assert "; the record has 2 columns, not 9 (1 row, the first: '1,2' in part-0.csv line 4)" in message
    box.write(HEADER)
    with pytest.raises(click.ClickException, match=r"no rows in its 1 file\(s\)"):
        box.load()


def test_whole_floats_and_large_ids_are_exact(box: Box) -> None:
    box.write(f"{HEADER}\n{bad(product_id='13.0', category_id='2053013552326770905.0')}\n")
    box.load()
    (row,) = box.table()
    assert (row["product_id"], row["category_id"]) == (13, 2053013552326770905)


@pytest.mark.parametrize("malformed", ["", bad(price="x") + "\n"])
@pytest.mark.parametrize(
    ("sessions", "type_"),
    [
        (["00005eed-0000-4000-8000-000000000001"], "UUID"),
        (["00005eed-0000-4000-8000-000000000001", "s1"], "VARCHAR"),
        (["00005EED-0000-4000-8000-00000000000A"], "VARCHAR"),
    ],
)
def test_a_session_is_a_uuid_where_every_value_is_one(
    sessions: list[str], type_: str, malformed: str, box: Box
) -> None:
    box.write(f"{HEADER}\n{malformed}" + "".join(bad(user_session=session) + "\n" for session in sessions))
    assert box.load().rows == len(sessions)
    file = quoted(next((box.target / "events").rglob("*.parquet")))
    found = duckdb.connect().execute(f"SELECT user_session::VARCHAR, typeof(user_session) FROM {file}").fetchall()
    assert sorted(found) == sorted((session, type_) for session in sessions)


def test_reading_line_by_line_gives_the_same_rows(box: Box) -> None:
    connection = duckdb.connect()
    table = sample.events(5_000)
    connection.register("events", table)
    connection.execute(f"COPY (FROM events) TO {quoted(box.source / 'part-0.csv')} (HEADER)")
    quick = box.load(ratio=0.0)
    with (box.source / "part-0.csv").open("a") as file:
        file.write("broken\n")
    careful = box.load()
    assert (careful.rows, careful.rejected, careful.digest) == (quick.rows, 1, quick.digest)
    assert box.load("sample:5000").digest == quick.digest


# ---- nothing is lost ---------------------------------------------------------------------------------------------


def lines_there(text: bytes) -> int:
    """The number of lines below the header that are not blank; lines end at a line feed."""
    lines = text.split(b"\n")[1:]
    return sum(line not in (b"", b"\r") for line in lines)


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=broken_csv())
@example(text="\n".join([HEADER, GOOD, bad(event_time="soon", brand='"\n\na,b"'), GOOD]).encode())
def test_rows_and_rejects_add_up_to_the_lines(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    box = Box(tmp_path_factory.mktemp("broken"))
    box.write(text)
    try:
        loaded = box.load()
    except click.ClickException as error:
        message = error.format_message()
        assert "\n" not in message
        assert "would be lost" not in message
        assert re.search("no rows in its|rows are malformed", message), message
        return
    rows = box.table()
    assert len(rows) == loaded.rows
    rejects = box.rejects()
    assert len(rejects) == loaded.rejected
    # Each line break within a value makes a row one line longer.
    further = sum(str(value).count("\n") for row in rows for value in row.values())
    # Blank lines inside quotes are part of a value, and `lines_there` leaves them out.
    inside = sum(len(re.findall(r"\n(?=\n)", str(value))) for row in rows for value in row.values())
    # A record of several lines that violates a rule is refused once, with the number of its first line.
    refused_further = sum(_lines_of_refused(text, line) - 1 for _, line, column, _, _ in rejects if column)
    assert loaded.rows + further - inside + loaded.rejected + refused_further == lines_there(text)
    assert len({line for _, line, _, _, _ in rejects}) == len(rejects)


def _lines_of_refused(text: bytes, line: int) -> int:
    """The number of lines, not counting blank ones, of the refused record that starts at the line with this number."""
    following = text.decode(errors="replace").split("\n")[line - 1 :]
    reader = csv.reader(piece.rstrip("\r") + "\n" for piece in following)
    next(reader)
    return sum(bool(piece.rstrip("\r")) for piece in following[: reader.line_num])
