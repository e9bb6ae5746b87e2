"""The server's records: one per visitor, session, pair, and product of a visitor. A record's size is bounded.

The stores keep a record as a JSON list of its `__slots__`, in their order (`pack`, `unpack`). Times are microseconds
since 1970 (UTC).
"""

import json
from typing import Any, Self

#: The newest sessions in a tally, which have counts of their own. With this many later sessions in it, a session's sum
#: over earlier ones may be too high; such answers are counted (`advance.Counts.overlaps`).
TALLY_SESSIONS = 32

#: The fields of each record, in the order of its list; `summaries` uses the same order.
_VISITOR = ("clock", "answered", "sessions_before", "sessions_at", "last_start", "prev_start", "purchases")
_SESSION = (
    *("first", "visit", "rank", "prev_start", "views", "newest"),
    *("carts", "removed", "purchases", "cents", "products", "act"),
    *("carts_now", "removed_now", "purchases_now", "cents_now", "products_now", "act_now"),
)
_PAIR = ("views", "act", "purchase", "moment", "bought", "in_cart", "decided", "row", "late")
_PRODUCT = ("views", "purchases")

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


class Tally:
    """The number of facts, such as purchases, in each session of a visitor, to be summed over earlier sessions.

    A session is identified by its rank: the number of the visitor's sessions that started before it. Sessions may
    overlap, so a sum covers the lower ranks, not all facts so far. The newest sessions have counts of their own, older
    ones share one sum.
    """

    __slots__ = ("counts", "folded", "folded_rank")

    def __init__(self, folded: int = 0, folded_rank: int = -1, counts: list[list[int]] | None = None) -> None:
        """Args: `counts` are pairs of rank and count; `folded` is the sum of the ranks up to `folded_rank`."""
        self.folded, self.folded_rank, self.counts = folded, folded_rank, counts or []

    def add(self, rank: int) -> None:
        """Counts one fact of the session with this rank."""
        if rank <= self.folded_rank:
            self.folded += 1
            return
        for entry in reversed(self.counts):
            if entry[0] == rank:
                entry[1] += 1
                return
        self.counts.append([rank, 1])
        self.counts.sort()
        if len(self.counts) > TALLY_SESSIONS:
            self.folded_rank, count = self.counts.pop(0)
            self.folded += count

    def before(self, rank: int) -> int:
        """The number of facts in sessions with a lower rank; too high if `knows` is false for the rank."""
        return self.folded + sum(count for own, count in self.counts if own < rank)

    def knows(self, rank: int) -> bool:
        """Whether `before` is exact for this rank."""
        return rank > self.folded_rank

    def pack(self) -> list[Any]:
        """The tally as a list."""
        return [self.folded, self.folded_rank, self.counts] if self.counts or self.folded else []


class Record:
    """A record whose `__slots__` are numbers, texts, flags, lists of them, or tallies (named in `tallies`)."""

    __slots__: tuple[str, ...] = ()
    tallies: frozenset[str] = frozenset()

    def pack(self) -> str:
        """The record as JSON text."""
        values = [getattr(self, name) for name in self.__slots__]
        packed = [value.pack() if isinstance(value, Tally) else value for value in values]
        return _ENCODER.encode(packed)

    @classmethod
    def unpack(cls, text: str | bytes) -> Self:
        """The record from a text that `pack` returned."""
        record = cls.__new__(cls)
        for name, value in zip(cls.__slots__, json.loads(text), strict=True):
            setattr(record, name, Tally(*value) if name in cls.tallies else value)
        return record


class Visitor(Record):
    """A user: the order in which sessions started, and purchases by session.

    Attributes:
        clock: the time of the newest event; -1: none yet.
        answered: the newest moment for which a row was made; -1: none yet.
        sessions_before, sessions_at: the number of sessions that started before `last_start`, and at it.
        last_start, prev_start: the newest start of a session, and the newest start before that; None: none yet.
        purchases: the number of purchases, by session.
    """

    __slots__ = _VISITOR
    tallies = frozenset({"purchases"})

    def __init__(self) -> None:
        self.clock = self.answered = -1
        self.sessions_before = self.sessions_at = 0
        self.last_start: int | None = None
        self.prev_start: int | None = None
        self.purchases = Tally()

    def start_session(self, start: int) -> tuple[int, int | None]:
        """Counts a session that started; returns how many started before it, and the newest of their starts or None."""
        if self.last_start is None or start > self.last_start:
            self.sessions_before += self.sessions_at
            self.prev_start, self.last_start, self.sessions_at = self.last_start, start, 1
        elif start == self.last_start:
            self.sessions_at += 1
        else:  # a late event
            rank, before = self.sessions_before, self.prev_start
            self.sessions_before += 1
            if before is None or start > before:
                self.prev_start = start
                return rank, before
            return max(0, rank - 1), None if start <= before else before
        return self.sessions_before, self.prev_start


class Session(Record):
    """A session: counts of its events, separate for those before its newest time and those at it.

    Attributes:
        first: the time of its first event; -1: none yet.
        visit: the time of its first view, cart or purchase; None: none yet.
        rank, prev_start: what `Visitor.start_session` returned for its start.
        views: the number of views so far.
        newest: the time of its newest event.
        carts, removed, purchases, cents, products: counts before `newest`; the counts at `newest` end in `_now`.
            `cents` is the sum of the carts' prices, `products` the number of products viewed, carted or bought.
        act: the time of the last view, cart or purchase before `newest`; None: none.
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

    def move_to(self, time: int) -> None:
        """Makes a later time the newest one: the counts at the old newest time become counts before it."""
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
        views: the number of views so far.
        act: the time of its first view, cart or purchase; None: none yet.
        purchase: the time of its last purchase that was counted before the first cart event; None: none.
        moment: the time of its first cart event; None: none yet.
        bought: whether it was bought at or after the moment.
        in_cart: whether it is in the cart now, by its newest cart event, removal or purchase.
        decided: the time of that event; -1: none yet.
        row: its columns at the moment, in the order of `columns.COLUMNS`; None: not in the cart yet.
        late: whether the row may include later events: its cart event was late, or of an old day.
    """

    __slots__ = _PAIR

    def __init__(self) -> None:
        self.views = 0
        self.act: int | None = None
        self.purchase: int | None = None
        self.moment: int | None = None
        self.bought = self.in_cart = False
        self.decided = -1
        self.row: list[Any] | None = None
        self.late = False


class Product(Record):
    """A product of a visitor: which sessions viewed it, and its purchases by session."""

    __slots__ = _PRODUCT
    tallies = frozenset({"views", "purchases"})

    def __init__(self) -> None:
        self.views, self.purchases = Tally(), Tally()
