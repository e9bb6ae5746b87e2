"""Reading from and writing to Cloud Storage: with the emulator, and with a server that fails on purpose."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow.dataset as ds
import pytest
from gcp_storage_emulator.server import Server, create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from purchase_predict.reading import ways
from purchase_predict.reading.load import Loaded, load_source
from purchase_predict.reading.scan import Copied, Reading
from purchase_predict.serving.answer_log import AnswerLog
from purchase_predict.serving.meters import Meters
from purchase_predict.sources import cloud_download, cloud_storage, sample, sources
from tests.conftest import REAL_DATA
from tests.servers.misbehaving_storage import BUCKET, Storage, serving
from tests.serving.answers import answer

REAL = REAL_DATA / "primary.csv"
HEADER = b"event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"


def part(number: int, rows: int = 3) -> bytes:
    line = "2019-10-01 00:00:%02d UTC,view,%d,1,,,1.5,%d,session-%d\n"
    return HEADER + b"".join((line % (row, row, number, number)).encode() for row in range(rows))


CLICKS = ["clicks/part-0.csv", "clicks/part-1.csv", "clicks/part-2.csv"]
FOLDER = {
    "clicks/_SUCCESS": b"",
    "clicks/part-0.csv": part(0),
    "clicks/part-1.csv": part(1),
    "clicks/part-2.csv": b"",
    "clicks/deep/part-3.csv": part(3),
    "clicks/.hidden.csv": b"x",
    "clicks-2/part-9.csv": part(9),
    "clicks/notes.txt": b"x",
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cloud_storage, "PATIENCE", 6.0)
    monkeypatch.setattr(cloud_download, "PAUSE", 0.01)
    cloud_storage.connection.cache_clear()
    yield
    cloud_storage.connection.cache_clear()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    with serving(dict(FOLDER)) as running:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.url)
        yield running


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, storage.Bucket]]:
    running = create_server("127.0.0.1", 0, in_memory=True)
    running.start()
    port = running._api._httpd.socket.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    client = storage.Client(project="shop", credentials=AnonymousCredentials())
    yield running, client.create_bucket("shop")
    running.stop()


def load(source: str, tmp_path: Path, ratio: float = 0.0) -> Loaded:
    number = len(list(tmp_path.iterdir()))
    target, scratch = tmp_path / f"target-{number}", tmp_path / f"scratch-{number}"
    target.mkdir()
    scratch.mkdir()
    return load_source(source, target, scratch, ratio)


def names(source: str) -> list[str]:
    return [found.name for found in sources.listing(source).parts]


# ---- the log of answers ------------------------------------------------------------------------------------------


def test_the_log_of_answers_goes_to_a_bucket(emulator: tuple[Server, storage.Bucket], tmp_path: Path) -> None:
    _, bucket = emulator
    for user in (1, 2):  # the second server finds what the first one put there
        log = AnswerLog("gs://shop/logs/answers/", 5, meters := Meters())
        log.add(answer(user=user))
        log.close()
        assert meters.value("log_rows_total") == 1
    for blob in bucket.list_blobs(prefix="logs/answers/day="):
        (tmp_path / blob.name).parent.mkdir(parents=True, exist_ok=True)
        blob.download_to_filename(str(tmp_path / blob.name))
    rows = ds.dataset(tmp_path / "logs/answers", partitioning="hive").to_table().sort_by("user_id")
    assert rows["user_id"].to_pylist() == [1, 2]
    assert rows["day"].to_pylist() == ["2024-10-04"] * 2


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("gs://nowhere/logs", "gs://nowhere/logs: there is no bucket nowhere"),
        ("gs:///logs", "answers gs:///logs: must be gs://<bucket>/<folder>"),
    ],
)
def test_a_bucket_that_cannot_be_written_is_one_line_at_the_start(place: str, line: str) -> None:
    with pytest.raises(click.ClickException) as refused:
        AnswerLog(place, 5, Meters())
    assert refused.value.message == line


# ---- what is listed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("gs://shop/clicks", ["deep/part-3.csv", "part-0.csv", "part-1.csv", "part-2.csv"]),
        ("gs://shop/clicks/", ["deep/part-3.csv", "part-0.csv", "part-1.csv", "part-2.csv"]),
        ("gs://shop/clicks/part-1.csv", ["part-1.csv"]),
        ("gs://shop/clicks/*.csv", ["part-0.csv", "part-1.csv", "part-2.csv"]),
        ("gs://shop/clicks/part-[!0].csv", ["part-1.csv", "part-2.csv"]),
        ("gs://shop/clicks/**/*.csv", ["deep/part-3.csv", "part-0.csv", "part-1.csv", "part-2.csv"]),
        ("gs://shop/*/part-?.csv", ["clicks-2/part-9.csv", *CLICKS]),
        (
            "gs://shop",
            ["clicks-2/part-9.csv", "clicks/deep/part-3.csv", *CLICKS],
        ),
    ],
)  # fmt: skip
def test_cloud_storage_and_a_local_folder_list_the_same_data(
    source: str, expected: list[str], server: Storage, tmp_path: Path
) -> None:
    assert names(source) == expected
    for name, content in FOLDER.items():
        file = tmp_path / "shop" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    assert names(str(tmp_path / source.removeprefix("gs://"))) == expected


@pytest.mark.parametrize("source", ["gs://shop/nothing", "gs://shop/clicks/*.parquet", "gs://shop/clicks/_SUCCESS"])
def test_a_place_without_data_is_named(source: str, server: Storage) -> None:
    with pytest.raises(click.ClickException, match="holds no data file"):
        sources.listing(source)


def test_2500_objects_are_all_listed_and_read(server: Storage, tmp_path: Path) -> None:
    server.objects = {f"many/part-{number:04d}.csv": part(number, 1) for number in range(2500)}
    server.generations = dict.fromkeys(server.objects, 1)
    assert len(sources.listing("gs://shop/many").parts) == 2500
    assert load("gs://shop/many", tmp_path).rows == 2500


# ---- the fingerprint ---------------------------------------------------------------------------------------------


def test_the_fingerprint_reads_no_object_and_sees_every_change(server: Storage) -> None:
    before = sources.fingerprint("gs://shop/clicks")
    assert sources.fingerprint("gs://shop/clicks") == before
    seen = {before}
    server.objects["clicks/part-1.csv"] = part(7)
    seen.add(sources.fingerprint("gs://shop/clicks"))
    server.generations["clicks/part-1.csv"] = 2
    seen.add(sources.fingerprint("gs://shop/clicks"))
    server.objects["clicks/part-4.csv"] = part(4)
    server.generations["clicks/part-4.csv"] = 1
    seen.add(sources.fingerprint("gs://shop/clicks"))
    del server.objects["clicks/part-0.csv"]
    seen.add(sources.fingerprint("gs://shop/clicks"))
    assert len(seen) == 5
    assert server.reads() == 0


# ---- the emulator ------------------------------------------------------------------------------------------------


def test_a_folder_in_the_emulator_loads_as_the_same_rows_from_disk_do(
    emulator: tuple[Server, storage.Bucket], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, bucket = emulator
    if REAL.exists():
        folder, rows = REAL, 125_872
    else:
        folder, rows = tmp_path / "sample", 2_000
        folder.mkdir()
        sample.write(folder / "part-0.parquet", rows)
    for file in folder.iterdir():
        bucket.blob(f"data/primary.csv/{file.name}").upload_from_filename(str(file))
    bucket.blob("data/primary.csv/_SUCCESS").upload_from_string("")
    (tmp_path / "runs").mkdir()

    local = load(str(folder), tmp_path / "runs")
    from_cloud = load("gs://shop/data/primary.csv", tmp_path / "runs")
    assert (from_cloud.rows, from_cloud.rejected) == (rows, 0)
    assert from_cloud.digest == local.digest

    with caplog.at_level(logging.INFO, "gcp_storage_emulator.server"):
        before = sources.fingerprint("gs://shop/data/primary.csv")
    requests = [record.getMessage() for record in caplog.records if "GET" in record.getMessage()]
    assert requests
    assert all("/o?" in request and "alt=media" not in request for request in requests)

    first = sorted(folder.iterdir())[0]
    bucket.blob(f"data/primary.csv/{first.name}").upload_from_filename(str(first))
    replaced = sources.fingerprint("gs://shop/data/primary.csv")
    bucket.blob("data/primary.csv/part-99999.csv").upload_from_filename(str(first))
    added = sources.fingerprint("gs://shop/data/primary.csv")
    assert len({before, replaced, added}) == 3


def test_the_manifest_accounts_for_each_object(server: Storage, tmp_path: Path) -> None:
    server.objects["clicks/part-1.csv"] = part(1) + b"2019-10-01,view,none,1,,,1.5,1,s\n"
    loaded = load("gs://shop/clicks", tmp_path, ratio=0.5)
    manifest = json.loads((tmp_path / "target-0/source.json").read_text())
    assert (loaded.rows, loaded.rejected) == (9, 1)
    assert (manifest["rows"], manifest["rejected"], manifest["rows_there"]) == (9, 1, 10)
    assert [(p["name"], p["rows"], p["rejected"], p["generation"]) for p in manifest["parts"]] == [
        ("deep/part-3.csv", 3, 0, 1), ("part-0.csv", 3, 0, 1), ("part-1.csv", 3, 1, 1), ("part-2.csv", 0, 0, 1),
    ]  # fmt: skip
    assert all(p["checksum"].startswith("crc32c:") for p in manifest["parts"])
    assert "part-1.csv,5,product_id,none,must be a whole number" in (tmp_path / "target-0/rejects.csv").read_text()


# ---- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../evil.csv", "/tmp/evil-absolute.csv", "a/../../../evil.csv", "c:\\evil.csv"])
def test_no_object_name_leads_out_of_the_scratch_folder(name: str, server: Storage, tmp_path: Path) -> None:
    server.objects = {name: part(5)}
    server.generations = {name: 1}
    box = tmp_path / "box/deeper"
    box.mkdir(parents=True)
    assert load("gs://shop", box).rows == 3
    outside = [file for file in tmp_path.rglob("*evil*") if file.is_file()]
    assert outside == []
    assert not Path("/tmp/evil-absolute.csv").exists()
    assert list((tmp_path / "box").iterdir()) == [box]


# ---- faults ------------------------------------------------------------------------------------------------------


def test_an_object_cut_in_the_middle_is_taken_up_again_alone(server: Storage, tmp_path: Path) -> None:
    server.fault = lambda kind, name, number: "cut" if name == "clicks/part-1.csv" and number == 1 else None
    assert load("gs://shop/clicks", tmp_path).rows == 9
    assert server.requests["read", "clicks/part-0.csv"] == 1
    assert server.requests["read", "clicks/part-1.csv"] == 2


def test_a_wrong_checksum_is_downloaded_again(server: Storage, tmp_path: Path) -> None:
    server.fault = lambda kind, name, number: "garbled" if name == "clicks/part-1.csv" and number == 1 else None
    assert load("gs://shop/clicks", tmp_path).rows == 9
    assert server.requests["read", "clicks/part-0.csv"] == 1
    assert server.requests["read", "clicks/part-1.csv"] == 2


def test_an_object_that_never_arrives_whole_ends_the_step(server: Storage, tmp_path: Path) -> None:
    server.fault = lambda kind, name, number: "garbled" if name == "clicks/part-1.csv" else None
    with pytest.raises(
        click.ClickException, match=r"gs://shop/clicks/part-1.csv: .* the checksum of .* differs from the object's"
    ):
        load("gs://shop/clicks", tmp_path)
    assert server.requests["read", "clicks/part-1.csv"] == cloud_download.ROUNDS
    assert not list((tmp_path / "scratch-0/parts").glob("000002.csv"))


def test_a_server_that_is_unavailable_twice_is_waited_for(server: Storage, tmp_path: Path) -> None:
    server.fault = lambda kind, name, number: (503, "try later") if number <= 2 else None
    assert load("gs://shop/clicks/part-0.csv", tmp_path).rows == 3


@pytest.mark.parametrize(
    ("message", "account"),
    [
        ("robot@shop.iam.gserviceaccount.com does not have storage.objects.list access", "robot@shop.iam"),
        ("Forbidden", "anonymous access (no credentials)"),
    ],
)
def test_a_refusal_names_account_and_permission(message: str, account: str, server: Storage) -> None:
    server.fault = lambda kind, name, number: (403, message)
    with pytest.raises(click.ClickException) as caught:
        sources.fingerprint("gs://shop/clicks")
    text = caught.value.format_message()
    assert account in text
    assert "storage.objects.list" in text
    assert "\n" not in text


def test_a_refusal_to_read_names_the_object(server: Storage, tmp_path: Path) -> None:
    server.fault = lambda kind, name, number: (403, "Forbidden") if name.endswith("part-1.csv") else None
    with pytest.raises(click.ClickException, match=r"gs://shop/clicks/part-1.csv: .*storage\.objects\.get"):
        load("gs://shop/clicks", tmp_path)


def test_a_bucket_that_is_not_there_is_named(server: Storage) -> None:
    with pytest.raises(click.ClickException, match="there is no bucket elsewhere"):
        sources.fingerprint("gs://elsewhere/clicks")


def test_an_object_replaced_since_it_was_listed_is_not_mixed_in(server: Storage, tmp_path: Path) -> None:
    found = sources.listing("gs://shop/clicks").parts
    server.generations["clicks/part-1.csv"] = 2
    with pytest.raises(click.ClickException, match=r"part-1.csv: was replaced or deleted after it was listed"):
        sources.fetch(found, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("clicks/part-1.csv", part(7)), ("clicks/part-1.csv", part(1)), ("clicks/part-4.csv", part(4)),
     ("clicks/part-1.csv", None)],
    ids=["replaced", "written again", "added", "deleted"],
)  # fmt: skip
def test_an_object_that_changes_after_the_download_ends_the_load_in_one_line_and_nothing_is_kept(
    name: str, content: bytes | None, server: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ways.read

    def changed(reading: Reading) -> Copied:
        copied = read(reading)
        server.generations[name] = 2
        if content is None:
            del server.objects[name]
        else:
            server.objects[name] = content
        return copied

    monkeypatch.setattr(ways, "read", changed)
    with pytest.raises(click.ClickException) as caught:
        load("gs://shop/clicks", tmp_path)
    base = name.removeprefix("clicks/")
    assert caught.value.message == (
        f"source gs://shop/clicks: {base} changed while the source was read, so nothing is kept: try again when "
        "nobody writes to the source"
    )
    assert not list((tmp_path / "target-0").iterdir())


def test_a_server_that_is_gone_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_storage, "PATIENCE", 0.5)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    with pytest.raises(click.ClickException, match="gs://shop/clicks: no answer") as caught:
        sources.fingerprint("gs://shop/clicks")
    assert "\n" not in caught.value.format_message()


def test_credentials_that_are_no_key_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(click.ClickException, match=r"GOOGLE_APPLICATION_CREDENTIALS=.*missing\.json"):
        sources.fingerprint(f"gs://{BUCKET}/clicks")
