"""Scratch on a disk that is too small."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT, new_store
from tests.workflow.runner import Workflow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_in_one_line_and_the_next_run_starts_clean(
    empty_store: Path, tmp_path: Path, small_disk: Path
) -> None:
    workflow = Workflow(PROJECT, new_store(empty_store, tmp_path / "store"))
    step = ("load", "-P", "source=sample:20000")
    full = workflow.step(*step, TMPDIR=str(small_disk))
    assert full.code == 1
    (line,) = full.error
    assert "the disk is full" in line
    assert f"scratch files go to {small_disk}" in line
    assert "set TMPDIR" in line
    assert "Traceback" not in full.err
    assert list(small_disk.iterdir()) == []
    (run,) = workflow.runs("load")
    assert (run.info.status, "step.complete" in run.data.tags) == ("FAILED", False)
    assert line == "Error: " + run.data.tags["error"]

    assert workflow.step_here(*step).code == 0
    assert [run.info.status for run in workflow.runs("load")] == ["FINISHED", "FAILED"]
