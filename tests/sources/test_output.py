"""An output is refused exactly if the next listing of the input would read it."""

import os
import tempfile
from pathlib import Path

import click
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from purchase_predict.sources import sources
from purchase_predict.sources.local import reads
from tests.conftest import examples


def read_next_time(source: str, output: Path) -> bool:
    """Whether the input includes the output: writes the output as predict does, then lists the input again."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(".partial")
    partial.write_text("scored")
    partial.replace(output)
    try:
        parts = sources.listing(source).parts
    except click.ClickException:
        return False
    return any(isinstance(part.place, Path) and part.place.resolve() == output for part in parts)


@pytest.mark.parametrize(
    ("source", "output", "refused"),
    [
        ("in/**/*.csv", "out/scored.csv", False),
        ("in/**", "out/scored.csv", False),
        ("in/**", "scored.csv", False),
        ("in/*/*.csv", "scored.csv", False),
        ("in/**/*.csv", "in/new/scored.csv", True),
        ("in", "far/deep/scored.csv", True),  # in/link leads to `far`
        ("in/**/*.csv", "far/deep/scored.csv", True),
        ("in/*/*.csv", "far/scored.csv", True),
        ("in/*/*.csv", "far/deep/scored.csv", False),
        ("in", "deepest/new/scored.csv", True),  # in/link/deeper leads to `deepest`
        ("in/link/*/*.csv", "deepest/scored.csv", True),
        ("in/*.csv", "in/scored.parquet", False),
        ("in", "in/_scored.csv", False),  # hidden
        ("in", "in/.new/scored.csv", False),
        ("in/[x]*.csv", "in/[x]*.csv", True),  # if a file of exactly this name exists, the name is not taken for a glob
        ("in/[x]/*.csv", "in/[x]/scored.csv", True),
        ("in/x/a.csv", "in/x/b.csv", False),
        ("in/x/linked.csv", "far/a.csv", True),
        ("in/x", "far/a.csv", True),
    ],
)
def test_an_output_is_refused_where_the_input_would_read_it(
    source: str, output: str, refused: bool, tmp_path: Path
) -> None:
    for folder in ("in/x", "far/deep", "deepest", "out"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.csv").write_text("x")
    (tmp_path / "far/a.csv").write_text("x")
    (tmp_path / "in/link").symlink_to(tmp_path / "far")
    (tmp_path / "far/deeper").symlink_to(tmp_path / "deepest")
    (tmp_path / "in/x/linked.csv").symlink_to(tmp_path / "far/a.csv")
    given, target = f"{tmp_path}/{source}", tmp_path.resolve() / output
    if refused:
        with pytest.raises(click.ClickException, match="is part of the input"):
            sources.refuse_output(given, target)
    else:
        sources.refuse_output(given, target)
    assert read_next_time(given, target) == refused


def test_a_hard_link_keeps_the_old_content_when_the_output_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.csv").write_text("x")
    (tmp_path / "in/a.csv").hardlink_to(tmp_path / "out.csv")
    assert not reads(f"{tmp_path}/in", tmp_path.resolve() / "out.csv")
    assert not read_next_time(f"{tmp_path}/in", tmp_path.resolve() / "out.csv")
    assert (tmp_path / "in/a.csv").read_text() == "x"


SEGMENTS = ["a", "b", "c", "[a]", "_h", "k=1"]
FILES = ["x.csv", "y.parquet", "[x].csv", "_z.csv"]
folders = st.lists(st.sampled_from(SEGMENTS), max_size=3).map("/".join)
files = st.builds(lambda folder, name: f"{folder}/{name}".lstrip("/"), folders, st.sampled_from(FILES))
links = st.tuples(st.one_of(folders, files), st.one_of(folders, folders, files))
globs = st.lists(st.sampled_from([*SEGMENTS, *FILES, "*", "**", "[ab]", "*.csv", "?"]), max_size=4).map("/".join)


@settings(max_examples=examples(1000))
@given(
    st.lists(files, min_size=1, max_size=5),
    st.lists(links, max_size=4),
    st.one_of(globs, folders, files),
    files,
)
def test_in_any_tree_an_output_is_refused_exactly_if_the_next_listing_reads_it(
    present: list[str], linked: list[tuple[str, str]], source: str, output: str
) -> None:
    with tempfile.TemporaryDirectory() as made:
        root = Path(made).resolve()
        for name in present:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("x")
        for link, target in linked:
            path = root / link
            if not path.is_symlink() and not path.exists() and path.parent.is_dir():
                path.symlink_to(root / target)
        given, written = f"{root}/{source}".rstrip("/"), Path(os.path.realpath(root / output))
        try:
            sources.listing(given)
        except click.ClickException:
            assume(False)
        predicted = reads(given, written)
        try:
            expected = read_next_time(given, written)
        except OSError:  # the output cannot be written there
            assume(False)
        event(f"refused: {predicted}")
        assert predicted == expected
