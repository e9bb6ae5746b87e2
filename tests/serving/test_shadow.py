"""The shadow scores carts without delaying requests. The log gets every answer, even if the shadow is slow or fails.

One exception: an answer that is still being scored when `Shadow.close` stops waiting may be lost.
"""

import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from purchase_predict.serving import answer_log
from purchase_predict.serving import shadow as shadow_module
from purchase_predict.serving.answer_log import Answer
from purchase_predict.serving.meters import Meters
from purchase_predict.serving.shadow import Shadow
from tests.serving.answers import answer


class Version:
    """A version that scores rows with the function `score`; None: probability 0.75 and "will buy" for each row."""

    def __init__(self, version: str, score: Callable[[list[Any]], tuple[float, int]] | None = None) -> None:
        self.version, self._score = version, score or (lambda row: (0.75, 1))

    def score(self, rows: list[list[Any]]) -> list[tuple[float, int]]:
        return [self._score(row) for row in rows]


class Held(Version):
    """A version that scores nothing until `let_go` is set. It sets `at_work` once it has a row."""

    def __init__(self, version: str) -> None:
        self.at_work, self.let_go = threading.Event(), threading.Event()
        super().__init__(version, self._wait)

    def _wait(self, row: list[Any]) -> tuple[float, int]:
        self.at_work.set()
        self.let_go.wait(60)
        return 0.75, 1


class Log:
    """A stand-in for the log of answers that keeps the answers in memory."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def add(self, answer: Answer) -> None:
        self.answers.append(answer)

    @property
    def users(self) -> list[int]:
        return sorted(answer.user for answer in self.answers)


def started(version: Version | None) -> tuple[Shadow, Log, Meters]:
    log, meters = Log(), Meters()
    follower: Any = SimpleNamespace(scorer=version)
    return Shadow(follower, log, meters), log, meters  # type: ignore[arg-type]


def counted(meters: Meters) -> dict[str, float]:
    """The shadow's counters that are not 0. `answers` counts only the answers of version 4."""
    values = {name: meters.value(f"shadow_{name}_total") for name in ("dropped", "failures", "disagreements")}
    values["difference"] = round(meters.value("shadow_difference_total"), 9)
    values["answers"] = meters.value("shadow_answers_total", version="4")
    return {name: value for name, value in values.items() if value}


def test_answers_differences_and_disagreements_are_counted() -> None:
    shadow, log, meters = started(Version("4"))
    other, same, unscored = answer(user=1), answer(user=2, probability=0.5), answer(user=3, probability=None)
    same.will_buy, unscored.will_buy = 1, None
    for one in (other, same, unscored):
        shadow.add(one)
    shadow.close()
    assert [one.shadow for one in log.answers] == [(0.75, 1, "4")] * 3
    # The third cart has no answer to compare with, because no version held the alias.
    assert counted(meters) == {"answers": 3, "difference": 0.5 + 0.25, "disagreements": 1}


def test_a_slow_shadow_delays_no_request_drops_what_is_too_much_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_module, "_WAITING", 10)
    slow = Held("4")
    shadow, log, meters = started(slow)
    shadow.add(answer(user=0))
    assert slow.at_work.wait(20)
    begun = time.monotonic()
    for user in range(1, 31):
        shadow.add(answer(user=user))
    assert time.monotonic() - begun < 1
    assert log.users == list(range(11, 31))  # user 0 is being scored, users 1 to 10 are queued
    assert counted(meters) == {"dropped": 20}
    slow.let_go.set()
    shadow.close()
    assert log.users == list(range(31))
    assert [one.user for one in log.answers if one.shadow is None] == list(range(11, 31))
    assert counted(meters) == {"dropped": 20, "answers": 11, "difference": 5.5, "disagreements": 11}


@pytest.mark.parametrize("waiting", [3, 10])
def test_a_shadow_that_hangs_holds_up_the_end_for_a_while_only_and_the_log_gets_what_waits(
    monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    monkeypatch.setattr(shadow_module, "_WAITING", 10)
    monkeypatch.setattr(answer_log, "CLOSE_SECONDS", 0.2)
    hangs = Held("4")
    shadow, log, meters = started(hangs)
    shadow.add(answer(user=0))
    assert hangs.at_work.wait(20)
    for user in range(1, waiting + 1):
        shadow.add(answer(user=user))
    begun = time.monotonic()
    shadow.close()
    assert time.monotonic() - begun < 5
    assert log.users == list(range(1, waiting + 1))
    assert counted(meters) == {"dropped": waiting}
    hangs.let_go.set()


def test_a_version_that_fails_loses_no_answer_and_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    def fails(row: list[Any]) -> tuple[float, int]:
        raise ValueError("the request's content")

    shadow, log, meters = started(Version("4", fails))
    with caplog.at_level(logging.WARNING):
        for user in range(5):
            shadow.add(answer(user=user))
        shadow.close()
    assert log.users == list(range(5))
    assert [one.shadow for one in log.answers] == [None] * 5
    assert counted(meters) == {"failures": 5}
    assert [record.getMessage() for record in caplog.records] == ["shadow: version 4 fails: ValueError"]


def test_after_a_version_that_fails_the_next_one_answers() -> None:
    def fails(row: list[Any]) -> tuple[float, int]:
        raise ValueError

    shadow, log, meters = started(Version("3", fails))
    shadow.add(answer(user=1))
    deadline = time.monotonic() + 20
    while not log.answers and time.monotonic() < deadline:
        time.sleep(0.01)
    shadow.follower.scorer = Version("4")  # type: ignore[assignment]
    shadow.add(answer(user=2))
    shadow.close()
    assert [(one.user, one.shadow) for one in log.answers] == [(1, None), (2, (0.75, 1, "4"))]
    assert counted(meters) == {"failures": 1, "answers": 1, "difference": 0.5, "disagreements": 1}


def test_a_shadow_whose_alias_has_no_holder_passes_answers_on() -> None:
    shadow, log, meters = started(None)
    for user in range(3):
        shadow.add(answer(user=user))
    shadow.close()
    assert [(one.user, one.shadow) for one in log.answers] == [(0, None), (1, None), (2, None)]
    assert counted(meters) == {}


def test_without_a_log_the_shadow_is_counted_all_the_same() -> None:
    meters = Meters()
    follower: Any = SimpleNamespace(scorer=Version("4"))
    shadow = Shadow(follower, None, meters)
    shadow.add(answer())
    shadow.close()
    assert counted(meters)["answers"] == 1
