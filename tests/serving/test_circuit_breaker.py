"""While a store hangs, calls fail at once. A store that refuses, or that others keep changing, is called each time."""

from collections.abc import Callable
from typing import Any

import pytest

from purchase_predict.serving import circuit_breaker
from purchase_predict.serving.circuit_breaker import CircuitBreaker
from purchase_predict.serving.state import Busy, Unavailable


class Failing:
    """A stand-in for a store: each call takes `seconds` seconds of a simulated clock, and then fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.seconds, self.calls = 100.0, 2.0, 0
        self.cause: Exception | None = TimeoutError()
        monkeypatch.setattr(circuit_breaker.time, "monotonic", lambda: self.clock)

    def fail(self, *_: object, wait: bool = True) -> Any:
        self.calls += 1
        if not wait:
            raise Busy
        self.clock += self.seconds
        raise Unavailable("it hangs") from self.cause

    change = carts = size = fail


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Failing:
    return Failing(monkeypatch)


def calls_of(breaker: CircuitBreaker) -> list[Callable[[], Any]]:
    return [lambda: breaker.change([], lambda batch: None), lambda: breaker.carts("s", 1), breaker.size]


@pytest.mark.parametrize("first", range(3))
def test_after_a_call_that_hung_every_call_fails_at_once_for_a_second(store: Failing, first: int) -> None:
    breaker = CircuitBreaker(store)  # type: ignore[arg-type]
    calls = calls_of(breaker)
    for call in (calls[first], *calls, *calls):
        with pytest.raises(Unavailable, match=r"^it hangs$"):
            call()
    assert store.calls == 1
    with pytest.raises(Busy):  # a call that does not wait cannot hang, so it reaches the store
        breaker.change([], lambda batch: None, wait=False)
    store.clock += 1.0
    with pytest.raises(Unavailable):
        calls[first]()
    assert store.calls == 3


@pytest.mark.parametrize(("seconds", "cause"), [(0.01, ConnectionError()), (2.0, None)])
def test_a_store_that_refuses_or_that_others_keep_changing_is_asked_each_time(
    store: Failing, seconds: float, cause: Exception | None
) -> None:
    store.seconds, store.cause = seconds, cause
    for call in 3 * calls_of(CircuitBreaker(store)):  # type: ignore[arg-type]
        with pytest.raises(Unavailable):
            call()
    assert store.calls == 9
