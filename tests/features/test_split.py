"""Train and test: never a session on both sides, nothing repeated, the same bytes for the same rows."""

import random
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import duckdb
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from purchase_predict import database
from purchase_predict.features import on_duckdb
from purchase_predict.features import split as splitting
from purchase_predict.features.split import Dataset
from purchase_predict.reading import load
from purchase_predict.reading.load import load_source
from tests.conftest import examples
from tests.features.splits import START, a_row, sessions, side, some_rows, split


def test_the_test_set_is_the_last_part_of_the_time(tmp_path: Path) -> None:
    made = split(some_rows(), tmp_path)
    train, test = side(tmp_path, "train"), side(tmp_path, "test")
    assert made.description.split == "time"
    assert len(train) + len(test) == 200
    assert 0.3 <= len(test) / 200 < 0.4
    cut = datetime.fromisoformat(made.description.cut)
    assert all(row["event_time"] < cut for row in train)
    assert not sessions(train) & sessions(test)


def test_a_session_that_reaches_into_the_test_time_is_whole_in_the_test(tmp_path: Path) -> None:
    rows = some_rows()
    long_one = [a_row(99, "long", 1, 1, 0), a_row(99, "long", 2, 0, 1999)]
    split(rows + long_one, tmp_path)
    assert (99, "long") in sessions(side(tmp_path, "test"))
    assert (99, "long") not in sessions(side(tmp_path, "train"))


def test_without_moments_whole_users_go_to_one_side(tmp_path: Path) -> None:
    made = split(some_rows(), tmp_path, by_time=False)
    train, test = side(tmp_path, "train"), side(tmp_path, "test")
    assert made.description.split == "user"
    assert len(train) + len(test) == 200
    assert 0.3 <= len(test) / 200 < 0.36
    assert not {row["user_id"] for row in train} & {row["user_id"] for row in test}


@settings(deadline=None, max_examples=examples(60))
@given(st.data(), st.booleans(), st.floats(0.2, 0.8))
def test_no_session_is_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, by_time: bool, ratio: float
) -> None:
    draw = random.Random(data.draw(st.integers(0, 10**6)))
    rows = [
        a_row(draw.randrange(30), f"s{draw.randrange(5)}", draw.randrange(9), draw.randrange(2), draw.randrange(500))
        for _ in range(300)
    ]
    folder = tmp_path_factory.mktemp("split")
    try:
        split(rows, folder, ratio, by_time)
    except click.ClickException:
        assume(False)
    train, test = side(folder, "train"), side(folder, "test")
    assert not sessions(train) & sessions(test)
    assert sessions(train) | sessions(test) == sessions(rows)
    keys = {(row["user_id"], row["user_session"], row["product_id"]) for row in rows}
    assert len(train) + len(test) == len(keys)


def test_a_repeated_row_stays_once_and_is_counted(tmp_path: Path) -> None:
    rows = some_rows()
    # These 20 rows repeat the keys of other rows. Rows with the same session id but another user are not repetitions.
    dearer = [row | {"price": 5.0} for row in rows[:20]]
    made = split(rows + dearer, tmp_path)
    assert made.description.rows.read == 220
    assert made.description.rows.repeated == 20
    assert {row["price"] for row in side(tmp_path, "train")} == {1.0}


def test_the_same_rows_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    rows = some_rows()
    shuffled = random.Random(3).sample(rows, len(rows))
    one, other = split(rows, tmp_path / "one"), split(shuffled, tmp_path / "other")
    assert one == other
    for name in ("train.parquet", "test.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize("by_time", [True, False], ids=["by_time", "by_user"])
def test_the_same_rows_are_described_by_the_same_file(by_time: bool, tmp_path: Path) -> None:
    made = split(some_rows(), tmp_path, by_time=by_time)
    counts = {"events": 900, "events_without_session": 3, "events_repeated": 20} if by_time else {}
    replace(made.description, events=counts).write(tmp_path)
    expected = Path(__file__).parent / "expected" / f"dataset_by_{'time' if by_time else 'user'}.json"
    assert (tmp_path / "dataset.json").read_text() == expected.read_text()


def test_categories_are_those_of_train_alone(tmp_path: Path) -> None:
    rows = some_rows()
    rows[-1]["brand"] = "of the test"
    made = split(rows, tmp_path)
    assert set(made.description.categories["brand"]) == {"brand-0", "brand-1", "brand-2"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row | {"purchased": 1} for row in some_rows()], "purchased is 1 in all 200 rows"),
        ([row | {"purchased": 0} for row in some_rows()], "purchased is 0 in all 200 rows"),
        (some_rows(8), r"too little data: the train set \([0-8] of 8 rows\) has [0-8] purchases and"),
    ],
)
def test_what_cannot_be_learned_from_is_one_line(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=message) as refused:
        split(rows, tmp_path)
    assert "\n" not in refused.value.message


def test_events_without_a_cart_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
        "2019-10-01 00:00:00 UTC,view,1,,,,1.0,1,s\n"
    )
    with pytest.raises(click.ClickException, match="no product was put in the cart"):
        process(str(tmp_path / "events.csv"), tmp_path)


def process(source: str, folder: Path, memory_limit: str | None = None) -> tuple[dict[str, int], Dataset]:
    """Runs load and process with the project's own functions. The train and test files are in `folder/made`."""
    for name in ("loaded", "scratch", "made"):
        (folder / name).mkdir(parents=True)
    load_source(source, folder / "loaded", folder / "scratch", 0.01)
    with database.connect(folder / "scratch") as connection:
        if memory_limit:
            connection.execute(f"SET memory_limit = '{memory_limit}'")
        counts = on_duckdb.primary_from_events(connection, folder / "loaded" / "events")
        return counts, splitting.split(connection, 0.3, folder / "made")


def test_buckets_and_memory_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = process("sample:60000", tmp_path / "whole")
    monkeypatch.setattr(load, "_BUCKET_ROWS", 1000)
    pieces = process("sample:60000", tmp_path / "pieces", memory_limit="200MiB")
    assert len(list((tmp_path / "pieces/loaded/events").iterdir())) > 4
    assert pieces == whole
    for name in ("train.parquet", "test.parquet"):
        assert (tmp_path / "whole/made" / name).read_bytes() == (tmp_path / "pieces/made" / name).read_bytes()


def test_dropped_events_are_counted(tmp_path: Path) -> None:
    events = pa.Table.from_pylist(
        [
            {
                "event_time": START, "event_type": kind, "product_id": 1, "category_id": None, "category_code": None,
                "brand": None, "price": 1.0, "user_id": 1, "user_session": session,
            }
            for kind, session in [("cart", "a"), ("cart", "a"), ("view", None), ("view", "a")]
        ]
    )  # fmt: skip
    (tmp_path / "bucket=0").mkdir()
    with duckdb.connect() as connection:
        connection.register("given", events)
        connection.execute(
            "CREATE TABLE typed AS SELECT * REPLACE (category_id::BIGINT AS category_id, category_code::VARCHAR AS "
            "category_code, brand::VARCHAR AS brand) FROM given"
        )
        connection.execute(f"COPY typed TO '{tmp_path}/bucket=0/events.parquet'")
        counts = on_duckdb.primary_from_events(connection, tmp_path)
        assert counts == {"events": 4, "events_without_session": 1, "events_repeated": 1}
        assert connection.execute("SELECT count(*) FROM primary_table").fetchone() == (1,)
