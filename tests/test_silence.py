"""The verdict of benchmarks.silence, on recordings that are made up."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import silence
from benchmarks.silence import Shown

#: What MLflow prints before the project's code (START) and after it (END). The silence within START is longer than the
#: limit. So is the silence from END to the end of the recording, at 20 s.
START = [Shown(0.1, "INFO mlflow: Creating tables"), Shown(8.0, "INFO === Running command 'python main.py' ===")]
END = "INFO === Run (ID 'e290') succeeded ==="


@pytest.mark.parametrize(
    ("own", "code", "exit_code", "says"),
    [
        ([Shown(9.0, "load: starting"), Shown(11.9, "load: 5 rows"), Shown(12.0, END)], 0, 0, "anything new: 2.9 s"),
        ([Shown(9.0, "load: starting"), Shown(12.1, "load: 5 rows"), Shown(12.2, END)], 0, 1, "anything new: 3.1 s"),
        ([Shown(11.1, "load: starting"), Shown(12.0, END)], 0, 1, "anything new: 3.1 s"),
        ([Shown(8.1, "load: starting"), Shown(12.0, END)], 0, 1, "anything new: 3.9 s"),
        ([Shown(8.1, "load: starting"), Shown(8.2, END)], 1, 1, "the workflow ended with the exit code 1"),
        ([Shown(8.1, "load: starting")], 0, 1, "were not shown"),
    ],
    ids=["short", "long", "long at its start", "long at its end", "failed", "unknown lines"],
)
def test_a_silence_of_the_project_is_an_error_and_one_of_mlflow_is_not(
    own: list[Shown], code: int, exit_code: int, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(silence, "write_events", lambda *_: None)
    monkeypatch.setattr(silence, "_RECORDING", tmp_path / "build" / "terminal.txt")
    monkeypatch.setattr(silence, "recorded", lambda *_: ([*START, *own], 20.0, code))
    result = CliRunner().invoke(silence.main, [])
    assert (result.exit_code, says in result.output) == (exit_code, True), result.output
    assert "Creating tables" in (tmp_path / "build" / "terminal.txt").read_text()
