"""Features on Spark: a real cluster of two workers makes the same rows as DuckDB, and errors are one line."""

import json
import os
from pathlib import Path

import click
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from purchase_predict import database
from purchase_predict.checksums import Damaged, crc32_below
from purchase_predict.features import on_duckdb, on_spark
from purchase_predict.reading.load import load_source
from purchase_predict.schema import KEYS
from purchase_predict.workflow import key
from tests.features import reference
from tests.features.reference import Event
from tests.features.shops import joined_up_to, many_shops

pytest.importorskip("pyspark")
pytestmark = pytest.mark.servers

REAL = Path(__file__).parents[3] / "shared/data/events"
SCHEMA = pa.schema(
    {
        "event_time": pa.timestamp("us"),
        "event_type": pa.string(),
        "product_id": pa.int64(),
        "category_id": pa.int64(),
        "category_code": pa.string(),
        "brand": pa.string(),
        "price": pa.float64(),
        "user_id": pa.int64(),
        "user_session": pa.string(),
    }
)


def folders(folder: Path) -> tuple[Path, Path]:
    """Empty folders for what load writes, and for its temporary files."""
    (loaded := folder / "loaded").mkdir()
    (scratch := folder / "scratch").mkdir()
    return loaded, scratch


def by_spark(connection: duckdb.DuckDBPyConnection, loaded: Path, target: Path) -> on_spark.Written:
    """Makes `primary_table` with Spark from the events that load wrote."""
    manifest = json.loads((loaded / "source.json").read_text())
    session_type = manifest["session_type"]
    made = on_spark.primary_from_events(
        f"file://{loaded / 'events'}", session_type, manifest["crc32"], f"file://{target}"
    )
    on_duckdb.primary_from_spark(connection, target, session_type)
    return made


def assert_engines_agree(source: str, folder: Path) -> tuple[int, dict[str, int]]:
    """Loads the source, makes the features with both engines, and compares every row and column."""
    load_source(source, *folders(folder), 0.01)
    with database.connect(folder) as connection:
        counts = on_duckdb.primary_from_events(connection, folder / "loaded" / "events")
        connection.execute("ALTER TABLE primary_table RENAME TO by_duckdb")
        made = by_spark(connection, folder / "loaded", folder / "primary")
        assert made.counts == counts
        assert connection.table("primary_table").dtypes == connection.table("by_duckdb").dtypes
        assert connection.table("primary_table").columns == connection.table("by_duckdb").columns
        for one, other in (("primary_table", "by_duckdb"), ("by_duckdb", "primary_table")):
            differing = connection.execute(f"FROM {one} EXCEPT ALL FROM {other} ORDER BY ALL LIMIT 3").fetchall()
            assert differing == []
        rows = connection.execute("SELECT count(*) FROM by_duckdb").fetchone()
        assert rows == (made.rows,)
        return made.rows, counts


def source() -> str:
    """The source to compare the engines on: the real events if they are there, else a sample.

    The variable PURCHASE_PREDICT_SPARK_SOURCE names another source, for example a larger one.
    """
    return os.environ.get("PURCHASE_PREDICT_SPARK_SOURCE") or (str(REAL) if REAL.exists() else "sample:20000")


@pytest.mark.usefixtures("mounted")
def test_two_workers_make_every_row_that_duckdb_makes(tmp_path: Path) -> None:
    rows, counts = assert_engines_agree(source(), tmp_path)
    assert rows > 500
    assert counts["events_repeated"] > 100
    if source() == str(REAL):
        assert rows == 21_897
        assert counts == {"events": 141_465, "events_without_session": 0, "events_repeated": 13_475}


@pytest.mark.usefixtures("mounted")
def test_random_shops_on_two_workers_are_what_plain_python_computes(tmp_path: Path) -> None:
    """400 small shops, each with its own users, are in one table, because a query on Spark is slow, however small."""
    events = many_shops(400)
    (tmp_path / "events/bucket=0").mkdir(parents=True)
    columns = dict(zip(Event._fields, map(list, zip(*events, strict=True)), strict=True))
    pq.write_table(pa.table(columns, SCHEMA), tmp_path / "events/bucket=0/part.parquet")
    manifest = {"session_type": "VARCHAR", "crc32": crc32_below(tmp_path / "events")}
    (tmp_path / "source.json").write_text(json.dumps(manifest))
    expected = reference.primary(events)
    # With this limit, earlier sessions are counted by joins for some users and by running sums for others.
    with duckdb.connect() as connection, joined_up_to(2):
        made = by_spark(connection, tmp_path, tmp_path / "primary")
        result = connection.execute(f"FROM primary_table ORDER BY {', '.join(KEYS)}")
        names = [name for name, *_ in result.description or []]
        rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    assert rows == expected
    sessionless = sum(event.user_session is None for event in events)
    kept = len({event for event in events if event.user_session is not None})
    assert made.counts == {
        "events": len(events),
        "events_without_session": sessionless,
        "events_repeated": len(events) - sessionless - kept,
    }


@pytest.mark.usefixtures("mounted")
def test_what_spark_cannot_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"PATH_NOT_FOUND.*nothing-here") as refused:
        on_spark.primary_from_events(f"file://{tmp_path}/nothing-here", "UUID", {}, f"file://{tmp_path}/out")
    assert "\n" not in refused.value.message


@pytest.mark.usefixtures("mounted")
def test_a_flipped_bit_and_a_lost_or_added_file_are_noticed_by_the_executors(tmp_path: Path) -> None:
    load_source("sample:2000", *folders(tmp_path), 0)
    crc32 = json.loads((tmp_path / "loaded/source.json").read_text())["crc32"]
    (name,) = crc32
    file = tmp_path / "loaded/events" / name
    added, content = file.with_name("more.parquet"), bytearray(file.read_bytes())
    added.write_bytes(content)
    with pytest.raises(Damaged, match=r"more\.parquet was added later"):
        on_spark.primary_from_events(f"file://{tmp_path}/loaded/events", "UUID", crc32, f"file://{tmp_path}/primary")
    added.unlink()
    content[len(content) // 2] ^= 4
    for damage in (lambda: file.write_bytes(content), lambda: file.rename(file.with_name("other.parquet"))):
        damage()
        with pytest.raises(Damaged, match=f"events: {name} is missing or has changed since load wrote it"):
            on_spark.primary_from_events(
                f"file://{tmp_path}/loaded/events", "UUID", crc32, f"file://{tmp_path}/primary"
            )


@pytest.mark.parametrize(
    ("artifact", "expected"),
    [
        ("/shared/mlruns/1/a/artifacts/events", "file:///shared/mlruns/1/a/artifacts/events"),
        ("file:///shared/my%20runs/events", "file:///shared/my runs/events"),
        ("gs://bucket/1/a/events", "gs://bucket/1/a/events"),
        ("s3://bucket/1/a/events", "s3a://bucket/1/a/events"),
        ("hdfs://names:8020/1/a/events", "hdfs://names:8020/1/a/events"),
        ("mlflow-artifacts:/1/a/events", None),
        ("https://server/1/a/events", None),
    ],
)
def test_spark_goes_to_the_artifact_store_itself_where_it_can(artifact: str, expected: str | None) -> None:
    assert on_spark.location(artifact) == expected


@pytest.mark.parametrize("step", ["load", "process"])
def test_the_engine_is_no_part_of_the_key(step: str) -> None:
    values = {"data": "runs:/x/events", "test_ratio": 0.3}
    duck, spark_ = (key.key_parts(step, values | {"engine": name}, {}) for name in ("duckdb", "spark"))
    assert key.key_of(duck) == key.key_of(spark_)
