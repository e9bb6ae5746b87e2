"""A circuit breaker before a store: while the store hangs, calls fail at once instead of queueing behind each other."""

import time
from collections.abc import Callable, Sequence

from purchase_predict.serving.events import Event
from purchase_predict.serving.records import Pair
from purchase_predict.serving.state import Batch, Result, Size, State, Unavailable

#: A call that fails after this many seconds or more has waited for a store that hangs; the stores wait 2 s.
_HANGING_SECONDS = 1.0
#: Seconds for which further calls fail at once. The next ones then try the store again.
_OPEN_SECONDS = 1.0


class CircuitBreaker:
    """A store that gives up early; see `state.State`.

    Few threads wait for the store. If each call waited for its own timeout, a request would wait for those of all
    requests before it.
    """

    def __init__(self, state: State) -> None:
        """Args: `state` is the store."""
        self._state = state
        self._open_until, self._problem = 0.0, ""

    def change(self, events: Sequence[Event], work: Callable[[Batch], Result], *, wait: bool = True) -> Result:
        """See `state.State.change`."""
        if not wait:
            return self._state.change(events, work, wait=False)
        return self._called(lambda: self._state.change(events, work))

    def carts(self, session: str, most: int) -> list[tuple[int, int, Pair]]:
        """See `state.State.carts`."""
        return self._called(lambda: self._state.carts(session, most))

    def forget(self, retention_days: int, removed: Callable[[int], None]) -> None:
        """See `state.State.forget`. It has a thread of its own, so it may wait."""
        self._state.forget(retention_days, removed)

    def size(self) -> Size:
        """See `state.State.size`."""
        return self._called(self._state.size)

    def close(self) -> None:
        """See `state.State.close`."""
        self._state.close()

    def _called(self, call: Callable[[], Result]) -> Result:
        started = time.monotonic()
        if started < self._open_until:
            raise Unavailable(self._problem)
        try:
            return call()
        except Unavailable as error:
            now = time.monotonic()
            # Without a cause the store has answered each time: other servers keep changing the same visitors.
            if error.__cause__ and now - started >= _HANGING_SECONDS:
                self._open_until, self._problem = now + _OPEN_SECONDS, str(error)
            raise
