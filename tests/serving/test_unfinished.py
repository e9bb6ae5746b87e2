"""Readers do not find a file before it is complete, and the unfinished files of a killed process are removed."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from purchase_predict.serving import unfinished
from purchase_predict.serving.answer_log import AnswerLog
from purchase_predict.serving.meters import Meters
from tests.serving.answers import answer


def logged(folder: Path) -> AnswerLog:
    """A log with one answer, closed."""
    log = AnswerLog(str(folder), 10**5, Meters())
    log.add(answer())
    log.close()
    return log


def matched(folder: Path) -> set[Path]:
    """The files that readers of the log find with globs. pathlib's globs also match hidden files."""
    return {path for pattern in ("*.parquet", "*/*.parquet", "**/*.parquet") for path in folder.glob(pattern)}


def test_readers_do_not_see_a_file_before_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged(tmp_path)
    whole = matched(tmp_path)
    assert len(whole) == 1
    seen = []
    replace = Path.replace

    def at_the_last_moment(part: Path, target: Path) -> Path:
        assert part.stat().st_size > 1000
        part.write_bytes(part.read_bytes()[:1000])
        ((rows,),) = duckdb.connect().execute(f"SELECT count(*) FROM '{tmp_path}/*/*.parquet'").fetchall()
        seen.append((matched(tmp_path), rows, ds.dataset(tmp_path).count_rows()))
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", at_the_last_moment)
    logged(tmp_path)
    assert seen == [(whole, 1, 1)]
    assert len(matched(tmp_path)) == 2


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        unfinished.write(tmp_path, tmp_path / "nowhere/file", b"content")
    assert list(tmp_path.iterdir()) == []


def forked(work: Callable[[], None]) -> int:
    """Starts a process that does some work and then waits to be killed; returns its id."""
    pid = os.fork()
    if not pid:
        try:
            work()
            time.sleep(60)
        finally:
            os._exit(1)
    return pid


def test_what_a_killed_server_left_is_removed_by_the_next_one_but_not_what_a_live_one_writes(tmp_path: Path) -> None:
    log, begun = tmp_path / "log", tmp_path / "begun"
    for folder in (log, begun):
        folder.mkdir()
    held: list[object] = []

    def begin() -> None:
        held.append(unfinished._begun(log))
        (begun / str(os.getpid())).touch()

    pids = [forked(begin) for _ in range(2)]
    try:
        deadline = time.monotonic() + 20
        while len(list(begun.iterdir())) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        unfinished.remove_left(log)
        assert len(list(log.iterdir())) == 2
        os.kill(pids[0], signal.SIGKILL)
        os.waitpid(pids.pop(0), 0)
        logged(log)
        assert len([path for path in log.iterdir() if path.name.startswith(".")]) == 1
        assert [pq.read_table(path).num_rows for path in matched(log)] == [1]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_file_that_another_server_removed_before_it_was_locked_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = unfinished.fcntl.flock, []

    def removed_at_first(file: object, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            for part in tmp_path.iterdir():
                part.unlink()
        lock(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(unfinished.fcntl, "flock", removed_at_first)
    unfinished.write(tmp_path, tmp_path / "file", b"content")
    assert len(calls) == 2
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"content")]
