"""Files as Spark and pandas write them are read correctly; a source that changes meanwhile is an error in one line."""

import gzip
import json
from collections.abc import Callable

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from purchase_predict.progress import Phase
from purchase_predict.reading import ways
from purchase_predict.reading.scan import Copied, Reading
from purchase_predict.sources import sample, sources
from tests.reading.box import GOOD, HEADER, Box, bad


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_the_folders_of_partition_by_give_the_column_that_the_files_lack(ending: str, box: Box) -> None:
    table = sample.events(2_000).to_pandas()
    for (type_, brand), rows in table.groupby(["event_type", "brand"], dropna=False):
        folder = (
            box.source / f"event_type={type_}" / f"brand={brand if brand == brand else '__HIVE_DEFAULT_PARTITION__'}"
        )
        folder.mkdir(parents=True)
        rows = rows.drop(columns=["event_type", "brand"])
        if ending == "parquet":
            rows.to_parquet(folder / "part-0.parquet")
        else:
            rows.to_csv(folder / f"part-0.{ending}", index=False)
    assert box.load().digest == box.load("sample:2000").digest


def test_a_column_of_a_folder_that_is_not_read_is_named(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    header, row = HEADER.replace("brand,", ""), GOOD.replace("acme,", "")
    folder = box.source / "country=DE" / "brand=acme" / "shop%3Aid=7" / "=8" / "no equals"
    folder.mkdir(parents=True)
    (folder / "part.csv").write_text(f"{header},note\n{row},x\n")
    (folder / "event_time=2020").mkdir()
    (folder / "event_time=2020/part.csv").write_text(f"{HEADER}\n{GOOD}\n")  # event_time is read from the file
    box.load()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "load: ignored columns that the events table does not have: country, shop:id, note"


def test_a_partition_s_value_is_checked_and_decoded_like_any_other(box: Box) -> None:
    header, row = HEADER.replace("brand,", ""), GOOD.replace("acme,", "")
    for folder in ("brand=a%2Fb%20c", "brand="):
        (box.source / folder).mkdir()
        (box.source / folder / "part.csv").write_text(f"{header}\n{row}\n")
    box.load()
    assert sorted(str(row["brand"]) for row in box.table()) == ["None", "a/b c"]
    header, row = HEADER.replace("event_type,", ""), GOOD.replace("view,", "")
    (box.source / "event_type=wish").mkdir()
    (box.source / "event_type=wish/part.csv").write_text(f"{header}\n{row}\n")
    assert box.load().rejected == 1
    assert box.rejects() == [
        ("event_type=wish/part.csv", 2, "event_type", "wish", "must be one of view, cart, remove_from_cart, purchase")
    ]


def test_the_quoting_of_spark_is_named(box: Box) -> None:
    box.write(f"{HEADER}\n{GOOD}\n{bad(brand=chr(34) + 'tv 32' + chr(92) + chr(34) + ' pro' + chr(34))}\n")
    box.load()
    ((*_, reason),) = box.rejects()
    assert "option escape" in reason


@pytest.mark.parametrize("column", ["price", "brand", "category_code", "category_id"])
def test_nan_in_a_nullable_column_of_parquet_is_a_null(column: str, box: Box) -> None:
    table = sample.events(10)
    values = pa.array(np.full(10, np.nan))
    nulls = pa.nulls(10, table.schema.field(column).type)
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, column, nulls), box.source / "nulls.parquet")
    expected = box.load()
    (box.source / "nulls.parquet").unlink()
    pq.write_table(table.set_column(at, column, values), box.source / "nan.parquet")
    assert (box.load().digest, expected.rejected) == (expected.digest, 0)


@pytest.mark.parametrize(
    "name",
    ["file_row_number", "PRICE", "Event_Time", "_part_path", "price_raw", "path", "line", "bucket", "_LINE", "filename",
     "a.b", 'quo"te', "", "_ignored_0"],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_further_columns_of_parquet_are_ignored_whatever_their_name(name: str, first: bool, box: Box) -> None:
    table = sample.events(100)
    expected = box.load("sample:100").digest
    pq.write_table(table.add_column(0 if first else 9, name, pa.array(["x"] * 100)), box.source / "part.parquet")
    assert box.load().digest == expected


def test_empty_is_judged_after_unpacking(box: Box) -> None:
    for name, content in (("a.csv", b""), ("b.csv.gz", gzip.compress(b"")), ("c.csv.gz", b"")):
        box.write(content, name)
    box.write(f"{HEADER}\n{GOOD}\n", "d.csv")
    assert box.load().rows == 1


def test_what_is_left_out_is_named_and_recorded(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.write(f"{HEADER}\n{GOOD}\n")
    box.write("x", "notes\x1b[2J.md")
    box.load()
    assert "load: skipped hidden files and files that hold no table: notes\\x1b[2J.md\n" in capsys.readouterr().out
    assert json.loads((box.target / "source.json").read_text())["left_out"] == ["notes\x1b[2J.md"]


def test_why_rows_were_refused_is_recorded_the_most_frequent_first(box: Box) -> None:
    rows = [GOOD, bad(price="-3"), bad(price="-4"), bad(product_id="no"), "x"]
    box.write("\n".join([HEADER, *rows]) + "\n")
    box.load()
    refused = json.loads((box.target / "source.json").read_text())["refused"]
    assert refused[0] == {"column": "price", "reason": "must be a price, 0 or more", "rows": 2}
    assert {"column": "product_id", "reason": "must be a whole number", "rows": 1} in refused
    assert sum(each["rows"] for each in refused) == 4


@pytest.mark.parametrize(
    ("value", "written"),
    [("=HYPERLINK(0)", "'=HYPERLINK(0)"), ("@x", "'@x"), ("+1+1", "'+1+1"), ("-1.5", "-1.5"), ("a=b", "a=b")],
)
def test_no_spreadsheet_runs_a_refused_value(value: str, written: str, box: Box) -> None:
    box.write(f"{HEADER}\n{GOOD}\n{bad(product_id=value)}\n")
    box.write(f"{HEADER}\n{bad(product_id='no')}\n", "=part.csv")
    box.load()
    values = {line: (name, found) for name, line, _, found, _ in box.rejects()}
    assert values[3] == ("part-0.csv", written)
    assert values[2] == ("'=part.csv", "no")


# ---- a source that changes ---------------------------------------------------------------------------------------


def _rewritten(box: Box) -> None:
    box.write(f"{HEADER}\n{bad(brand='evil')}\n")


def _rewritten_and_back(box: Box) -> None:
    file = box.source / "part-0.csv"
    old = file.read_bytes()
    _rewritten(box)
    file.write_bytes(old)


@pytest.mark.parametrize(
    "change",
    [
        _rewritten,
        _rewritten_and_back,
        lambda box: box.write(f"{HEADER}\n{GOOD}\n", "part-1.csv"),
        lambda box: (box.source / "part-0.csv").rename(box.source / "part-2.csv"),
        lambda box: box.write(f"{HEADER}\n{GOOD}\n{GOOD}\n"),
    ],
    ids=["rewritten", "rewritten and back", "added", "renamed", "grown"],
)
def test_a_source_that_changes_while_it_is_read_is_an_error(
    change: Callable[[Box], object], box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.write(f"{HEADER}\n{GOOD}\n")
    in_blocks = ways._in_blocks

    def changed(reading: Reading, shown: Phase) -> Copied | None:
        copied = in_blocks(reading, shown)
        change(box)
        return copied

    monkeypatch.setattr(ways, "_in_blocks", changed)
    with pytest.raises(
        click.ClickException, match=r"part-\d.csv.* changed while the source was read, so nothing is kept"
    ):
        box.load()
    assert not list(box.target.iterdir())


def test_the_digest_of_the_source_is_of_what_was_read(box: Box) -> None:
    box.write(f"{HEADER}\n{GOOD}\n")
    assert box.load().source_digest == sources.fingerprint(str(box.source))
    assert box.load("sample:50").source_digest == sources.fingerprint("sample:50")
