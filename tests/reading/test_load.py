"""Reading: formats, types and names of files."""

import gzip
import random

import click
import duckdb
import pyarrow.parquet as pq
import pytest

from purchase_predict.database import quoted
from purchase_predict.schema import TABLES
from purchase_predict.sources import sample
from tests.conftest import REAL_DATA, needs_real_data
from tests.reading.box import EVENTS, GOOD, HEADER, Box, bad

# ---- the real data -----------------------------------------------------------------------------------------------


@needs_real_data
def test_the_real_primary_table_has_the_same_digest_in_every_format(box: Box) -> None:
    as_it_is = box.load(REAL_DATA / "primary.csv", 0.0)
    assert (as_it_is.table, as_it_is.rows, as_it_is.rejected) == ("primary", 125_872, 0)
    connection = duckdb.connect()
    rows = f"read_csv({quoted(REAL_DATA / 'primary.csv/part-*.csv')}, all_varchar=true, header=true)"
    for name, options in (("one.csv", "HEADER"), ("one.csv.gz", "HEADER, COMPRESSION gzip")):
        connection.execute(f"COPY (FROM {rows}) TO {quoted(box.source / name)} (FORMAT csv, {options})")
    typed = f"read_csv({quoted(REAL_DATA / 'primary.csv/part-*.csv')}, header=true)"
    connection.execute(f"COPY (FROM {typed}) TO {quoted(box.source / 'one.parquet')}")
    as_spark = {"product_id": "product_id || '.0'", "hour": "hour || '.0'"}
    backwards = [as_spark.get(c.name, c.name) + f" AS {c.name}" for c in reversed(TABLES["primary"])]
    connection.execute(
        f"COPY (SELECT {', '.join(backwards)} FROM {rows} ORDER BY user_id) "
        f"TO {quoted(box.source / 'spark.csv')} (HEADER)"
    )
    for name in ("one.csv", "one.csv.gz", "one.parquet", "spark.csv"):
        assert box.load(box.source / name, 0.0) == as_it_is, name


@needs_real_data
def test_the_real_events_have_the_same_digest_in_every_format(box: Box) -> None:
    as_it_is = box.load(REAL_DATA / "events", 0.0)
    assert (as_it_is.table, as_it_is.rows, as_it_is.rejected) == ("events", 141_465, 0)
    text = gzip.decompress((REAL_DATA / "events/events-2016-08_09.csv.gz").read_bytes()).splitlines(keepends=True)
    for number in range(17):
        box.write(text[0] + b"".join(text[1 + number :: 17]), f"part-{number:02d}.csv")
    assert box.load(ratio=0.0) == as_it_is
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    rows = f"read_csv({quoted(box.source / '*.csv')}, header=true)"
    connection.execute(f"COPY (FROM {rows}) TO {quoted(box.folder / 'typed.parquet')}")
    assert box.load(box.folder / "typed.parquet", 0.0) == as_it_is


def test_the_rows_of_a_file_with_a_link_beside_it_count_once(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.write(f"{HEADER}\n{GOOD}\n", "2019-Oct.csv")
    (box.source / "latest.csv").symlink_to("2019-Oct.csv")
    assert box.load().rows == 1
    assert box.manifest()["linked"] == {"latest.csv": "2019-Oct.csv"}
    assert "skipped links to files that are read under another name: latest.csv (= 2019-Oct.csv)" in (
        capsys.readouterr().out
    )


# ---- formats -----------------------------------------------------------------------------------------------------


def as_rows(box: Box) -> list[tuple[object, ...]]:
    return sorted((row["product_id"], row["brand"], row["price"]) for row in box.table())


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n{GOOD}\n{GOOD}\n".encode(),
        f"{HEADER}\n{GOOD}\n{GOOD}".encode(),
        f"{HEADER}\r\n{GOOD}\r\n{GOOD}\r\n".encode(),
        f"{HEADER}\n{GOOD}\r\n{GOOD}\n".encode(),
        f"{HEADER}\n\n{GOOD}\n\n\n{GOOD}\n\n".encode(),
        f"\ufeff{HEADER}\n{GOOD}\n{GOOD}\n".encode(),
        f'"{HEADER.replace(",", chr(34) + "," + chr(34))}"\n{GOOD}\n{GOOD}\n'.encode(),
        f"{HEADER},extra,price 2\n{GOOD},x,\n{GOOD},,\n".encode(),
        f"{HEADER},".encode() + b"\xff\xfe\n" + f"{GOOD},x\n{GOOD},\n".encode(),
        f"{HEADER}\n{GOOD.replace('acme', chr(34) + 'acme' + chr(34))}\n{GOOD}\n".encode(),
        f"{HEADER}\n{GOOD.replace('view,1,2', 'view,1.0,2.00')}\n{GOOD}\n".encode(),
    ],
    ids=[
        "plain", "no last end", "CRLF", "mixed ends", "blank lines", "BOM", "quoted header", "extra columns",
        "extra column not in UTF-8", "quoted", "whole floats",
    ],
)  # fmt: skip
def test_the_form_of_the_text_does_not_change_the_rows(text: bytes, box: Box) -> None:
    box.write(text)
    packed = box.folder / "packed.csv.gz"
    packed.write_bytes(gzip.compress(text))
    expected = Box(box.folder / "plain" if (box.folder / "plain").mkdir() is None else box.folder)
    expected.write(f"{HEADER}\n{GOOD}\n{GOOD}\n")
    assert box.load(ratio=0.0) == expected.load(ratio=0.0)
    assert box.load(packed, ratio=0.0) == expected.load(ratio=0.0)
    assert as_rows(box) == [(1, "acme", 1.5)] * 2


def test_files_may_differ_in_column_order_and_format(box: Box) -> None:
    box.write(f"{HEADER}\n{GOOD}\n")
    backwards = ",".join(reversed(EVENTS)) + "\n" + ",".join(reversed(GOOD.split(","))) + "\n"
    box.write(gzip.compress(backwards.encode()), "part-1.csv.gz")
    pq.write_table(sample.events(10), box.source / "part-2.parquet")
    assert box.load(ratio=0.0).rows == 12
    assert [row for row in as_rows(box) if row[0] == 1] == [(1, "acme", 1.5)] * 2


def test_quoted_fields_keep_commas_quotes_and_line_breaks(box: Box) -> None:
    brand = '"a, ""b""\nc"'
    box.write(f"{HEADER}\n{bad(brand=brand)}\n{GOOD}\n")
    assert box.load(ratio=0.0).rows == 2
    assert [row[1] for row in as_rows(box)] == ['a, "b"\nc', "acme"]


def test_extra_columns_are_named_once(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        box.write(f"{HEADER},campaign\n{GOOD},x\n", f"part-{number}.csv")
    box.load()
    printed = capsys.readouterr().out
    assert printed.count("campaign") == 1
    assert "ignored" in printed


@pytest.mark.parametrize(
    ("header", "row"), [(f",{HEADER}", f"0,{GOOD}"), (f"{HEADER},", f"{GOOD},"), (f" ,{HEADER}", f"0,{GOOD}")]
)
def test_a_column_without_a_name_is_shown_as_one(
    header: str, row: str, box: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    box.write(f"{header}\n{row}\n")
    assert box.load().rows == 1
    assert 'load: ignored columns that the events table does not have: ""\n' in capsys.readouterr().out


def test_a_file_without_rows_counts_zero_rows(box: Box) -> None:
    box.write("", "part-0.csv")
    box.write(HEADER, "part-1.csv")
    box.write(f"{HEADER}\n", "part-2.csv")
    box.write(f"{HEADER}\n{GOOD}\n", "part-3.csv")
    assert box.load().rows == 1
    assert [part["rows"] for part in box.manifest()["parts"]] == [0, 0, 0, 1]  # type: ignore[attr-defined]


def test_names_that_look_like_globs_or_partitions_are_read_as_plain_names(box: Box) -> None:
    folder = box.source / "event_type=cart"
    folder.mkdir()
    (folder / "part-[1]*.csv").write_text(f"{HEADER}\n{GOOD}\n")
    (folder / "part-1.csv").write_text(f"{HEADER}\n{GOOD}\n")
    box.load()
    assert [row["event_type"] for row in box.table()] == ["view", "view"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "part-0.csv is empty; a header is expected"),
        (f"{HEADER}\n".encode(), "no rows in its 1 file"),
        (b"a,b\n1,2\n", r"columns event_time, .* are missing"),
        (HEADER.replace("price,", "").encode() + b"\n", "column price is missing"),
        (f"{HEADER},price\n{GOOD},1\n".encode(), "column price appears twice"),
        (f"\n{HEADER}\n{GOOD}\n".encode(), "first line is blank"),
        (f"{HEADER}\n{GOOD}\n".encode("utf-16"), r"part-0.csv: must be UTF-8, not UTF-16"),
        (f"\ufeff{HEADER}\n".encode("utf-16-be"), r"part-0.csv: must be UTF-8, not UTF-16"),
        (f"{HEADER}\n{GOOD}\n".encode("utf-32"), r"part-0.csv: must be UTF-8, not UTF-32"),
        (f"\ufeff{HEADER}\n".encode("utf-32-be"), r"part-0.csv: must be UTF-8, not UTF-32"),
        (f"{HEADER}\r{GOOD}\r".encode(), "carriage returns alone"),
        (b"\x00\x01\x02\x03", "NUL bytes"),
        (b'"' + HEADER.encode() + b"\n", "not a CSV header"),
    ],
)  # fmt: skip
def test_a_file_that_is_neither_table_is_refused_in_one_line(text: bytes, message: str, box: Box) -> None:
    box.write(text)
    with pytest.raises(click.ClickException, match=message) as caught:
        box.load()
    assert "\n" not in caught.value.format_message()
    assert "part-0.csv" in caught.value.format_message() or "source" in caught.value.format_message()


@pytest.mark.parametrize("name", ["part-0.csv.gz", "part-0.parquet"])
def test_a_truncated_file_is_refused_in_one_line(name: str, box: Box) -> None:
    table = box.folder / "whole.parquet"
    sample.write(table, 1000)
    text = f"{HEADER}\n{GOOD}\n".encode() + random.Random(0).randbytes(10_000).hex().encode()
    content = gzip.compress(text) if name.endswith("gz") else table.read_bytes()
    box.write(content[: len(content) // 2], name)
    with pytest.raises(click.ClickException, match=name) as caught:
        box.load()
    assert "\n" not in caught.value.format_message()
