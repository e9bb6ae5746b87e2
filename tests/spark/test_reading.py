"""Loading on a real Spark cluster of 2 workers gives the same rows, digests and refused rows as on one machine."""

import gzip
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import click
import duckdb
import pyarrow.parquet as pq
import pytest
from google.cloud import storage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purchase_predict.reading import executor, on_spark
from purchase_predict.reading.executor import Work
from purchase_predict.reading.task_result import TaskResult
from purchase_predict.sources import hadoop, sample, sources
from purchase_predict.sources.listing import Listing
from purchase_predict.workflow.storing import ArtifactStore
from tests.conftest import REAL_DATA
from tests.reading.box import EVENTS, GOOD, HEADER, bad
from tests.reading.broken import broken_csv
from tests.reading.spark_box import SparkBox
from tests.reading.trees import Tree, add, things

pytest.importorskip("pyspark")
pytestmark = pytest.mark.servers

UUID = "00005eed-0000-4000-8000-00000000000a"


@pytest.fixture
def box(mounted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SparkBox:
    monkeypatch.setattr(on_spark, "TASK_BYTES", 1)  # so that each file gets its own task
    return SparkBox(tmp_path)


# ---- the same as on one machine ----------------------------------------------------------------------------------


def test_the_real_events_or_those_of_the_sample_are_loaded_alike(box: SparkBox) -> None:
    source = os.environ.get("PURCHASE_PREDICT_SPARK_SOURCE") or REAL_DATA / "events"
    if not Path(source).exists():
        sample.write(box.source / "sample.parquet", 20_000)
        source = box.source
    assert box.by_spark(source, 0.0) == box.by_duckdb(source, 0.0)
    assert box.by_spark(source, 0.0).loaded


@settings(max_examples=300 if settings().max_examples >= 100 else 12, suppress_health_check=list(HealthCheck))
@given(
    st.lists(things, max_size=4),
    st.lists(st.tuples(broken_csv(), st.sampled_from(["s1", UUID])), max_size=3),
    st.sampled_from([0.0, 0.5, 1.0, 1.0]),
)
def test_a_random_source_is_loaded_alike(
    mounted: Path, found: list[tuple[str, int, str]], broken: list[tuple[bytes, str]], ratio: float
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_spark, "TASK_BYTES", 1)
        box = SparkBox(Path(folder))
        tree = Tree(box.source)
        for number, (kind, rows, place) in enumerate(found):
            add(tree, kind, number, rows, place)
        for number, (text, session) in enumerate(broken):
            text = text.replace(b",s1", f",{session}".encode())
            if number % 2:
                box.write(gzip.compress(text), f"broken-{number}.csv.gz")
            else:
                box.write(text, f"broken-{number}.csv")
        by_spark, by_duckdb = box.by_spark(ratio=ratio), box.by_duckdb(ratio=ratio)
        assert by_spark == by_duckdb


@pytest.mark.parametrize("sessions", [[UUID, UUID, UUID], [UUID, "s1", UUID], ["s1", "s2", UUID.upper()]])
def test_sessions_are_uuids_where_those_of_all_files_are(sessions: list[str], box: SparkBox) -> None:
    for number, session in enumerate(sessions):
        box.write(f"{HEADER}\n{bad(user_session=session)}\n{bad(price='x')}\n", f"part-{number}.csv")
    by_spark, by_duckdb = box.by_spark(), box.by_duckdb()
    assert by_spark == by_duckdb
    assert by_spark.manifest["session_type"] == ("UUID" if set(sessions) == {UUID} else "VARCHAR")


def test_a_ready_primary_table_is_loaded_alike(box: SparkBox) -> None:
    header = (
        "product_id,brand,price,user_id,user_session,purchased,num_views_session,num_views_product,category,"
        "sub_category,hour,minute,weekday,duration,num_prev_sessions,num_prev_product_views"
    )
    row = "1,acme,1.5,7,s1,1,2,1,a,b,3,4,5,60.0,0,0"
    box.write(f"{header}\n{row}\n", "part-0.csv")
    (box.source / "country=DE").mkdir()
    box.write(f"{header}\n{row}\n{row.replace('s1,1', 's1,2')}\n", "country=DE/part-1.csv")
    by_spark = box.by_spark()
    assert by_spark == box.by_duckdb()
    assert by_spark.loaded is not None
    assert (by_spark.loaded.table, by_spark.loaded.rows, by_spark.loaded.rejected) == ("primary", 2, 1)
    assert by_spark.lines == "load: ignored columns that the primary table does not have: country\n"
    assert len(by_spark.rejects) == 1


def test_a_task_reads_several_small_files_and_a_large_source_has_few_tasks(
    box: SparkBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        box.write(f"{HEADER}\n{GOOD}\n{bad(price='x')}\n", f"part-{number}.csv")
    monkeypatch.setattr(on_spark, "TASK_BYTES", 3 * len(f"{HEADER}\n{GOOD}\n{bad(price='x')}\n"))
    loaded, files = box.load_on_spark()
    assert sorted(files) == [f"events/bucket=0/part-{number:06d}-0.parquet" for number in (0, 3, 6)]
    assert loaded == box.load()
    monkeypatch.setattr(on_spark, "TASK_BYTES", 1)
    monkeypatch.setattr(on_spark, "_MAX_TASKS", 2)
    assert len(box.load_on_spark()[1]) == 2


def test_a_user_is_in_one_bucket_in_whichever_way_each_file_is_read(
    box: SparkBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.write(events := box.source / "part-0.parquet", 3_000)
    text = duckdb.sql(f"FROM '{events}'").df().to_csv(index=False)
    (box.source / "part-1.csv").write_text(text)  # is read in blocks
    (box.source / "part-2.csv").write_text(f"{text}not a record\n")  # is read line by line
    (box.source / "part-3.csv.gz").write_bytes(gzip.compress(text.encode()))  # is read in one scan
    monkeypatch.setattr(on_spark, "bucket_count", lambda parts: 4)
    monkeypatch.setattr(on_spark, "TASK_BYTES", 1)
    box.load_on_spark()
    users = [
        {user for file in sorted(bucket.iterdir()) for user in pq.read_table(file)["user_id"].to_pylist()}
        for bucket in sorted((box.place / "events").iterdir())
    ]
    assert len(users) == 4
    assert len(set().union(*users)) == sum(map(len, users)) > 100
    assert len({file.name for file in (box.place / "events").rglob("*.parquet")}) == 4  # one task for each file


def test_a_file_system_that_spark_alone_reaches_is_read(box: SparkBox, mounted: Path) -> None:
    """viewfs stands for hdfs and s3a: only Spark, by means of Hadoop, can list and read its addresses."""
    columns = [name for name in EVENTS if name != "brand"]
    lacking = ",".join(value for name, value in zip(EVENTS, GOOD.split(","), strict=True) if name != "brand")
    files = {
        "part-0.csv": f"{HEADER}\n{GOOD}\n{bad(price='x')}\n".encode(),
        "with [odd] *name.csv.gz": gzip.compress(f"{HEADER}\n{GOOD}\n".encode()),
        "deep/brand=a%2Fb/part-1.csv": f"{','.join(columns)}\n{lacking}\n".encode(),
        "empty.csv": b"",
        "notes.md": b"x",
    }
    for name, content in files.items():
        for place in (box.source, mounted / "clicks"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
    there, here = box.by_spark("viewfs://shop/data/clicks"), box.by_duckdb()
    assert there.rejects == here.rejects == [("part-0.csv", 3, "price", "x", "must be a number")]
    assert there.loaded == here.loaded
    assert there.manifest["left_out"] == ["notes.md"]
    assert there.loaded is not None
    assert there.loaded.source_digest == sources.fingerprint("viewfs://shop/data/clicks")
    for pattern in ("*.csv*", "deep/*/*", "part-0.csv"):
        there, here = box.by_spark(f"viewfs://shop/data/clicks/{pattern}"), box.by_duckdb(box.source / pattern)
        assert there.loaded == here.loaded
        assert there.loaded
    (mounted / "clicks/part-0.csv").write_text(f"{HEADER}\n")
    assert sources.fingerprint("viewfs://shop/data/clicks") != there.loaded.source_digest
    with pytest.raises(click.ClickException, match="source viewfs://shop/data/gone: no file or folder with data found"):
        sources.listing("viewfs://shop/data/gone")
    for folder, place in (("lake/deep", "lake"), ("lake", "lake/deep"), ("lake", "lake"), ("l[1]*", "l[1]*/deep")):
        (mounted / place / "deep").mkdir(parents=True, exist_ok=True)
        sample.write(mounted / place / "deep/part.parquet", 10)
        (log := mounted / folder / "_delta_log").mkdir(parents=True)
        (log / "0.json").touch()
        with pytest.raises(click.ClickException, match="Delta Lake"):
            sources.listing(f"viewfs://shop/data/{place}")
        (log / "0.json").unlink()
        log.rmdir()
    (mounted / "lake/metadata").mkdir()
    (mounted / "lake/metadata/v1.metadata.json").write_text("{}")
    for place in ("lake", "lake/deep", "lake/deep/*.parquet"):  # a part of the table is refused, too
        with pytest.raises(click.ClickException, match="Apache Iceberg"):
            sources.listing(f"viewfs://shop/data/{place}")


def test_executors_download_from_cloud_storage_and_store_there(box: SparkBox, bucket: storage.Bucket) -> None:
    for number in range(3):
        text = f"{HEADER}\n" + f"{bad(user_id=str(number))}\n" * 5 + bad(price="x")
        bucket.blob(f"clicks/part-{number}.csv.gz").upload_from_string(gzip.compress(text.encode()))
    assert box.by_spark("gs://shop/clicks") == box.by_duckdb("gs://shop/clicks")
    loaded, files = box.load_on_spark("gs://shop/clicks", store=ArtifactStore.of("gs://shop/runs/1/artifacts", ""))
    for name in files:
        (box.place / name).parent.mkdir(parents=True, exist_ok=True)
        bucket.blob(f"runs/1/artifacts/{name}").download_to_filename(str(box.place / name))
    assert box.stored("events") == loaded.digest
    assert len(files) == len(list(bucket.list_blobs(prefix="runs/"))) == 3


# ---- what goes wrong ---------------------------------------------------------------------------------------------


def test_an_executor_that_dies_costs_no_row(box: SparkBox) -> None:
    for number in range(6):
        box.write(f"{HEADER}\n" + f"{bad(user_id=str(number))}\n" * 50 + bad(price="x"), f"part-{number}.csv")
    died = box.folder / "died"
    expected = box.load()
    box.target = box.folder / f"target-{box.count + 1}"
    inner = ArtifactStore.of(str(box.place), "")

    def store(folder: Path) -> None:
        import os

        import psutil

        inner(folder)
        if not died.exists():
            died.touch()
            next(process for process in psutil.Process(os.getpid()).parents() if "java" in process.name()).kill()

    loaded, files = box.load_on_spark(store=store)
    assert died.exists()
    assert loaded == expected
    assert box.stored("events") == expected.digest
    assert len(list(box.place.rglob("*.parquet"))) == len(files) == 6
    assert len(box.rejects()) == 6


def test_a_task_that_runs_twice_stores_the_same_bytes(tmp_path: Path) -> None:
    box = SparkBox(tmp_path)
    events = sample.events(30_000).to_pandas()
    events.to_csv(box.source / "part-0.csv", index=False)
    events.to_csv(box.source / "part-1.csv.gz", index=False)
    events.to_parquet(box.source / "part-2.parquet")
    events.assign(price=events["price"].where(events.index % 100 > 0, -1)).to_csv(box.source / "part-3.csv")
    parts = sources.listing(str(box.source)).parts
    stored = []
    for attempt in ("first", "second"):
        work = Work("x", parts, 8, ("UUID", "VARCHAR"), "", "", ArtifactStore.of(str(tmp_path / attempt), ""))
        for number in range(len(parts)):
            (scratch := tmp_path / f"{attempt}-{number}").mkdir()
            batch, *refused = executor.read_parts(work, [number], {}, scratch)
            done = TaskResult.read(batch.column("done")[0].as_py())
            assert not done.error
            assert sum(batch.num_rows for batch in refused) == sum(done.refused.values()) == (300 if number == 3 else 0)
            stored.append(done)
    assert stored[:4] == stored[4:]
    assert all(len(done.files) == 8 for done in stored)


@pytest.mark.parametrize("numbers", [[[0], [2]], [[0, 1], [1, 2]], [[0, 1, 2, 3]]], ids=["lost", "twice", "unknown"])
def test_each_part_must_be_read_once(numbers: list[list[int]], tmp_path: Path) -> None:
    """A skipped file is noticed: Spark skips unreadable files if `spark.sql.files.ignoreCorruptFiles` is set."""
    box = SparkBox(tmp_path)
    for number in range(3):
        box.write(f"{HEADER}\n{GOOD}\n", f"part-{number}.csv")
    work = Work("x", sources.listing(str(box.source)).parts, 1, ("VARCHAR",), "", "", print)
    on_spark._refuse_wrong_tasks(work, [TaskResult([0, 1], table="events"), TaskResult([2], table="events")])
    with pytest.raises(click.ClickException, match="source x: Spark did not read each of the 3 files exactly once"):
        on_spark._refuse_wrong_tasks(work, [TaskResult(each, table="events") for each in numbers])


def test_a_file_that_spark_hands_over_has_the_listed_size(tmp_path: Path) -> None:
    box = SparkBox(tmp_path)
    box.write(f"{HEADER}\n{GOOD}\n", "part-0.csv")
    work = Work("x", sources.listing(str(box.source)).parts, 1, ("VARCHAR",), "", "", print)
    (fetched := tmp_path / "fetched.csv").write_text(f"{HEADER}\n{GOOD}\n{GOOD}\n")
    (scratch := tmp_path / "scratch").mkdir()
    (batch,) = executor.read_parts(work, [0], {0: fetched}, scratch)
    assert "part-0.csv changed while the source was read" in TaskResult.read(batch.column("done")[0].as_py()).error


def test_refused_rows_that_are_lost_on_the_way_are_an_error(box: SparkBox, monkeypatch: pytest.MonkeyPatch) -> None:
    box.write(f"{HEADER}\n{GOOD}\n{bad(price='x')}\n")
    monkeypatch.setattr(on_spark, "_fetch_refused", lambda *_: None)
    with pytest.raises(click.ClickException, match="Spark lost some of the refused rows, because an executor ended"):
        box.load_on_spark()
    assert not (box.target / "source.json").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, r"part-1.csv: the executor on \S+ cannot read /.*part-1.csv \(No such file or directory\): "),
        (lambda path: path.write_text(f"{HEADER}\n{GOOD[:-1]}2\n"), "part-1.csv: the executor on .* different content"),
    ],
    ids=["missing", "another one"],
)
def test_a_disk_that_is_not_shared_is_one_line(
    damage: object, message: str, box: SparkBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the driver has listed is missing on the executors' disk, or has other content there."""
    for number in range(3):
        box.write(f"{HEADER}\n{GOOD}\n", f"part-{number}.csv")
    listed = sources.listing(str(box.source))
    (elsewhere := box.folder / "elsewhere").mkdir()
    for part in listed.parts:
        assert isinstance(part.place, Path)
        (elsewhere / part.name).write_bytes(part.place.read_bytes())
    damage(elsewhere / "part-1.csv")  # type: ignore[operator]
    parts = tuple(replace(part, place=elsewhere / part.name) for part in listed.parts)
    monkeypatch.setattr(sources, "listing", lambda source, project: Listing(parts, ()))
    with pytest.raises(click.ClickException, match=message) as refused:
        box.load_on_spark()
    assert "\n" not in refused.value.message
    assert "shared" in refused.value.message or "shares" in refused.value.message


def test_a_source_that_changes_while_it_is_read_is_an_error(box: SparkBox) -> None:
    for number in range(2):
        box.write(f"{HEADER}\n{GOOD}\n", f"part-{number}.csv")
    added = box.source / "part-2.csv"

    def store(folder: Path) -> None:
        added.write_text("changed")

    with pytest.raises(click.ClickException, match=r"part-2.csv changed while the source was read, so nothing is kept"):
        box.load_on_spark(store=store)
    assert not (box.target / "source.json").exists()


def test_what_is_missing_on_the_executors_is_one_line(box: SparkBox) -> None:
    box.write(f"{HEADER}\n{GOOD}\n")

    def store(folder: Path) -> None:
        import no_such_package  # noqa: F401

    with pytest.raises(click.ClickException, match="the Python of the executors lacks no_such_package") as refused:
        box.load_on_spark(store=store)
    assert "\n" not in refused.value.message

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", "/tmp/x")

    with pytest.raises(click.ClickException, match="No space left on device: '/tmp/x'") as refused:
        box.load_on_spark(store=full)
    assert "\n" not in refused.value.message


def test_a_file_system_that_this_spark_does_not_know_is_one_line(box: SparkBox) -> None:
    with pytest.raises(click.ClickException, match="S3AFileSystem not found") as refused:
        box.load_on_spark("s3://bucket/clicks")
    assert "\n" not in refused.value.message


def test_a_file_of_two_gigabytes_on_hdfs_is_one_line(box: SparkBox) -> None:
    box.write(f"{HEADER}\n{GOOD}\n")
    (part,) = sources.listing(str(box.source)).parts
    with pytest.raises(
        click.ClickException, match=r"part-0.csv: the file has a size of 3.0 GiB, .* below 2 GiB .*: split the file"
    ):
        hadoop.contents(None, [replace(part, size=3 * 2**30)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "ratio"),
    [
        ({"a.csv": f"{HEADER}\n{GOOD}\n" + f"{bad(price='x')}\n" * 5, "b.csv": f"{HEADER}\n{GOOD[1:]}\n1,2\n"}, 0.5),
        ({"a.csv": "", "b.csv": ""}, 1.0),
        ({"a.csv": HEADER, "b.csv": ""}, 1.0),
        ({"a.csv": f"{HEADER}\n{bad(price='x')}\n"}, 1.0),
        ({"a.csv": f"{HEADER}\n{GOOD}\n", "b.csv": "price,brand\n1,2\n"}, 1.0),
        ({"a.csv": f"{HEADER}\n{GOOD}\n", "b.csv.gz": "no gzip"}, 1.0),
        ({"a.csv": f"{HEADER}\n{GOOD}\n", "b.csv": f"{HEADER},price\n{GOOD},1\n"}, 1.0),
        ({"a.csv": f"{HEADER}\n{GOOD}\n", "b.parquet": "no Parquet"}, 1.0),
    ],
    ids=["too many", "empty", "header only", "all refused", "other columns", "no gzip", "twice", "no Parquet"],
)  # fmt: skip
def test_a_source_that_cannot_be_loaded_ends_with_the_same_line(
    files: dict[str, str], ratio: float, box: SparkBox
) -> None:
    for name, text in files.items():
        box.write(text, name)
    by_spark = box.by_spark(ratio=ratio)
    assert by_spark.error
    assert re.sub(r"/\S+", "<path>", by_spark.error) == re.sub(r"/\S+", "<path>", box.by_duckdb(ratio=ratio).error)
