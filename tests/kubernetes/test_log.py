import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from purchase_predict.kubernetes import log as log_module
from purchase_predict.kubernetes.cluster import Refused
from purchase_predict.kubernetes.log import Log

LINES = [(f"2026-11-29T10:00:{second:02}.000000000Z", f"line {second}") for second in range(6)]


class Broken:
    """A cluster that refuses the first call, because the container has not started. The second breaks after 3 lines."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self.lines, self.calls = lines, 0

    def log(self, namespace: str, pod: str, container: str, since: str) -> Iterator[tuple[str, str]]:
        self.calls += 1
        if self.calls == 1:
            raise Refused("container is waiting to start", 400, "")
        for number, (time, text) in enumerate(one for one in self.lines if one[0] > since):
            if self.calls == 2 and number == 3:
                raise requests.ConnectionError("broken")
            yield time, text


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_PAUSE", 0.02)


def read(lines: list[tuple[str, str]], file: Path) -> Log:
    cluster = Broken(lines)
    log = Log(cluster, "ml", file)  # type: ignore[arg-type]
    log.follow("pod", "step")
    log.follow("pod", "step")
    while cluster.calls < 4:
        threading.Event().wait(0.01)
    log.finish()
    return log


def test_every_line_is_shown_and_kept_once_even_if_the_connection_breaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(LINES, tmp_path / "job.log")
    text = "".join(f"{line}\n" for _, line in LINES)
    assert (tmp_path / "job.log").read_text() == text
    assert capsys.readouterr().out == text


def test_a_secret_that_this_process_knows_is_neither_shown_nor_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted-one")
    lines = [
        ("2026-11-29T10:00:00Z", "got planted-one"),
        ("2026-11-29T10:00:01Z", "at https://me:planted-two@server/x"),
    ]
    read(lines, tmp_path / "job.log")
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "job.log").read_text() == "got ***\nat https://server/x\n"


def test_an_error_goes_to_stderr_and_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = read([("2026-11-29T10:00:00Z", "Error: bad \x1b[31mthing")], tmp_path / "job.log")
    assert log.error == "bad \\x1b[31mthing"
    assert capsys.readouterr().err == "Error: bad \\x1b[31mthing\n"


def test_no_line_can_steer_the_terminal_and_a_table_keeps_its_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["  name   rows", "  \x1b]0;title\x07a    12\r", "\x9b2J \u202egnp.exe", "Error: x"]
    read([(f"2026-11-29T10:00:{at:02}Z", line) for at, line in enumerate(lines)], tmp_path / "job.log")
    out, err = capsys.readouterr()
    assert out.splitlines() == ["  name   rows", "  \\x1b]0;title\\x07a    12", "\\x9b2J \\u202egnp.exe"]
    assert err == "Error: x\n"
