"""Checks raw events from clients field by field, by the rules that `load` applies to a source."""

import hashlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from purchase_predict.schema import EVENT_TYPES, EVENTS, TYPES

#: An event more than this many days ahead of the server's clock is refused. A wrong year would otherwise move the
#: state's newest day, which decides which events are too old.
FUTURE_DAYS = 1
#: Maximum number of characters of a text field. Real session ids and category codes have up to about 40 characters.
MAX_TEXT = 500

DAY_MICROSECONDS = 86_400 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,6})?)(?: ?(?:UTC|Z)|([+-]\d\d:?\d\d))?")
_INT64 = 2**63
#: Values of a field that count as null, as they do in `load`: null in JSON, and the empty text (null in CSV).
_EMPTY = (None, "")
_NAMES = tuple(column.name for column in EVENTS)
_REASONS = {column.name: column.reason or TYPES[column.type].reason for column in EVENTS}
_REQUIRED = frozenset(column.name for column in EVENTS if column.required)


class Event(NamedTuple):
    """A checked event: the columns of the events table, with `time` in microseconds since 1970 (UTC)."""

    time: int
    kind: str
    product: int
    category_id: int | None
    category_code: str | None
    brand: str | None
    price: float | None
    user: int
    session: str

    @property
    def day(self) -> int:
        """The day (UTC), as days since 1970."""
        return self.time // DAY_MICROSECONDS

    @property
    def digest(self) -> int:
        """A signed 64-bit hash of all columns except user and time. User, time and digest identify an event.

        The hash is the last 8 bytes of the MD5 of a text. Events that differ in a hashed column have different texts.
        `summaries.SEEN_EVENTS` computes the same hash in SQL.
        """
        code, brand = self.category_code, self.brand
        text = (
            f"{self.kind}|{self.product}|{_or_empty(self.category_id)}|{_or_empty(self.price)}|"
            f"{-1 if code is None else len(code)}|{-1 if brand is None else len(brand)}|"
            f"{code or ''}{brand or ''}{self.session}"
        )
        return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little", signed=True)


class Refused(Exception):
    """An event breaks a rule.

    Attributes:
        field: the name of the field; "event" if the event is not a JSON object.
        value: the first 100 characters of the field's value. If the event is not an object, the name of the event's
            Python type. If the value is nested too deeply, the name of the value's Python type.
        reason: what the field must be.
    """

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        try:
            shown = value if isinstance(value, str) else repr(value)
        except RecursionError:  # `repr` fails on a value that is nested very deeply
            shown = type(value).__name__
        self.field, self.value, self.reason = field, shown[:100].encode(errors="replace").decode(), reason


def parse(raw: object, now: datetime) -> Event:
    """Checks a raw event. Its fields are the nine columns of the events table; other fields are ignored.

    Args:
        raw: a JSON value, which should be an object. Nullable columns may be absent. Numbers may be given as text.
        now: the server's time, UTC.

    Raises:
        Refused: a field is wrong, or `raw` is not an object.
    """
    if not isinstance(raw, Mapping):
        raise Refused("event", type(raw).__name__, "must be an object with the columns of the events table")
    for name in _NAMES:
        if name in _REQUIRED and raw.get(name) in _EMPTY:
            raise Refused(name, "", "must not be empty")
    kind = raw["event_type"]
    if not isinstance(kind, str) or kind not in EVENT_TYPES:
        raise Refused("event_type", kind, _REASONS["event_type"])
    return Event(
        _time(raw["event_time"], now),
        kind,
        _whole(raw, "product_id"),
        None if raw.get("category_id") in _EMPTY else _whole(raw, "category_id"),
        _text(raw, "category_code"),
        _text(raw, "brand"),
        _price(raw.get("price")),
        _whole(raw, "user_id"),
        _text(raw, "user_session") or "",
    )


def microseconds(time: datetime) -> int:
    """A time in microseconds since 1970 (UTC), without rounding. A time without a zone counts as UTC."""
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def as_time(time: int) -> datetime:
    """Converts microseconds since 1970 to a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=time)


def _or_empty(value: object) -> str:
    return "" if value is None else str(value)


def _time(value: object, now: datetime) -> int:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise Refused("event_time", value, f"{_REASONS['event_time']} and be written as 2019-10-07 12:30:05 UTC")
    try:
        time = microseconds(datetime.fromisoformat(f"{match[1]}T{match[2]}{match[3] or '+00:00'}"))
    except (ValueError, OverflowError):
        raise Refused("event_time", value, "must be a UTC time") from None
    if time < 0 or not "1970" <= match[1] < "2100":
        raise Refused("event_time", value, _REASONS["event_time"])
    if time > microseconds(now) + FUTURE_DAYS * DAY_MICROSECONDS:
        raise Refused("event_time", value, f"must be at most {FUTURE_DAYS} day ahead of this server's clock")
    return time


def _whole(raw: Mapping[str, Any], name: str) -> int:
    value = raw[name]
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,19}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -_INT64 <= value < _INT64:
        raise Refused(name, value, "must be a whole number")
    return value


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value in _EMPTY:
        return None
    if not isinstance(value, str):
        raise Refused(name, value, "must be text")
    if len(value) > MAX_TEXT:
        raise Refused(name, value, f"must be at most {MAX_TEXT} characters long")
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can contain
        raise Refused(name, value, "must be text") from None
    return value


def _price(value: object) -> float | None:
    if value in _EMPTY:
        return None
    try:
        # `float` would also accept "1_000", " 1 " and a bool.
        wrong = isinstance(value, bool) or (isinstance(value, str) and not re.fullmatch(r"[-+.0-9eE]+", value))
        price = math.nan if wrong or not isinstance(value, (int, float, str)) else float(value)
    except (ValueError, OverflowError):
        price = math.nan
    if not 0 <= price < 1e12:
        raise Refused("price", value, _REASONS["price"])
    return price + 0.0  # -0.0 and 0.0 are the same price
