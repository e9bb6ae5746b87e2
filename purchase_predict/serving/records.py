"""What the server remembers: one record per visitor, session, pair, and product of a visitor. None grows with history.

Records are packed as short lists for the stores (`pack`, `unpack`); the order of a class's `__slots__` is that of its
list. Times are microseconds since 1970 (UTC).
"""

import json
from typing import Any, Self

#: Sessions of a visitor, per product and kind of fact, that a tally keeps apart. A question from a session that started
#: before more sessions than this can no longer be answered exactly; it is counted (`overlaps`).
TALLY_SESSIONS = 32

#: The fields of each record in the order of its list, which `summaries` follows, too.
_VISITOR = ("clock", "answered", "sessions_before", "sessions_at", "last_start", "prev_start", "purchases")
_SESSION = (
    *("first", "visit", "rank", "prev_start", "views", "newest"),
    *("carts", "removed", "purchases", "cents", "products", "act"),
    *("carts_now", "removed_now", "purchases_now", "cents_now", "products_now", "act_now"),
)
_PAIR = ("views", "act", "purchase", "moment", "bought", "in_cart", "decided", "row")
_PRODUCT = ("views", "purchases")

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


class Tally:
    """How many facts, such as purchases, each session of a visitor has, so that those of earlier ones can be summed.

    Sessions are known by their rank: how many of the visitor's sessions started before. Sessions may overlap, so a
    question is about the ranks below one's own, not about all so far. The newest sessions are kept apart, older ones as
    one sum.
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
        """The facts of the sessions with a lower rank. Too many where `knows` is false."""
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
        """The record of a text that `pack` made."""
        record = cls.__new__(cls)
        for name, value in zip(cls.__slots__, json.loads(text), strict=True):
            setattr(record, name, Tally(*value) if name in cls.tallies else value)
        return record


class Visitor(Record):
    """A user: the order in which sessions started, and purchases by session.

    Attributes:
        clock: of the newest event; -1 before the first one.
        answered: the newest moment for which a row was made; -1 if there is none.
        sessions_before: sessions that started before `last_start`; `sessions_at` started at it.
        last_start, prev_start: the newest start of a session, and the newest one before that; None if there is none.
        purchases: by session.
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
        """Notes that a session has started; returns how many started before, and when the last of those did."""
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
    """A session: counts of its events before its newest time, and at it.

    Attributes:
        first: of its first event; `visit` of its first view, cart or purchase, None before that.
        rank, prev_start: of its start among the visitor's sessions (`Visitor.start_session`).
        views: up to now.
        newest: the time of its newest event.
        carts, removed, purchases, cents, products: before `newest`; those at it have the ending `_now`. `cents` is the
            sum of the carts' prices, `products` counts the products viewed, carted or bought for the first time.
        act: of the last view, cart or purchase before `newest`; None if there is none.
        act_now: whether there is one at `newest`.
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
        """Makes a later time the newest one: what was at the newest time is then before it."""
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
        views: up to now.
        act: of its first view, cart or purchase; None if there is none.
        purchase: of its last purchase before it was put in the cart; None if there is none.
        moment: of its first cart event; None before that.
        bought: whether it was bought at or after the moment.
        in_cart: whether it is in the cart now, as its newest cart event, removal or purchase says, which was at
            `decided`.
        row: its columns at the moment, in the order of `columns.COLUMNS`; None before that.
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


class Product(Record):
    """A product of a visitor: which sessions viewed it, and its purchases by session."""

    __slots__ = _PRODUCT
    tallies = frozenset({"views", "purchases"})

    def __init__(self) -> None:
        self.views, self.purchases = Tally(), Tally()
