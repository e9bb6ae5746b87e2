"""The fast path for plain CSV text gives the same result as the slower ways, or leaves the text to them."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import click
import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purchase_predict.reading import bucket_files, csv_blocks, csv_records, plain, scan, ways
from purchase_predict.reading.load import load_source
from purchase_predict.schema import EVENTS
from purchase_predict.sources import sample
from tests.conftest import examples

COLUMNS = [column.name for column in EVENTS]
#: A session id that is a UUID in DuckDB's spelling.
SESSION = "00005eed-0000-4000-8000-00000000000a"
#: Ordinary values of each column.
USUAL = {
    "event_time": ["2019-10-01 00:00:01", "2019-10-01T00:00:02"],
    "event_type": ["view", "cart", "remove_from_cart", "purchase"],
    "product_id": ["1", "1003461", "0"],
    "category_id": ["2053013555631882655", ""],
    "category_code": ["electronics.smartphone", ""],
    "brand": ["xiaomi", "", "ü", "日本", "in ch", "'", "\\", "#", "0", "NULL", "nan"],
    "price": ["489.07", "0", "1e3", ".5", "5.", "", "0.1"],
    "user_id": ["520088904", "7"],
    "user_session": [SESSION, str(uuid.UUID(int=2**128 - 1))],
}
#: Values, for any column, that are malformed or that one reader may understand differently than another.
ODD = [
    "", " ", "-1", "+5", "-0", "007", "13.0", "12.7", " 7", "7 ", "\t7", "0x10", "0X1f", "1_000", "1e400", "nan", "inf",
    "-inf", "NaN", "true", "9223372036854775807", "9223372036854775808", "2019-10-01", "2019-10-01 00:00:01 UTC",
    "2019-10-01 00:00", "2019-10-01 00:00:60", "2019-02-30 00:00:01", "2019-10-01T00:00:01Z", "2019-10-01 02:00:01+02",
    "2019-10-01 00:00:01.5", "2019-10-01 00:00:1", "1969-12-31 23:59:59", "0001-01-01 00:00:00", "2019-10-01  00:00:1",
    SESSION.upper(), "{" + SESSION + "}", SESSION.replace("-", ""), SESSION[1:] + "-", "s1", "VIEW", "a\rb", "a\0b",
    '"quoted"', '"a,b"', '"a ""b"" c"', '"a\nb"', 'in"ch', '"open', '"a"b', ' "a"', '"a" ', '""', '"', '",', "a,b",
    '"' + SESSION + '"', '"view"', '"7"', '"1.5"', "x" * 300, '"2019-10-01 00:00:01"',
]  # fmt: skip


@st.composite
def _texts(draw: st.DrawFn) -> str:
    """CSV text of ordinary rows. In some texts, all ordinary values are quoted.

    Some rows have an odd value, or end with a blank line or another line end than the other rows.
    """
    ending, quote = draw(st.sampled_from(["\n", "\n", "\r\n"])), draw(st.sampled_from(["", "", '"']))
    rows = []
    for _ in range(draw(st.integers(0, 12))):
        values = [quote + draw(st.sampled_from(USUAL[name])) + quote for name in COLUMNS]
        if draw(st.integers(0, 5)) == 5:
            values[draw(st.integers(0, len(values) - 1))] = draw(st.sampled_from(ODD))
        rows.append(",".join(values) + draw(st.sampled_from([ending] * 12 + [2 * ending, "\n", "\r\n", "\r"])))
    return ",".join(COLUMNS) + ending + "".join(rows).removesuffix(draw(st.sampled_from(["", ending])))


@contextmanager
def _small_blocks(bytes_: int = 200) -> Iterator[None]:
    """Lowers the sizes of blocks, pieces and row groups, so that even a short text has several of them."""
    with (
        mock.patch.object(csv_blocks, "_BLOCK_BYTES", bytes_),
        mock.patch.object(plain, "_PIECE_BYTES", 64),
        mock.patch.object(bucket_files, "_GROUP_ROWS", 3),
    ):
        yield


def _outcome(file: Path, folder: Path) -> object:
    """What a load returns, and the text of rejects.csv (None: no such file); or the error message of the load."""
    for name in ("target", "scratch"):
        (folder / name).mkdir(parents=True)
    try:
        loaded = load_source(str(file), folder / "target", folder / "scratch", 1.0)
    except click.ClickException as error:
        return error.message
    rejects = folder / "target" / "rejects.csv"
    return loaded, rejects.read_text(encoding="utf-8") if rejects.exists() else None


@settings(max_examples=examples(150), deadline=None)
@given(text=_texts())
def test_the_fast_path_gives_the_result_of_the_slower_ways(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    file = folder / "events.csv"
    file.write_bytes(text.encode())
    with _small_blocks():
        with_blocks = _outcome(file, folder / "with")
    with mock.patch.object(ways, "_in_blocks", return_value=None):
        without = _outcome(file, folder / "without")
    assert with_blocks == without


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("product_id", "0x10"), ("user_id", "0X1F"), ("product_id", "+5"), ("product_id", "13.0"), ("price", "1e400"),
        ("brand", '"a,"b",c"'), ("brand", '",'), ("brand", 'a,",x"y'), ("brand", '"a"b'), ("brand", '"a ""b"""'),
        ("brand", '"two\nlines"'), ("brand", '""'), ("brand", '"a,b"'), ("event_time", "2019-10-01 00:00:60"),
        ("event_time", "2019-10-01T00:00:01Z"), ("event_time", "2019-02-30 00:00:01"), ("event_time", ""),
        ("user_session", ""), ("user_session", SESSION.upper()), ("event_type", "VIEW"), ("price", "-1"),
        ("brand", 'b"'),
    ],
)  # fmt: skip
def test_the_fast_path_treats_an_odd_value_like_the_slower_ways(column: str, value: str, tmp_path: Path) -> None:
    usual = {name: values[0] for name, values in USUAL.items()}
    rows = [usual, usual | {column: value}, usual]
    file = tmp_path / "events.csv"
    file.write_text("\n".join([",".join(COLUMNS), *(",".join(row.values()) for row in rows)]), newline="")
    with_blocks = _outcome(file, tmp_path / "with")
    with mock.patch.object(ways, "_in_blocks", return_value=None):
        assert with_blocks == _outcome(file, tmp_path / "without")


@settings(max_examples=examples(300), deadline=None)
@given(
    pieces=st.lists(st.sampled_from([b'"', b",", b"\n", b"\r\n", b"\r", b"\0", b" ", b"a", b"0", b"x", b"\xff"])),
    piece=st.integers(3, 8),
)
def test_a_plain_block_has_the_same_records_line_by_line(
    pieces: list[bytes], piece: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    block = b"".join(pieces)
    if not block:
        return
    with mock.patch.object(plain, "_PIECE_BYTES", piece):
        try:
            count, quoted = plain.check(block)
        except plain.NotPlain:
            return
    file = tmp_path_factory.mktemp("look") / "block.csv"
    file.write_bytes(b"header\n" + block)
    assert quoted == (b'"' in block)
    lines = [line for line in block.replace(b"\r\n", b"\n").split(b"\n") if line]
    assert count - plain.blank_lines(block) == len(lines)
    for line in lines:
        if b'"' not in line and b"\xff" not in line:
            fields = line.count(b",") + 1
            found = [record for record in csv_records.records(file, fields) if record.text == line]
            assert found
            assert all(isinstance(record, csv_records.Record) for record in found)


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", ["", " UTC"])
def test_plain_text_takes_the_fast_path(quoted: bool, ending: str, suffix: str, tmp_path: Path) -> None:
    quote = '"' if quoted else ""
    rows = [
        f"{quote}2019-10-01 00:00:{n:02d}{suffix}{quote},view,{n},,{quote}a.b{quote},,1.5,{n % 7},{SESSION}"
        for n in range(60)
    ]
    file = tmp_path / "events.csv"
    file.write_text(ending.join([",".join(COLUMNS), *rows, ""]), newline="")
    with _small_blocks(), mock.patch.object(scan, "in_one_scan", side_effect=AssertionError):
        outcome = _outcome(file, tmp_path / "with")
    with mock.patch.object(ways, "_in_blocks", return_value=None):
        assert outcome == _outcome(file, tmp_path / "without")


def test_a_user_is_in_one_bucket_and_rows_keep_their_order(tmp_path: Path) -> None:
    text = ["product_id,user_id,note,user_session"]
    text += [f"{n},{n * n % 101},ignored,s{n}" for n in range(1000)]
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(text))
    types = {"user_session": "VARCHAR", "user_id": "BIGINT", "product_id": "BIGINT"}
    with _small_blocks():
        records = csv_blocks.copy(
            {file: text[0].split(",")}, types, ["user_session"], False, "user_id", 4, tmp_path / "out", 2
        )
    assert records == [1000]
    tables = [pq.read_table(part, partitioning=None) for part in sorted((tmp_path / "out").rglob("*.parquet"))]
    assert len(tables) == 4
    buckets = [set(table["user_id"].to_pylist()) for table in tables]
    assert sum(len(bucket) for bucket in buckets) == len({n * n % 101 for n in range(1000)})
    assert all(table["product_id"].to_pylist() == sorted(table["product_id"].to_pylist()) for table in tables)
    rows = sorted(row for table in tables for row in zip(*(table[name].to_pylist() for name in types), strict=True))
    assert rows == sorted((f"s{n}", n * n % 101, n) for n in range(1000))
    assert tables[0].column_names == list(types)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50), st.integers(1, 64))
def test_sql_puts_a_user_into_the_same_bucket(users: list[int], buckets: int) -> None:
    column = pa.table({"user_id": pa.array(users, pa.int64())})
    found = duckdb.from_arrow(column).select(bucket_files.bucket_sql("user_id", buckets)).fetchall()
    assert [bucket for (bucket,) in found] == bucket_files.bucket_numbers(
        column["user_id"].to_numpy(), buckets
    ).tolist()


@pytest.mark.parametrize(
    ("value", "uuid_"),
    [
        (SESSION, True),
        (SESSION.upper(), False),
        (SESSION[:-1], False),
        (SESSION[:-1] + "g", False),
        (SESSION.replace("-", "_"), False),
        ("0" * 36, False),
    ],
)
def test_only_the_spelling_of_duckdb_is_stored_as_a_uuid(value: str, uuid_: bool, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(f"user_id,user_session\n1,{SESSION}\n2,{value}\n")
    types = {"user_id": "BIGINT", "user_session": "VARCHAR"}

    def copy() -> None:
        csv_blocks.copy({file: list(types)}, types, ["user_session"], True, "user_id", 1, tmp_path / "out", 1)

    if not uuid_:
        with pytest.raises(csv_blocks.NotUuids):
            copy()
        return
    copy()
    table = pq.read_table(next((tmp_path / "out").rglob("*.parquet")), partitioning=None)
    assert [str(uuid.UUID(bytes=bytes_)) for bytes_ in table["user_session"].combine_chunks().storage.to_pylist()] == [
        SESSION,
        value,
    ]


def test_many_events_have_the_same_digest_with_and_without_the_fast_path(tmp_path: Path) -> None:
    events = sample.events(30_000)
    seconds = events["event_time"].cast(pa.timestamp("s"))
    file = tmp_path / "events.csv"
    pyarrow.csv.write_csv(events.set_column(events.column_names.index("event_time"), "event_time", seconds), file)
    with mock.patch.object(scan, "in_one_scan", side_effect=AssertionError):
        outcome = _outcome(file, tmp_path / "with")
    with mock.patch.object(ways, "_in_blocks", return_value=None):
        assert outcome == _outcome(file, tmp_path / "without")
