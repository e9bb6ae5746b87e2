"""The interface of a store of the state.

The state is all that the server knows from past events: the records of visitors (`records`), the shop's counters
(`shop_days`), and the keys of the counted events. From the state, the server makes the rows that the model scores.

A store reads the records of some events, lets the caller change these records, and writes all of them or none.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from purchase_predict.serving import shop_days
from purchase_predict.serving.events import Event
from purchase_predict.serving.records import Pair, Product, Session, Visitor
from purchase_predict.serving.shop_days import Days

#: The version of the records and of both stores' layout. A state of another version is refused.
VERSION = 3

Result = TypeVar("Result")

#: User and session id.
SessionKey = tuple[int, str]
#: User, session id and product.
PairKey = tuple[int, str, int]
#: User and product.
ProductKey = tuple[int, int]
#: User, time and digest of an event.
SeenKey = tuple[int, int, int]


class Unavailable(Exception):
    """The store cannot read or write now. The error's text is one line, without content of the request.

    The request can be sent again. Usually nothing of the request was written. But Redis may have written the request
    and replied too late. If such a request is sent again, its events still count only once.
    """


class Busy(Exception):
    """The store is in use by another thread or process, and the caller does not want to wait."""


@dataclass
class Batch:
    """The records of some events, read together and written together.

    Attributes:
        visitors, sessions, pairs, products: the records by key. A record that the store does not have is new and empty.
        seen: the keys of those events that the state has already counted.
        product_days: each product's counters by day.
        shop_days: the counters of all products together, by day.
        counted: the events that are counted now. The store writes their records, and remembers the events as seen.
        added: amounts to add to the shop's counters, by product (None: all products) and day, then by counter.
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
        """The newest day with a view, cart or purchase, as days since 1970; -1 if there is none."""
        return max(self.shop_days, default=-1)

    @property
    def newest_cart_day(self) -> int:
        """The newest day with a cart event, as days since 1970; -1 if there is none.

        No row has a later day, because a row's day is the day of its cart event.

        If the days of all cart events are summed under `shop_days.EARLIER`, the result is the newest day that this sum
        can include.
        """
        folded = self.newest_day - shop_days.KEPT_DAYS
        carts = (day for day, counts in self.shop_days.items() if counts[shop_days.CARTS])
        return max((folded if day == shop_days.EARLIER else day for day in carts), default=-1)

    def count_for_shop(self, product: int, day: int, counts: dict[int, int]) -> None:
        """Adds `counts` (see `shop_days.add`) to a day's counters of the product, and to those of all products."""
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
        visitors: the number of visitors; None: it is too costly to count.
        evicted: the number of keys that the store has removed since the server's start because its memory was full.
        problem: one line that says why the state lacks records, or may soon lack some; empty: the state is complete.
    """

    bytes: int
    visitors: int | None
    evicted: int = 0
    problem: str = ""


class State(Protocol):
    """A store of the state. Its methods may be called from several threads."""

    def change(self, events: Sequence[Event], work: Callable[[Batch], Result], *, wait: bool = True) -> Result:
        """Reads the records of the events, lets `work` change them, and writes them, all in one transaction.

        No other request changes these visitors meanwhile. Redis checks this at the end: if another server has changed
        a visitor, nothing is written and the transaction starts again. So `work` may be called several times, each time
        with a new batch.

        Args:
            events: the events whose records are read.
            work: changes the records of the batch.
            wait: whether to wait while another thread or process uses a local store. A store in Redis always waits.

        Returns:
            The result of `work`.

        Raises:
            Unavailable: the store cannot be read or written.
            Busy: the store is in use, and `wait` is false. Nothing was changed.
        """

    def carts(self, session: str, most: int) -> list[tuple[int, int, Pair]]:
        """The pairs of a session id that were put in the cart, each as user, product and pair.

        Several users may share a session id.

        Args:
            session: the session id.
            most: the maximum number of pairs. Further pairs are neither read nor returned.

        Raises:
            Unavailable: the store cannot be read.
        """

    def forget(self, retention_days: int, removed: Callable[[int], None]) -> None:
        """Removes visitors whose last event arrived more than `retention_days` + `events.FUTURE_DAYS` days ago.

        Also removes the seen events whose day is more than `retention_days` days before the shop's newest day. In
        Redis, keys expire by themselves, so this method does nothing.

        Args:
            retention_days: the retention in days.
            removed: called with the number of visitors removed by each transaction.

        Raises:
            sqlite3.Error: the SQLite file cannot be changed.
        """

    def size(self) -> Size:
        """The size of the state, and whether it is complete.

        Raises:
            Unavailable: the store cannot be read.
        """

    def close(self) -> None:
        """Closes the store. All changes are committed already."""


def keys_of(events: Iterable[Event]) -> tuple[set[int], set[SessionKey], set[PairKey], set[ProductKey], set[int]]:
    """The keys of the records of events: visitors, sessions, pairs, products of a visitor, and products of the shop."""
    events = list(events)
    return (
        {event.user for event in events},
        {(event.user, event.session) for event in events},
        {(event.user, event.session, event.product) for event in events},
        {(event.user, event.product) for event in events},
        {event.product for event in events},
    )
