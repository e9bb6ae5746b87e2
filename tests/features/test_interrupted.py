"""Ctrl-C while the features of the buckets are computed ends the buckets that have begun."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from purchase_predict import database
from purchase_predict.features import on_duckdb
from purchase_predict.reading.load import load_source


def test_ctrl_c_while_buckets_are_submitted_ends_the_bucket_that_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("input", "scratch"):
        (tmp_path / name).mkdir()
    load_source("sample:2000", tmp_path / "input", tmp_path / "scratch", 0)
    shutil.copytree(tmp_path / "input/events/bucket=0", tmp_path / "input/events/bucket=1")
    pressed = threading.Event()

    class Interrupted(ThreadPoolExecutor):
        """Ctrl-C arrives while the second bucket is submitted. At this moment, the first bucket runs no query."""

        def submit(self, function: Any, *arguments: Any) -> Any:  # type: ignore[override]
            if function is not on_duckdb._primary_of_bucket:
                return super().submit(function, *arguments)
            if arguments[2] == 1:
                pressed.set()
                raise KeyboardInterrupt
            wait(arguments[3].values())  # the SQL of all queries is there
            return super().submit(lambda: (pressed.wait(), time.sleep(0.3), function(*arguments)))

    monkeypatch.setattr(on_duckdb, "ThreadPoolExecutor", Interrupted)
    with database.connect(tmp_path / "scratch") as connection:
        with pytest.raises(KeyboardInterrupt):
            on_duckdb.primary_from_events(connection, tmp_path / "input/events")
        assert connection.execute("SELECT table_name FROM duckdb_tables()").fetchall() == []
