"""Random sources: every row is read or refused, its file is left out by name, or the load of the source fails."""

import json
import tempfile
from pathlib import Path

import click
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import examples
from tests.reading.box import Box
from tests.reading.trees import Tree, add, things


@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(things, min_size=1, max_size=6))
def test_rows_read_refused_and_left_out_by_name_are_all_that_was_there(found: list[tuple[str, int, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        box = Box(Path(folder))
        tree = Tree(box.source)
        for number, (kind, rows, place) in enumerate(found):
            add(tree, kind, number, rows, place)
        try:
            loaded = box.load()
        except click.ClickException as error:
            message = error.format_message()
            assert "\n" not in message
            assert not list(box.target.iterdir())
            if tree.refused:
                assert any(name in message for name in tree.refused)
            else:
                assert not tree.rows, message  # nothing to read: an empty source is an error
            return
        assert not tree.refused
        assert loaded.rows + loaded.rejected == tree.rows
        assert set(json.loads((box.target / "source.json").read_text())["left_out"]) == tree.left_out
