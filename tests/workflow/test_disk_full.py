"""Scratch files on a disk that is too small."""

from pathlib import Path

from tests.conftest import PROJECT, new_store
from tests.small_disk import small_disk
from tests.workflow.runner import Workflow


def test_a_full_disk_is_told_in_one_line_and_the_next_run_starts_clean(empty_store: Path, tmp_path: Path) -> None:
    workflow = Workflow(PROJECT, new_store(empty_store, tmp_path / "store"))
    step = ("load", "-P", "source=sample:20000")
    with small_disk(tmp_path / "small", "200k") as disk:
        full = workflow.step(*step, TMPDIR=str(disk))
        assert list(disk.iterdir()) == []
    assert full.code == 1
    (line,) = full.error
    assert "the disk is full" in line
    assert f"scratch files go to {disk}" in line
    assert "set TMPDIR" in line
    assert "Traceback" not in full.err
    (run,) = workflow.runs("load")
    assert (run.info.status, "step.complete" in run.data.tags) == ("FAILED", False)
    assert line == "Error: " + run.data.tags["error"]

    assert workflow.step_here(*step).code == 0
    assert [run.info.status for run in workflow.runs("load")] == ["FINISHED", "FAILED"]
