"""A clock that is set back by 1 day during a run, so that the next runs seem to be older than this run."""

import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from purchase_predict.parameters import STEPS
from tests.workflow.processes import until
from tests.workflow.runner import Workflow

pytestmark = pytest.mark.servers


@pytest.fixture
def clock(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A file with the offset of a fake clock, and the variables that make a process and its children use this clock."""
    if not shutil.which("faketime"):
        pytest.skip("faketime is missing")
    # `time.sleep` waits until an absolute time, which libfaketime 0.9.10 gets wrong. So another wait replaces it.
    (tmp_path / "sitecustomize.py").write_text(
        "import threading, time\ntime.sleep = lambda seconds: threading.Event().wait(seconds)\n"
    )
    show = ["faketime", "-f", "+0", "printenv", "LD_PRELOAD"]
    return tmp_path / "clock", {
        "LD_PRELOAD": subprocess.run(show, check=True, capture_output=True, text=True).stdout.strip(),
        "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "clock"),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "PYTHONPATH": str(tmp_path),
    }


SOURCE = ("-P", "source=sample:5000")


def asked(max_evals: int) -> tuple[str, ...]:
    # Each `max_evals` has its own tolerance. So deploy runs again, even if the model stays the same.
    return *SOURCE, "-P", f"max_evals={max_evals}", "-P", f"tolerance={max_evals / 100}"


def test_a_clock_that_is_set_back_costs_no_reuse(workflow: Workflow, clock: tuple[Path, dict[str, str]]) -> None:
    offset, environ = clock
    offset.write_text("+0")
    by_this_clock = replace(workflow, at_start=tuple(environ.items()))

    def start(max_evals: int) -> subprocess.Popen[str]:
        return by_this_clock.start_main(*asked(max_evals))

    def steps(process: subprocess.Popen[str]) -> dict[str, str]:
        outcome = workflow.outcome(process)
        assert outcome.code == 0, outcome.err
        return outcome.steps

    workflow.prepare(*SOURCE)
    process = start(1)
    until(process, "train: running")
    offset.write_text("-1d")
    assert workflow.outcome(process).code == 0
    assert steps(start(1)) == dict.fromkeys(STEPS, "reused")
    assert steps(start(2)) == {"load": "reused", "process": "reused", "train": "ran", "deploy": "ran"}
    assert sorted(run.data.metrics["trials_taken_over"] for run in workflow.runs("train")) == [0, 1]
    first, third, _ = workflow.runs("main")
    assert first.info.end_time < first.info.start_time
    assert timedelta(milliseconds=first.info.start_time - third.info.start_time) > timedelta(hours=23)
    # The test's own process does not use the fake clock: its time is right.
    assert workflow.main_here(*asked(2)).steps == dict.fromkeys(STEPS, "reused")
    assert [len(workflow.runs(step)) for step in STEPS] == [1, 1, 2, 2]
