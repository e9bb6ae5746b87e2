"""What a source holds is read, named as left out, or refused: nothing of it is passed over in silence."""

import os
import stat
from pathlib import Path

import click
import pytest

from purchase_predict.sources import sources


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


@pytest.mark.parametrize(
    "name",
    ["a.csv.zip", "a.csv.bz2", "a.csv.xz", "a.csv.zst", "A.CSV.ZIP", "a.tsv", "a.tsv.gz", "a.parq", "a.jsonl", "a.gz",
     "a.xlsx", "events", "sub/part-00000", "a.csv.bak", "a.csv~", "a.csv (1)", "b/a.parquet.tmp", "a.tar.gz", "a.7z"],
)  # fmt: skip
def test_a_table_that_is_not_read_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    make(tmp_path, "2019-Oct.csv", name)
    assert f": {name}: only *.csv, *.csv.gz, *.parquet are read" in refusal(tmp_path)
    assert name.rpartition("/")[2] in refusal(tmp_path / name)
    assert data(tmp_path / "*.csv") == ["2019-Oct.csv"]  # the way out that the message names


def test_what_is_no_table_is_left_out_by_name(tmp_path: Path) -> None:
    names = [
        "README.md",
        "LICENSE",
        "schema.json",
        "part.csv.md5",
        "_old.csv",
        ".hidden.csv",
        "_temporary/0/part-1.csv",
    ]
    make(tmp_path, "part.csv", *names, "_SUCCESS", ".part.csv.crc", "_committed_12", ".DS_Store")
    found = sources.listing(str(tmp_path))
    assert [part.name for part in found.parts] == ["part.csv"]
    assert list(found.left_out) == sorted({*names, "_temporary/"} - {"_temporary/0/part-1.csv"})


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


@pytest.mark.parametrize("name", ["b.csv", "folder", "b.csv.zip"])
def test_a_link_that_leads_nowhere_is_an_error(name: str, tmp_path: Path) -> None:
    (make(tmp_path, "a.csv") / name).symlink_to(tmp_path / "gone")
    assert f"{name}: is a link to {tmp_path / 'gone'}, which cannot be read" in refusal(tmp_path)


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    make(tmp_path, "a.csv")
    (tmp_path / "b.csv").symlink_to("c.csv")
    (tmp_path / "c.csv").symlink_to("b.csv")
    assert "b.csv: is a link to c.csv, which cannot be read" in refusal(tmp_path)


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
    assert f"a table in the format {format_}" in refusal(tmp_path / source if source else tmp_path)
