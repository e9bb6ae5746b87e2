"""The interface of a store: it reads the records of some events, lets them be changed, and writes all or nothing."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from purchase_predict.serving import shop_days
from purchase_predict.serving.events import Event
from purchase_predict.serving.records import Pair, Product, Session, Visitor
from purchase_predict.serving.shop_days import Days

#: The version of the records and of both stores' layout. A state of another version is refused.
VERSION = 2

Result = TypeVar("Result")

SessionKey = tuple[int, str]
PairKey = tuple[int, str, int]
ProductKey = tuple[int, int]
#: User, time and digest of an event.
SeenKey = tuple[int, int, int]


class Unavailable(Exception):
    """The store cannot read or write now; `str()` is one line without content of the request.

    The request can be sent again. Usually nothing of it was written; if a late reply of Redis hides that it was, its
    events still count once.
    """


class Busy(Exception):
    """The store is in use by another thread or process, and the caller does not want to wait."""


@dataclass
class Batch:
    """The records of some events, read together and written together.

    Attributes:
        visitors, sessions, pairs, products: the records by key; a record that the store lacks is a new one.
        seen: the events of the request that the state has counted before.
        product_days, shop_days: the shop's counters by day, of each product and of all products together.
        counted: the events that are counted now; their records are written, and they count as seen afterwards.
        added: counters to add, by product (None: all products) and day.
    """

    visitors: dict[int, Visitor]
    sessions: dict[SessionKey, Session]
    pairs: dict[PairKey, Pair]
    products: dict[ProductKey, Product]
    seen: set[SeenKey]
    product_days: dict[int, Days]
    shop_days: Days
    counted: list[Event] = field(default_factory=list)
    added: dict[tuple[int | None, int], dict[int, int]] = field(default_factory=dict)

    @property
    def newest_day(self) -> int:
        """The newest day of any event, as days since 1970; -1 where there is none."""
        return max(self.shop_days, default=-1)

    @property
    def newest_row_day(self) -> int:
        """The newest day of any row, as days since 1970; -1 where there is none.

        If rows are known only from days that are no longer kept apart, it is the newest of these days.
        """
        folded = self.newest_day - shop_days.KEPT_DAYS
        rows = (day for day, counts in self.shop_days.items() if counts[shop_days.CARTED_PAIRS])
        return max((folded if day == shop_days.EARLIER else day for day in rows), default=-1)

    def count_for_shop(self, product: int, day: int, counts: dict[int, int]) -> None:
        """Adds to the counters of a product and of the shop."""
        for subject, days in ((product, self.product_days[product]), (None, self.shop_days)):
            shop_days.add(days, day, counts)
            total = self.added.setdefault((subject, day), {})
            for counter, count in counts.items():
                total[counter] = total.get(counter, 0) + count


@dataclass(frozen=True)
class Size:
    """The size of the state, and whether it is complete.

    Attributes:
        bytes: the size in bytes.
        visitors: the number of visitors; None: too costly to count.
        evicted: the keys that the store has removed by itself since the server's start, because its memory was full.
        problem: why the state lacks something, or may soon, in one line; empty: it is complete.
    """

    bytes: int
    visitors: int | None
    evicted: int = 0
    problem: str = ""


class State(Protocol):
    """A store of the state. Its methods may be called from several threads."""

    def change(self, events: Sequence[Event], work: Callable[[Batch], Result], *, wait: bool = True) -> Result:
        """Reads the records of the events, calls `work`, which changes them, and writes them in one transaction.

        No other request changes these visitors meanwhile. `work` may be called again, with a new batch.

        Args:
            events: what `work` is about.
            work: changes the records.
            wait: whether to wait while another thread or process uses a local store.

        Returns:
            The result of `work`.

        Raises:
            Unavailable: the store cannot be read or written.
            Busy: the store is in use, and `wait` is false. Nothing was changed.
        """

    def carts(self, session: str, most: int) -> list[tuple[int, int, Pair]]:
        """The session's pairs that were put in the cart: user, product, pair. A session id may have several users.

        Args:
            session: the session's id.
            most: the number of pairs after which the others are left out. No more than these are read.

        Raises:
            Unavailable: the store cannot be read.
        """

    def forget(self, retention_days: int, removed: Callable[[int], None]) -> None:
        """Removes visitors without events for `retention_days` and `FUTURE_DAYS`, and seen events as old.

        Args:
            retention_days: days without an event.
            removed: called with a number of visitors once they are removed; may be called several times.
        """

    def size(self) -> Size:
        """How large the state is.

        Raises:
            Unavailable: the store cannot be read.
        """

    def close(self) -> None:
        """Closes the store. All changes are committed already."""


def keys_of(events: Iterable[Event]) -> tuple[set[int], set[SessionKey], set[PairKey], set[ProductKey], set[int]]:
    """The keys of the records of events: visitors, sessions, pairs, products of visitors, products."""
    events = list(events)
    return (
        {event.user for event in events},
        {(event.user, event.session) for event in events},
        {(event.user, event.session, event.product) for event in events},
        {(event.user, event.product) for event in events},
        {event.product for event in events},
    )
