"""Every file of a source is read, reported as left out, or an error. Only bookkeeping files are skipped silently."""

import fnmatch
import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purchase_predict.sources import sources
from purchase_predict.sources.local import reads
from purchase_predict.sources.names import Kind, kind
from purchase_predict.sources.pattern import Pattern
from tests.conftest import examples


def make(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return root


def refusal(source: object) -> str:
    with pytest.raises(click.ClickException) as caught:
        sources.listing(str(source))
    message = caught.value.format_message()
    assert "\n" not in message
    return message


def data(source: object) -> list[str]:
    return [part.name for part in sources.listing(str(source)).parts]


#: Files that may hold a table but are not read: packed, split, in another format, renamed, or of no known kind.
TABLES = [
    "a.csv.zip", "a.csv.bz2", "a.csv.xz", "a.csv.zst", "A.CSV.ZIP", "a.tsv", "a.tsv.gz", "a.parq", "a.jsonl", "a.gz",
    "a.xlsx", "events", "sub/part-00000", "a.csv.bak", "a.csv~", "a.csv (1)", "b/a.parquet.tmp", "a.tar.gz", "a.7z",
    "a.csv2", "a.csv_old", "a.parquet_old", "a.csv.1", "a.csv-2019", "a.csv.gz.part", "a.parquet.crdownload",
    "part-0.c000", "a.txt", "2019-10.txt", "clicks.json", "a.json.gz", "a.xml", "a.data", "a.bin", "a.dump", "a.rds",
    "a.rdata", "a.mat", "2019.Nov", "a.2019", "events.v1", "a.csv.zip.001", "a.zip.001", "a.z01", "a.part1.rar",
    "a.zipx", "a.tar.zst.aa", "a.csv.gpg", "a.sqlite-wal", "a.mdb", "a.npy", "a.npz", "a.pb", "a.tfrecord",
    "a.numbers", "a.unknown", "README.zip", "readme.txt.gz", "notes.tar", "licensed.txt", "schemata",
    "price_changes.json", "manifested.json", "a.sha256_old",
]  # fmt: skip
#: Files that are left out and reported: hidden, or known by their name to hold no table.
NO_TABLES = [
    "README.md", "README", "README.txt", "readme_en.txt", "LICENSE", "LICENSE-MIT", "License.txt", "NOTICE",
    "notes.txt", "notes-1.txt", "Release Notes.txt", "CHANGELOG", "requirements.txt", "Dockerfile", "Makefile",
    "data_dictionary.txt", "schema.json", "events_schema.json", "events.schema.json", "manifest.json", "part_manifest",
    "clicks.manifest", "part.csv.md5", "part.csv.sha256", "part.csv.crc32c", "SHA256SUMS", "md5sums.txt",
    "checksums.txt", "part.csv.sig", "part.csv.dvc", "part.csv.done", "load.log", "index.html", "report.pdf",
    "plot.png", "photo.JPG", "load.py", "explore.ipynb", "query.sql", "config.yaml", "settings.ini", "_old.csv",
    ".hidden.csv", ".a.csv.zip", "_x.unknown",
]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_not_read_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    make(tmp_path, "2019-Oct.csv", name)
    assert f": {name} may hold rows, but only *.csv, *.csv.gz, *.parquet are read: unpack" in refusal(tmp_path)
    assert name.rpartition("/")[2] in refusal(tmp_path / name)
    assert data(tmp_path / "*.csv") == ["2019-Oct.csv"]  # the way out that the message names


def test_what_is_no_table_is_left_out_by_name(tmp_path: Path) -> None:
    bookkeeping = [
        "_SUCCESS",
        ".part.csv.crc",
        "_committed_12",
        ".DS_Store",
        "sub_$folder$",
        "Thumbs.db",
        "desktop.ini",
    ]
    make(tmp_path, "part.csv", "_temporary/0/part-1.csv", *NO_TABLES, *bookkeeping)
    found = sources.listing(str(tmp_path))
    assert [part.name for part in found.parts] == ["part.csv"]
    assert list(found.left_out) == sorted([*NO_TABLES, "_temporary/"])


ends = st.sampled_from(["csv", "md", "txt", "json", "zip", "001", "2019", "x", "log", "old", "parquet", "sha256"])


@settings(max_examples=examples(1000))
@given(
    st.builds(
        lambda stem, endings: ".".join([stem, *endings]), st.text("xyz 0-", min_size=1), st.lists(ends, max_size=3)
    )
)
def test_the_last_ending_decides(name: str) -> None:
    assert kind(f"{name}_old") is Kind.TABLE
    assert kind(f"{name}.gz") in (Kind.DATA, Kind.TABLE)
    assert kind(f"{name}.csv") is Kind.DATA
    assert kind(f"{name}.md") is Kind.OTHER
    assert kind(f"_{name}") is kind(f"sub/.{name}") is Kind.OTHER
    assert kind(f"sub/{name}") is kind(name.upper()) is kind(name)


def test_a_folder_that_a_glob_matches_and_does_not_enter_is_left_out_by_name(tmp_path: Path) -> None:
    make(tmp_path, "part.csv", "sub/part.csv")
    assert sources.listing(str(tmp_path / "*")).left_out == ("sub/",)
    assert data(tmp_path / "**") == ["part.csv", "sub/part.csv"]


def test_a_hidden_file_that_is_named_is_read(tmp_path: Path) -> None:
    make(tmp_path, "_part.csv")
    assert data(tmp_path / "_part.csv") == ["_part.csv"]


# ---- links and odd files -----------------------------------------------------------------------------------------


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "a.csv", "deep/b.csv")
    (make(tmp_path / "source", "c.csv") / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/deep/back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source/self").symlink_to(tmp_path / "source")
    expected = ["c.csv", "linked/a.csv", "linked/deep/b.csv"]
    assert data(tmp_path / "source") == expected
    assert data(tmp_path / "source/**/*.csv") == expected
    assert sources.listing(str(tmp_path / "source")).left_out == ("linked/deep/back/", "self/")


@pytest.mark.parametrize(
    "name", ["b.csv", "folder", "b.csv.zip", "2019.10", "events.2019", "old.d", "v1.md", "day=1", "README.md"]
)
def test_a_link_that_leads_nowhere_is_an_error(name: str, tmp_path: Path) -> None:
    """It is an error whatever its name is, because it may have led to a folder."""
    (make(tmp_path, "a.csv") / name).symlink_to(tmp_path / "gone")
    for source in (tmp_path, tmp_path / "**/*.csv"):
        assert f"{name}: is a link to {tmp_path / 'gone'}, which cannot be read" in refusal(source)
    assert data(tmp_path / "a*.csv") == ["a.csv"]  # the glob cannot match the link


def test_a_hidden_link_that_leads_nowhere_is_left_out_by_name(tmp_path: Path) -> None:
    for name in ("_old", ".lock.csv"):
        (make(tmp_path, "a.csv") / name).symlink_to(tmp_path / "gone")
    assert sources.listing(str(tmp_path)).left_out == (".lock.csv", "_old")


def test_a_place_that_cannot_be_looked_up_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "loop: cannot be read: Too many levels of symbolic links" in refusal(tmp_path / "loop")
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300))
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300) / "*.csv")
    assert "source ~nobody-of-this-name/x.csv: there is no user of this name" in refusal("~nobody-of-this-name/x.csv")
    status = Path.stat

    def locked(path: Path, **options: bool) -> os.stat_result:
        if "locked" in path.parts:  # simulated, because a real locked folder does not stop root
            raise PermissionError(13, "Permission denied")
        return status(path, **options)

    monkeypatch.setattr(Path, "stat", locked)
    assert "locked/*.csv: cannot be read: Permission denied" in refusal(tmp_path / "locked/*.csv")


def linked(source: object) -> dict[str, str]:
    return {link.name: link.read_as for link in sources.listing(str(source)).linked}


def test_a_file_with_a_link_beside_it_is_read_once(tmp_path: Path) -> None:
    (make(tmp_path, "b.csv", "year/c.csv") / "a.csv").symlink_to("b.csv")
    (tmp_path / "current").symlink_to("year")
    (tmp_path / "d.csv").hardlink_to(tmp_path / "b.csv")
    for source in (tmp_path, tmp_path / "**/*.csv"):
        assert data(source) == ["b.csv", "year/c.csv"]
        assert linked(source) == {"a.csv": "b.csv", "d.csv": "b.csv", "current/c.csv": "year/c.csv"}
    assert data(tmp_path / "[ac]*/*.csv") == ["current/c.csv"]  # the glob does not match the file's other name
    assert data(tmp_path / "a*.csv") == ["a.csv"]


def test_folders_that_link_to_each_other_are_read_once(tmp_path: Path) -> None:
    make(tmp_path, "a/x.csv", "b/y.csv")
    (tmp_path / "a/b").symlink_to("../b")
    (tmp_path / "b/a").symlink_to("../a")
    assert data(tmp_path) == ["a/x.csv", "b/y.csv"]
    assert linked(tmp_path) == {"a/b/y.csv": "b/y.csv", "b/a/x.csv": "a/x.csv"}


def test_a_source_that_is_itself_a_link_is_read_as_ever(tmp_path: Path) -> None:
    make(tmp_path, "here/a.csv", "here/b.csv")
    (tmp_path / "there").symlink_to("here")
    (tmp_path / "c.csv").symlink_to("here/a.csv")
    (tmp_path / "here/0.csv").symlink_to("../here/b.csv")
    assert data(tmp_path / "there") == data(tmp_path / "there/*.csv") == ["a.csv", "b.csv"]
    assert data(tmp_path / "c.csv") == ["c.csv"]
    assert sources.fingerprint(str(tmp_path / "there")) == sources.fingerprint(str(tmp_path / "here"))


def test_two_links_to_one_file_elsewhere_are_read_once(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/a.csv", "source/z.md")
    for name in ("b.csv", "c.csv"):
        (tmp_path / "source" / name).symlink_to("../elsewhere/a.csv")
    assert (data(tmp_path / "source"), linked(tmp_path / "source")) == (["b.csv"], {"c.csv": "b.csv"})


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    make(tmp_path, "a.csv")
    (tmp_path / "b.csv").symlink_to("c.csv")
    (tmp_path / "c.csv").symlink_to("b.csv")
    assert "b.csv: is a link to c.csv, which cannot be read: Too many levels of symbolic links" in refusal(tmp_path)


def test_a_pipe_with_the_name_of_a_table_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(make(tmp_path, "a.csv") / "b.csv")
    assert "b.csv: is not a regular file" in refusal(tmp_path)


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = make(tmp_path, "a.csv", "locked/b.csv") / "locked"
    if os.geteuid():
        locked.chmod(0)
    else:  # root may read everything
        entries = Path.iterdir

        def refused(path: Path) -> object:
            if path == locked:
                raise PermissionError(13, "Permission denied")
            return entries(path)

        monkeypatch.setattr(Path, "iterdir", refused)
    message = refusal(tmp_path)
    locked.chmod(stat.S_IRWXU)
    assert "locked/: cannot be read: Permission denied" in message


# ---- names and globs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a[1].csv", "a*.csv", "what?.csv", "[x]/a.csv", "a**b/c.csv"])
def test_what_exists_by_the_very_name_comes_before_the_glob(name: str, tmp_path: Path) -> None:
    make(tmp_path, name, "a1.csv", "x/a.csv")
    base = name.rpartition("/")[2]
    assert data(tmp_path / name) == [base]
    if "/" in name:
        assert data((tmp_path / name).parent) == [base]
        assert data((tmp_path / name).parent / "*.csv") == [base]
    else:
        assert data(tmp_path / "a[1].cs[v]") == (["a1.csv"])


def test_a_glob_looks_at_nothing_that_it_does_not_match(tmp_path: Path) -> None:
    make(tmp_path, "a/x.csv", "b/y.csv")
    (tmp_path / "b/z.csv").symlink_to("gone")
    assert data(tmp_path / "a/*.csv") == ["x.csv"]
    assert data(tmp_path / "[a]/*") == ["a/x.csv"]


@contextmanager
def nested(root: Path, name: str, depth: int) -> Iterator[None]:
    """Folders within folders, all of this name, with a file `b.csv` in the innermost. They are removed at the end.

    `Path.mkdir` and `shutil.rmtree` are not used for all folders at once, because they may recurse too deeply.
    """
    before = Path.cwd()
    os.chdir(root)
    try:
        for _ in range(depth):
            Path(name).mkdir()
            os.chdir(name)
        Path("b.csv").write_text("b")
        os.chdir(before)
        yield
    finally:
        os.chdir(root)
        subprocess.run(["rm", "-r", name], check=True)
        os.chdir(before)


def test_folders_nested_deeper_than_pythons_stack_are_read(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 200
    with nested(make(tmp_path, "a.csv"), "d", depth):
        expected = ["a.csv", "d/" * depth + "b.csv"]
        assert data(tmp_path) == data(tmp_path / "**/*.csv") == data(tmp_path / "**/**/**/**/*.csv") == expected
        assert reads(str(tmp_path), tmp_path / ("d/" * depth) / "c.csv")


def test_folders_nested_deeper_than_the_system_reads_are_one_line(tmp_path: Path) -> None:
    with nested(make(tmp_path, "a.csv"), "d" * 250, 20):
        assert "cannot be read: File name too long" in refusal(tmp_path)


def test_a_hidden_folder_whose_path_is_too_long_is_left_out(tmp_path: Path) -> None:
    depth, before = (os.pathconf("/", "PC_PATH_MAX") - 50 - len(str(tmp_path))) // 251, Path.cwd()
    with nested(tmp_path, "d" * 250, depth):
        os.chdir(tmp_path)
        for _ in range(depth):
            os.chdir("d" * 250)
        Path("_" + "h" * 250).mkdir()
        os.chdir(before)
        assert data(tmp_path) == ["/".join(["d" * 250] * depth + ["b.csv"])]


def naively_matches(segments: list[str], names: list[str]) -> bool:
    """Whether a glob matches a path, found by trying every number of folders for each `**`."""
    if not segments or not names:
        return not segments and not names
    if segments[0] != "**":
        return fnmatch.fnmatchcase(names[0], segments[0]) and naively_matches(segments[1:], names[1:])
    if len(segments) == 1:
        return True
    return any(naively_matches(segments[1:], names[skip:]) for skip in range(len(names)))


@settings(max_examples=examples(1000))
@given(
    st.lists(st.sampled_from(["a", "b", "*", "**", "?"]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", "b", "cc"]), min_size=1, max_size=5),
)
def test_a_glob_matches_what_trying_everything_finds(segments: list[str], names: list[str]) -> None:
    pattern, folders = Pattern("/".join(segments)), ["a", "b", "cc"]
    assert pattern.matches("/".join(names)) == naively_matches(segments, names)
    below = [[*further] for depth in range(1, 6) for further in itertools.product(folders, repeat=depth)]
    assert pattern.may_match_below("/".join(names)) == any(naively_matches(segments, names + more) for more in below)


# ---- table formats -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format_", "marker"),
    [
        ("Delta Lake", "_delta_log/00000000000000000000.json"),
        ("Apache Hudi", ".hoodie/hoodie.properties"),
        ("Apache Iceberg", "metadata/00000-1.metadata.json"),
        ("Apache Iceberg", "metadata/version-hint.text"),
    ],
)
@pytest.mark.parametrize("source", ["", "table", "table/day=1", "table/day=1/part.parquet", "table/**/*.parquet"])
def test_a_table_whose_files_hold_deleted_rows_is_refused(
    source: str, format_: str, marker: str, tmp_path: Path
) -> None:
    make(tmp_path, "table/day=1/part.parquet", f"table/{marker}")
    assert f"a table in {format_} format" in refusal(tmp_path / source if source else tmp_path)
