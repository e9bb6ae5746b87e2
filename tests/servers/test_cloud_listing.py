"""If Cloud Storage and a disk hold the same names, the same names are read, left out or refused."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purchase_predict.sources import cloud_storage, sources
from tests.conftest import examples
from tests.servers.misbehaving_storage import Storage, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Storage]:
    cloud_storage.connection.cache_clear()
    with serving({}) as running, pytest.MonkeyPatch.context() as patched:
        patched.setenv("STORAGE_EMULATOR_HOST", running.url)
        yield running
    cloud_storage.connection.cache_clear()


def put(server: Storage, names: list[str]) -> None:
    """Replaces the content of the bucket by objects with these names."""
    server.objects = dict.fromkeys(names, b"x")
    server.generations = dict.fromkeys(names, 1)
    server.requests.clear()


def outcome(source: str) -> tuple[list[str], tuple[str, ...]] | str:
    """The names that are read and those that are left out; for a refused source, the message without its name."""
    try:
        found = sources.listing(source)
    except click.ClickException as error:
        return error.format_message().removeprefix(f"source {source}: ")
    return [part.name for part in found.parts], found.left_out


def assert_same(server: Storage, folder: Path, tree: list[str], source: str) -> tuple[list[str], tuple[str, ...]] | str:
    """Asserts that a source in this tree has the same outcome in Cloud Storage and on disk. Returns the outcome.

    One message differs: if a file does not exist on disk, Cloud Storage reports that there is no data file.
    """
    put(server, [*(f"clicks/{name}" for name in tree), "elsewhere.csv", "clicks/"])
    for name in tree:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    there = outcome(f"gs://shop/clicks{source}")
    here = outcome(f"{folder}{source}")
    if isinstance(here, str) and here.startswith("no such file"):
        assert isinstance(there, str)
        assert there.startswith("holds no data file")
    else:
        assert there == here
    return there


#: File trees with unusual names: glob characters, hidden files, partitions, packed files and logs of table formats.
ODD = [
    ["a.csv", "b.csv.zip"], ["a.csv", "sub/part-00000"], ["a.csv", "README.md", ".git/config", "_SUCCESS"],
    ["a[1].csv", "a1.csv"], ["[x]/a.csv", "x/a.csv"], ["event_type=view/a.csv", "_k=1/a.csv"], ["notes.txt"],
    ["day=1/a.parquet", "_delta_log/0.json"], ["day=1/a.parquet", ".hoodie/x"],
    ["day=1/a.parquet", "metadata/1.metadata.json"], ["a.parquet", "sub/metadata/version-hint.text", "sub/b.parquet"],
    ["_a.csv", "b.csv"], ["a*.csv", "ab.csv"], ["a?.csv", "ab.csv"], ["x*/a.csv", "xy/a.csv"], ["x?/a.csv", "xy/a.csv"],
    ["xd/a.csv", "xa.csv"],
]  # fmt: skip


@pytest.mark.parametrize("tree", ODD, ids=" ".join)
@pytest.mark.parametrize(
    "source",
    ["", "/", "/*", "/**", "/a[1].csv", "/[x]", "/day=1", "/day=1/*.parquet", "/_a.csv", "/a*.csv", "/a?.csv",
     "/x*/*.csv", "/x?/a.csv", "/x?", "/**/x*"],
)  # fmt: skip
def test_what_is_read_left_out_or_refused_is_the_same_in_cloud_storage_and_on_disk(
    source: str, tree: list[str], server: Storage, tmp_path: Path
) -> None:
    assert_same(server, tmp_path, tree, source)


@pytest.mark.parametrize("name", ["a[1].csv", "a*.csv", "a?.csv", "x[1]/a.csv", "x*/a.csv", "x?/a.csv", "x**/y/a.csv"])
def test_an_object_of_the_very_name_comes_before_the_glob(name: str, server: Storage, tmp_path: Path) -> None:
    tree = [name, "a1.csv", "x1/a.csv", "xx/y/a.csv"]
    base = name.rpartition("/")[2]
    assert assert_same(server, tmp_path, tree, f"/{name}") == ([base], ())
    if "/" in name:
        assert assert_same(server, tmp_path, tree, f"/{name.rpartition('/')[0]}/*.csv") == ([base], ())


#: A file in the log of a table, and the format of this table.
MARKERS = {
    "_delta_log/0.json": "Delta Lake",
    ".hoodie/hoodie.properties": "Apache Hudi",
    "metadata/1.metadata.json": "Apache Iceberg",
    "metadata/version-hint.text": "Apache Iceberg",
}


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize(
    "source",
    ["", "/lake", "/lake/tab1", "/lake/tab1/day=1", "/lake/tab1/day=1/a.parquet", "/lake/tab*/*.parquet",
     "/**/*.parquet", "/lake/*/*.parquet", "/lake/*/*/*.parquet", "/lake/tab[1]/**/*.parquet", "/l?ke/tab1/a.parquet",
     "/lake/tab1/day=*/*", "/lake/tab1/**"],
)  # fmt: skip
def test_files_of_a_table_that_holds_deleted_rows_are_refused_from_any_source(
    source: str, marker: str, server: Storage, tmp_path: Path
) -> None:
    tree = ["lake/tab1/a.parquet", "lake/tab1/day=1/a.parquet", "lake/tab2/a.parquet", f"lake/tab1/{marker}"]
    assert f"a table in {MARKERS[marker]} format" in assert_same(server, tmp_path, tree, source)


@pytest.mark.parametrize("source", ["/lake/tab2", "/lake/*2/*.parquet", "/lake/tab[2]/**", "/lake/tab1/**/*.csv"])
def test_plain_files_beside_such_a_table_are_read(source: str, server: Storage, tmp_path: Path) -> None:
    tree = ["lake/tab1/a.parquet", "lake/tab1/a.csv", "lake/tab2/a.parquet", "lake/tab1/_delta_log/0.json"]
    assert not isinstance(assert_same(server, tmp_path, tree, source), str)


def test_the_search_for_such_tables_costs_no_request_per_object_or_folder(server: Storage) -> None:
    put(server, [f"clicks/day={number % 50}/{number}.parquet" for number in range(900)])
    assert len(sources.listing("gs://shop/clicks/*/*.parquet").parts) == 900
    # 6 listings are needed. One looks for an object with exactly this name, one for a folder with this name, and one
    # lists everything below `clicks/`. Three look for the logs of the 3 table formats in the bucket's root. The limit
    # is higher than 6 because Google's client may also request the bucket's metadata.
    assert server.requests["list", ""] < 20


SEGMENTS = ["t1", "t2", "x*", "xy", "[y]", "y", "q?", "_h", ".g", "_k=1"]
FILES = [
    "a.csv",
    "b.parquet",
    "a[1].csv",
    "a1.csv",
    "p?.csv",
    "pp.csv",
    "r*.csv",
    "README.md",
    "_SUCCESS",
    "_b.parquet",
]
names = st.builds(
    lambda folders, file: "/".join([*folders, file]),
    st.lists(st.sampled_from(SEGMENTS), max_size=3),
    st.sampled_from([*FILES, *FILES, *FILES, "z.csv.zip", *MARKERS]),
)
globs = st.lists(st.sampled_from([*SEGMENTS, *FILES, "*", "**", "t*", "?1", "[ty]*", "*.csv", "*.parquet"]), max_size=4)


@settings(max_examples=examples(1000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, min_size=1, max_size=6, unique=True), globs)
def test_any_tree_has_the_same_outcome_in_cloud_storage_and_on_disk(
    server: Storage, tree: list[str], source: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_same(server, Path(folder), tree, "".join(f"/{segment}" for segment in source))
