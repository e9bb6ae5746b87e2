import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from purchase_predict.workflow import scratch
from purchase_predict.workflow.processes import process_name
from tests.conftest import PROJECT

WORKING = """
import tempfile, time
from purchase_predict.workflow import scratch
with scratch.process_folder(), scratch.scratch_folder() as folder:
    (folder / "rows").write_text("many")
    tempfile.mkdtemp()  # as MLflow leaves one
    print(tempfile.gettempdir(), flush=True)
    {then}
"""


def working(then: str, temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKING.format(then=then)],
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_next_workflow_removes_what_killed_processes_left_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, alive, ended = (working(then, tmp_path) for then in ("time.sleep(60)", "time.sleep(60)", "pass"))
    folders = [Path(process.stdout.readline().strip()) for process in (killed, alive, ended)]  # type: ignore[union-attr]
    killed.kill()
    killed.wait()
    ended.wait()
    (tmp_path / "purchase-predict-elsewhere").mkdir()
    (tmp_path / "purchase-predict-elsewhere/.owner").write_text("another-machine/1 4711 99.00")
    (tmp_path / "purchase-predict-odd").mkdir()
    (tmp_path / "purchase-predict-odd/.owner").write_text("no name of a process")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    try:
        assert [folder.exists() for folder in folders] == [True, True, False]
        scratch.remove_orphans()
        assert [folder.exists() for folder in folders] == [False, True, False]
        assert sorted(path.name for path in tmp_path.iterdir() if path not in folders) == [
            "purchase-predict-elsewhere",
            "purchase-predict-odd",
        ]
    finally:
        alive.kill()
        alive.wait()


def test_a_folder_whose_process_was_killed_before_it_wrote_its_name_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = time.time() - 7200
    for name, file, changed in (
        ("empty", None, long_ago),
        ("unwritten", ".owner", long_ago),
        ("just-begun", None, None),
        ("of-another-program", "rows", long_ago),
    ):
        folder = tmp_path / f"purchase-predict-{name}"
        folder.mkdir()
        if file:
            (folder / file).touch()
        if changed:
            os.utime(folder, (changed, changed))
    (tmp_path / "purchase-predict-file").write_text("")
    os.utime(tmp_path / "purchase-predict-file", (long_ago, long_ago))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch.remove_orphans()
    left = {path.name.removeprefix("purchase-predict-") for path in tmp_path.iterdir()}
    assert left == {"just-begun", "of-another-program", "file"}


def test_targets_whose_names_begin_alike_have_incomplete_files_of_their_own(tmp_path: Path) -> None:
    start = "\N{GRINNING FACE}" * 40
    targets = [tmp_path / f"{start}{end}" for end in ("", "a.parquet", "b.parquet")]
    files = [scratch.incomplete(target) for target in targets]
    assert len(set(files)) == len(targets)
    assert [scratch.incomplete(target) for target in targets] == files
    for file in files:
        assert file.parent == tmp_path
        file.write_text("rows")  # the file system accepts the name


def test_incomplete_files_of_killed_processes_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / f"{'x' * 40}.parquet"
    mine = scratch.incomplete(target)
    mine.write_text("rows")
    with subprocess.Popen(["sleep", "60"]) as killed:
        name = process_name(killed.pid)
        with monkeypatch.context() as patch:
            patch.setattr(scratch, "process_name", lambda pid: name)
            left = scratch.incomplete(target)
        left.write_text("rows")
        # An earlier version of this project gave incomplete files names without a digest.
        before = tmp_path / f".{'x' * 40}.{quote(name, safe='')}.partial"
        before.write_text("rows")
        scratch.incomplete(target)
        assert set(tmp_path.iterdir()) == {mine, left, before}, "the process still runs"
        killed.kill()
    assert scratch.incomplete(target) == mine
    assert set(tmp_path.iterdir()) == {mine}
