import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict import progress
from tests.terminal import on_a_terminal

PHASES = """
import sys, time
import click
from purchase_predict.progress import name_process, phase
name_process("load")
with phase("at work"):
    with phase("reading", 4, "buckets") as shown:
        shown.advance(3)
        time.sleep(1.2)
        click.echo("a line")
        print("another", "one")
        time.sleep(0.7)
    click.echo("the end", err=True)
"""

HANDED_OVER = """
import subprocess, sys, time
from pathlib import Path
from purchase_predict.progress import handed_over, name_process
name_process("main")
with handed_over("load: launched", Path(sys.argv[1])):
    time.sleep(0.8)
    subprocess.run([sys.executable, "-c", sys.argv[2]])
    time.sleep(0.8)
"""

CHILD = "from purchase_predict.progress import taken_over\nwith taken_over():" + PHASES.replace("\n", "\n    ")


def lines_left(screen: str) -> list[str]:
    """The lines that a person sees at the end: text after a carriage return overwrites the text before it."""
    left = []
    for line in screen.replace("\r\n", "\n").split("\n"):
        shown = ""
        for piece in line.split("\r"):
            shown = piece + shown[len(piece) :]
        left.append(shown.rstrip())
    return left


def test_a_terminal_has_a_line_that_is_kept_up_to_date_and_gives_way_to_others() -> None:
    screen, _ = on_a_terminal("-c", PHASES)
    assert screen.count("load: reading [###############-----], 3/4 buckets, ") >= 3
    assert lines_left(screen) == ["a line", "another one", "the end", ""]


def test_a_step_shows_its_progress_in_place_of_mains(tmp_path: Path) -> None:
    screen, _ = on_a_terminal("-c", HANDED_OVER, str(tmp_path), CHILD)
    before, _, rest = screen.partition("load: reading")
    assert "load: launched" in before
    *_, after = rest.partition("the end")
    assert "load: launched" not in rest.removesuffix(after)
    assert "load: launched" in after
    assert [line for line in lines_left(screen) if line] == ["a line", "another one", "the end"]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Progress goes to a log, with an update every 0.02 s, the first line after 0.2 s, and no second line."""
    monkeypatch.setattr(progress, "_TICK", 0.02)
    monkeypatch.setattr(progress, "_FIRST_LINE", 0.2)
    monkeypatch.setattr(progress, "_NEXT_LINE", 1000.0)
    progress.name_process("process")
    yield
    progress.name_process("main")


def test_a_log_has_a_line_for_a_phase_that_takes_long(log: None, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.phase("all of it", in_log=False):
        with progress.phase("quick"):
            pass
        with progress.phase("slow", 5_000_000, "MB", poll=lambda: 2_000_000):
            time.sleep(0.6)
    assert capsys.readouterr().out == "process: slow, 2 of 5 MB, 0 s\n"


def test_phases_end_with_an_error_of_their_block(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), progress.phase("one"), progress.phase("two"):
        raise ValueError("no")
    assert progress._display.phases == []
    assert progress._display.thread is None


@given(st.integers(10, 120), st.integers(0, 60), st.sampled_from(["", "best roc_auc 0.7788"]))
def test_a_narrow_terminal_shows_the_whole_amount(width: int, done: int, note: str) -> None:
    phase = progress.Phase("search", 60, "trials", None, True)
    phase.advance(done, note)
    line = phase.line(width, True)
    assert len(line) <= width
    if width >= len(f"{done}/60 trials"):
        assert f"{done}/60 trials" in line
    if "[" in line:  # the bar is left out first, so everything else is shown, too
        assert note in line
        assert line.endswith(" s")
        bar = line[line.index("[") + 1 : line.index("]")]
        assert bar.count("#") == len(bar) * done // 60


def test_forty_columns_keep_the_amount_and_the_note() -> None:
    phase = progress.Phase("search", 60, "trials", None, True)
    phase.advance(17, "best roc_auc 0.77")
    assert phase.line(80, True) == "search [#####---------------], 17/60 trials, best roc_auc 0.77, 0 s"
    assert phase.line(55, True) == "search [##------], 17/60 trials, best roc_auc 0.77, 0 s"
    assert phase.line(45, True) == "search, 17/60 trials, best roc_auc 0.77, 0 s"
    assert phase.line(39, True) == "search, 17/60 trials, 0 s"
    assert phase.line(22, True) == "search, 17/60 trials"
