import os
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict.sources import sources
from purchase_predict.sources.names import Kind, kind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a Spark job leaves it."""
    root = tmp_path / "clicks here"
    data = ("part-1.csv", "part-0.csv.gz", "b/part-2.parquet", "PART-5.CSV")
    other = ("_SUCCESS", ".part-0.csv.crc", "_temporary/part-3.csv", ".hidden/part-4.csv", "notes.txt")
    for name in data + other:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return root


def names(source: object) -> list[str]:
    return [part.name for part in sources.listing(str(source)).parts]


#: The data files in `folder`, in the order of a listing.
DATA = ["PART-5.CSV", "b/part-2.parquet", "part-0.csv.gz", "part-1.csv"]


def test_a_folder_a_file_a_glob_and_a_file_uri_are_sources(folder: Path) -> None:
    assert names(folder) == DATA
    assert names(folder.as_uri()) == DATA
    assert names(f"{folder}/") == DATA
    assert names(folder / "part-1.csv") == ["part-1.csv"]
    assert names((folder / "part-1.csv").as_uri()) == ["part-1.csv"]
    assert names(folder / "*.csv") == ["part-1.csv"]
    assert names(folder / "**/part-*") == ["b/part-2.parquet", "part-0.csv.gz", "part-1.csv"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no such file or folder .looked for in"),
        ("/nowhere/at/all", "no such file or folder"),
        ("ftp://host/clicks", "ftp:// is not supported: the source must be `sample`, a gs://"),
        ("https://host/clicks.csv?a=1", "https:// is not supported: the source must be `sample`, a gs://"),
        ("HTTPS://host/[ab]*.csv", "HTTPS:// is not supported: the source must be `sample`, a gs://"),
        ("file:///nowhere/at/all.csv", "no such file or folder"),
        ("gs://", "must be gs://<bucket>/"),
        ("gs://*/clicks", "must be gs://<bucket>/"),
        ("{folder}/notes.txt", "holds no data file"),
        ("{folder}/*.xml", "holds no data file"),
    ],
)
def test_a_source_without_data_is_refused_by_name(source: str, message: str, folder: Path) -> None:
    with pytest.raises(click.ClickException, match=message) as caught:
        sources.listing(source.format(folder=folder))
    assert "\n" not in caught.value.format_message()


def test_the_fingerprint_depends_on_names_and_content_but_not_on_the_place(folder: Path, tmp_path: Path) -> None:
    first = sources.fingerprint(str(folder))
    folder.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert sources.fingerprint(str(moved)) == first
    (moved / "_SUCCESS").write_text("other")
    assert sources.fingerprint(str(moved)) == first
    seen = {first}
    (moved / "part-1.csv").write_text("part-2.csv")  # other content of the same size
    seen.add(sources.fingerprint(str(moved)))
    (moved / "part-1.csv").rename(moved / "part-9.csv")
    seen.add(sources.fingerprint(str(moved)))
    (moved / "part-9.csv").unlink()
    seen.add(sources.fingerprint(str(moved)))
    assert len(seen) == 4


def test_fetched_local_files_are_links_with_numbered_names(folder: Path, tmp_path: Path) -> None:
    found = sources.listing(str(folder)).parts
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    paths = sources.fetch(found, scratch)
    assert [path.name for path in paths] == ["000000.csv", "000001.parquet", "000002.csv.gz", "000003.csv"]
    assert [path.read_text() for path in paths] == DATA


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_the_error_names_an_unreadable_file(folder: Path) -> None:
    (folder / "part-1.csv").chmod(0)
    with pytest.raises(click.ClickException, match=r"part-1\.csv: cannot be read: Permission denied"):
        sources.listing(str(folder))


@given(st.text(st.sampled_from("a_./="), max_size=8))
def test_hidden_names_are_not_data_but_dot_and_dot_dot_are_places_and_equals_signs_partitions(stem: str) -> None:
    name = stem + "x.csv"
    segments = name.split("/")
    hidden = any(
        (segment.startswith("_") and "=" not in segment) or (segment.startswith(".") and segment not in (".", ".."))
        for segment in segments
    )
    assert (kind(name) is Kind.DATA) == (not hidden)
