"""The server's records: one per visitor, session, pair, and product of a visitor. A record's size is bounded.

The stores keep a record as a JSON list: the values of its `__slots__`, in this order (`pack`, `unpack`). Times are
microseconds since 1970 (UTC).
"""

import json
from typing import Any, Self

from purchase_predict.serving.events import DAY_MICROSECONDS
from purchase_predict.serving.shop_days import KEPT_DAYS

#: Number of newest session starts for which a tally (`Tally`) keeps separate counts. Older starts share one sum. So if
#: at least this many sessions start after a session, a sum over the sessions before that session may be too high. A row
#: with such a sum is marked (`Pair.late`) and counted (`advance.Counts.overlaps`).
TALLY_SESSIONS = 32
#: Maximum number of days in `Pair.purchases`. A day that is left out is never one of the shop's newest
#: `shop_days.KEPT_DAYS` days. The shop's counters of all older days are one sum, so the exact day of an older purchase
#: does not matter.
PURCHASE_DAYS = KEPT_DAYS + 1

#: The fields of each record, in the order of its JSON list. `summaries` uses the same order.
_VISITOR = ("clock", "answered", "sessions", "purchases", "moved_to", "moved_from")
_SESSION = (
    *("first", "visit", "rank", "prev_start", "views", "newest"),
    *("carts", "removed", "purchases", "cents", "products", "act"),
    *("carts_now", "removed_now", "purchases_now", "cents_now", "products_now", "act_now"),
)
_PAIR = ("views", "act", "first_cart", "purchases", "moment", "in_cart", "decided", "row", "late")
_PRODUCT = ("views", "purchases")

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


class Tally:
    """Counts facts, such as purchases, for each session of a visitor, and sums the counts over earlier sessions.

    A session is identified by its start (`Session.visit`); sessions with the same start share a count. A sum covers
    the sessions with an earlier start. Sessions may overlap, so facts of a later session may already be counted; the
    sum leaves them out. The newest `TALLY_SESSIONS` starts have their own counts; older starts share one sum.
    """

    __slots__ = ("counts", "folded", "folded_start")

    def __init__(self, folded: int = 0, folded_start: int = -1, counts: list[list[int]] | None = None) -> None:
        """Makes a tally.

        Args:
            folded: the sum of the counts of all starts up to `folded_start`.
            folded_start: the newest start in this sum; -1: none.
            counts: a list [start, count] for each later start, in the order of the starts.
        """
        self.folded, self.folded_start, self.counts = folded, folded_start, counts or []

    def add(self, start: int) -> None:
        """Counts one fact of the session with this start."""
        if start <= self.folded_start:
            self.folded += 1
            return
        for entry in reversed(self.counts):
            if entry[0] == start:
                entry[1] += 1
                return
        self.counts.append([start, 1])
        self.counts.sort()
        if len(self.counts) > TALLY_SESSIONS:
            self.folded_start, count = self.counts.pop(0)
            self.folded += count

    def move(self, before: int, start: int) -> None:
        """Moves one fact from the start `before` to the earlier start `start`. A fact in the shared sum stays there."""
        for entry in self.counts:
            if entry[0] == before:
                entry[1] -= 1
                if not entry[1]:
                    self.counts.remove(entry)
                self.add(start)
                return

    def before(self, start: int) -> int:
        """The number of facts in sessions with an earlier start; may be too high if `knows(start)` is false."""
        return self.folded + sum(count for own, count in self.counts if own < start)

    def newest_before(self, start: int) -> int | None:
        """The newest earlier start with a fact; None if there is none. Correct only if `knows(start)` is true."""
        return max((own for own, _ in self.counts if own < start), default=self.folded_start if self.folded else None)

    def knows(self, start: int) -> bool:
        """Whether `before` is exact for this start."""
        return start > self.folded_start

    def pack(self) -> list[Any]:
        """The arguments of `Tally` as a list; empty if nothing was counted."""
        return [self.folded, self.folded_start, self.counts] if self.counts or self.folded else []


class Record:
    """The base class of the records. Each field in `__slots__` is a value that JSON can hold, or a tally.

    Attributes:
        tallies: the names of the fields that are tallies.
    """

    __slots__: tuple[str, ...] = ()
    tallies: frozenset[str] = frozenset()

    def pack(self) -> str:
        """The record as JSON text."""
        values = [getattr(self, name) for name in self.__slots__]
        packed = [value.pack() if isinstance(value, Tally) else value for value in values]
        return _ENCODER.encode(packed)

    @classmethod
    def unpack(cls, text: str | bytes) -> Self:
        """Makes the record from a text that `pack` returned."""
        record = cls.__new__(cls)
        for name, value in zip(cls.__slots__, json.loads(text), strict=True):
            setattr(record, name, Tally(*value) if name in cls.tallies else value)
        return record


class Visitor(Record):
    """A visitor: the starts of their sessions, and their purchases by session.

    Attributes:
        clock: the time of the newest event; -1: none yet.
        answered: the newest moment for which a row was made; -1: none yet.
        sessions: a tally of the sessions.
        purchases: a tally of the purchases.
        moved_to, moved_from: a late event can move the start of a session to an earlier time. `moved_to` is the
            earliest new start, `moved_from` the newest old start; -1: none was moved. In all tallies except `sessions`,
            facts that were counted before the move stay under the old start. So for a session that starts after
            `moved_to`, and at or before `moved_from`, the sums over earlier sessions may lack these facts.
    """

    __slots__ = _VISITOR
    tallies = frozenset({"sessions", "purchases"})

    def __init__(self) -> None:
        self.clock = self.answered = -1
        self.sessions, self.purchases = Tally(), Tally()
        self.moved_to = self.moved_from = -1

    def start_session(self, start: int, before: int | None) -> None:
        """Counts a new session, or moves a session to an earlier start after a late event.

        Args:
            start: the session's start.
            before: the session's old start; None: the session is new.
        """
        if before is None:
            self.sessions.add(start)
            return
        self.moved_to = start if self.moved_to < 0 else min(start, self.moved_to)
        self.moved_from = max(self.moved_from, before)
        self.sessions.move(before, start)

    def knows(self, start: int) -> bool:
        """Whether columns about earlier sessions are exact for a session with this start.

        Of the tallies, this checks only `sessions`. The caller must also check the other tallies that it sums
        (`Tally.knows`).
        """
        if not self.sessions.knows(start) or self.moved_to < start <= self.moved_from:
            return False
        # `folded_start` may be the old start of a session that has moved. `newest_before` would return this wrong start
        # if `counts` has no start before `start`.
        stale = 0 <= self.moved_to <= self.sessions.folded_start
        return not stale or any(own < start for own, _ in self.sessions.counts)


class Session(Record):
    """A session: counts of its events.

    Events at the session's newest time have separate counts, because most columns of a row use only events before the
    moment. The number of views in a row includes the views at the moment, so views have one count.

    Attributes:
        first: the time of its first event; -1: none yet.
        visit: its start, the time of its first view, cart or purchase; None: none yet.
        rank: the number of the visitor's sessions that started earlier.
        prev_start: the newest start of these sessions; None: there is none. `place` sets `rank` and `prev_start` if the
            visitor's tally of sessions is exact for `visit`.
        views: the number of views so far.
        newest: the time of its newest event; -1: none yet.
        carts, removed, purchases, cents, products: counts before `newest`. The counts at `newest` have the same names
            with `_now`. `cents` is the sum of the cart events' prices in hundredths, `products` the number of different
            products viewed, carted or bought. A product counts at its first such event.
        act: the time of the newest view, cart or purchase before `newest`; None: none.
        act_now: whether there is a view, cart or purchase at `newest`.
    """

    __slots__ = _SESSION

    def __init__(self) -> None:
        self.first = self.newest = -1
        self.visit: int | None = None
        self.rank = self.views = 0
        self.prev_start: int | None = None
        self.carts = self.removed = self.purchases = self.cents = self.products = 0
        self.act: int | None = None
        self.act_now = False
        self.carts_now = self.removed_now = self.purchases_now = self.cents_now = self.products_now = 0

    def place(self, sessions: Tally) -> None:
        """Updates `rank` and `prev_start` from the visitor's tally of sessions, if this tally is exact for `visit`."""
        if self.visit is not None and sessions.knows(self.visit):
            self.rank, self.prev_start = sessions.before(self.visit), sessions.newest_before(self.visit)

    def move_to(self, time: int) -> None:
        """Sets `newest` to a later time. The counts with `_now` are added to the counts before `newest`."""
        self.carts += self.carts_now
        self.removed += self.removed_now
        self.purchases += self.purchases_now
        self.cents += self.cents_now
        self.products += self.products_now
        if self.act_now:
            self.act = self.newest
        self.newest, self.act_now = time, False
        self.carts_now = self.removed_now = self.purchases_now = self.cents_now = self.products_now = 0


class Pair(Record):
    """A product in a session.

    Attributes:
        views: the number of its views in the session so far.
        act: the time of its first view, cart or purchase; None: none yet.
        first_cart: the time of its first cart event; None: none yet.
        purchases: the time of the last purchase of each day, for the newest `PURCHASE_DAYS` days with a purchase.
        moment: the time of the cart event for which the row was made; None: no cart event yet. `first_cart` is before
            `moment` if an earlier cart event has arrived after the row was made.
        in_cart: whether the product is in the cart now. The newest cart event, removal or purchase of the pair decides.
        decided: the time of this newest cart event, removal or purchase; -1: none yet.
        row: the pair's columns at the moment, in the order of `columns.COLUMNS`; None: no cart event yet.
        late: whether the row may differ from the row that the step `process` makes, as far as this was known when the
            row was made. Causes: its cart event was late or of an old day, or its sums over earlier sessions are not
            exact (module `advance`).
    """

    __slots__ = _PAIR

    def __init__(self) -> None:
        self.views = 0
        self.act: int | None = None
        self.first_cart: int | None = None
        self.purchases: list[int] = []
        self.moment: int | None = None
        self.in_cart = False
        self.decided = -1
        self.row: list[Any] | None = None
        self.late = False

    def add_purchase(self, time: int) -> None:
        """Adds a purchase to `purchases`; `time` is in microseconds since 1970."""
        last = {own // DAY_MICROSECONDS: own for own in sorted([*self.purchases, time])}
        self.purchases = sorted(last.values())[-PURCHASE_DAYS:]

    @property
    def shop_days(self) -> tuple[int | None, int | None]:
        """The days on which the shop counts the pair as carted and as bought, as days since 1970; None: not counted.

        As in `features/shop.py`, the pair is bought on the day of its first purchase at or after its first cart event.
        """
        if self.first_cart is None:
            return None, None
        bought = [time // DAY_MICROSECONDS for time in self.purchases if time >= self.first_cart]
        return self.first_cart // DAY_MICROSECONDS, min(bought, default=None)


class Product(Record):
    """A visitor's views and purchases of one product, by session.

    Attributes:
        views: a tally of the sessions in which the product was viewed; each session counts once.
        purchases: a tally of the product's purchases.
    """

    __slots__ = _PRODUCT
    tallies = frozenset({"views", "purchases"})

    def __init__(self) -> None:
        self.views, self.purchases = Tally(), Tally()
