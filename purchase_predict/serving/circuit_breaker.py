"""A circuit breaker for a store: while the store hangs, calls fail at once instead of queueing behind each other."""

import time
from collections.abc import Callable, Sequence

from purchase_predict.serving.events import Event
from purchase_predict.serving.records import Pair
from purchase_predict.serving.state import Batch, Result, Size, State, Unavailable

#: If a call fails after this many seconds or more, the store counts as hanging. The stores' own timeout is 2 s.
_HANGING_SECONDS = 1.0
#: Seconds for which calls fail at once after a call has shown that the store hangs. Then calls reach the store again.
_OPEN_SECONDS = 1.0


class CircuitBreaker:
    """A store whose calls fail at once while the store behind it hangs; see `state.State`.

    Only a few threads call the store. If each call waited for its timeout, a request would wait not only for its own
    timeout, but also for those of the requests before it.
    """

    def __init__(self, state: State) -> None:
        """Args: `state` is the store behind the circuit breaker."""
        self._state = state
        self._open_until, self._problem = 0.0, ""

    def change(self, events: Sequence[Event], work: Callable[[Batch], Result], *, wait: bool = True) -> Result:
        """See `state.State.change`.

        With `wait=False`, the store is called even while it hangs, because a local store then does not wait for a lock.
        """
        if not wait:
            return self._state.change(events, work, wait=False)
        return self._called(lambda: self._state.change(events, work))

    def carts(self, session: str, most: int) -> list[tuple[int, int, Pair]]:
        """See `state.State.carts`."""
        return self._called(lambda: self._state.carts(session, most))

    def forget(self, retention_days: int, removed: Callable[[int], None]) -> None:
        """See `state.State.forget`. The store is called even while it hangs: the calling thread serves no requests."""
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
            # An error without a cause means that Redis has answered, so it does not hang. For example, a change has
            # failed because other servers keep changing the same visitor.
            if error.__cause__ and now - started >= _HANGING_SECONDS:
                self._open_until, self._problem = now + _OPEN_SECONDS, str(error)
            raise
