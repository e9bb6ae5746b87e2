"""A state filled from past events equals the state of a server that has counted the same events one by one."""

import json
import sqlite3
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pyarrow.parquet as pq
import pytest
import redis

from purchase_predict.schema import PRIMARY
from purchase_predict.serving import filling_sqlite, records, summaries, warming
from purchase_predict.serving.events import Event
from purchase_predict.serving.on_redis import PREFIX, RedisState
from purchase_predict.serving.on_sqlite import SqliteState
from purchase_predict.sources import sample
from tests.features import reference
from tests.features.shops import events_table, many_shops
from tests.serving.redis_server import RedisServer
from tests.serving.visits import ALL_DAYS, arriving, as_loaded, counted, sent


def written(events: list[reference.Event], folder: Path) -> str:
    """Writes a source with these events; returns its path."""
    pq.write_table(events_table(events), folder / "events.parquet")
    return str(folder / "events.parquet")


def fill(place: str | Path, source: str, scratch: Path, retention_days: int = ALL_DAYS) -> warming.Filled:
    scratch.mkdir()
    filler = warming.filler_of(place, retention_days)
    assert filler
    return warming.fill(filler, source, scratch, retention_days, 0)


def in_sqlite(path: Path) -> dict[str, Any]:
    """The contents of a SQLite state, by table."""
    with sqlite3.connect(path) as connection:
        ids = {
            number: (session, user)
            for number, session, user in connection.execute("SELECT id, session, user FROM sessions")
        }
        ask = connection.execute
        return {
            "visitors": {user: json.loads(record) for user, record in ask("SELECT user, record FROM visitors")},
            "sessions": {key[:2]: json.loads(key[2]) for key in ask("SELECT session, user, record FROM sessions")},
            "pairs": {
                (*ids[number], product): json.loads(record) for number, product, record in ask("SELECT * FROM pairs")
            },
            "carts": set(ask("SELECT * FROM carts")),
            "products": {
                (user, product): json.loads(record) for user, product, record in ask("SELECT * FROM products")
            },
            "seen": set(ask("SELECT * FROM seen")),
            "product_days": _folded({row[:2]: row[2:] for row in ask("SELECT * FROM product_days")}),
            "shop_days": _folded({(0, row[0]): row[1:] for row in ask("SELECT * FROM shop_days")}),
        }


def _folded(days: dict[tuple[int, int], tuple[int, ...]]) -> dict[tuple[int, int], tuple[int, ...]]:
    """Counters, with the days before the newest 3 days of the table summed under day -1.

    A server that counts events one by one sums a product's old days only at the product's next event.
    """
    newest = max((day for _, day in days), default=0)
    folded: dict[tuple[int, int], tuple[int, ...]] = {}
    for (product, day), counters in days.items():
        key = product, day if day > newest - 3 else -1
        before = folded.get(key, (0,) * len(counters))
        folded[key] = tuple(map(sum, zip(before, counters, strict=True)))
    return folded


def one_by_one(events: list[reference.Event], path: Path) -> None:
    state = SqliteState(path)
    sent(state, arriving(events))
    state.close()


def test_every_record_is_the_same(tmp_path: Path) -> None:
    events = as_loaded(many_shops(500))
    events = [event for event in events if event.user_session is not None]
    fill(tmp_path / "filled", written(events, tmp_path), tmp_path / "scratch")
    one_by_one(events, tmp_path / "counted")
    filled, one_by_one_ = in_sqlite(tmp_path / "filled"), in_sqlite(tmp_path / "counted")
    for table, rows in one_by_one_.items():
        assert filled[table] == rows, table
        assert rows, table


def test_so_it_is_for_a_visitor_with_more_sessions_than_a_tally_keeps_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "TALLY_SESSIONS", 4)
    for name in ("PRODUCT_RECORDS", "VISITOR_RECORDS"):
        query = getattr(summaries, name)
        assert "<= 32 AS kept" in query
        monkeypatch.setitem(warming._RECORDS, name.lower(), query.replace("<= 32 AS kept", "<= 4 AS kept"))
    events = [
        reference.Event(
            event.event_time, event.event_type, event.product_id, None, None, None, 1.0, 1, f"{event.user_id}"
        )
        for event in many_shops(60)
        if event.event_type in ("view", "purchase")
    ]
    fill(tmp_path / "filled", written(events, tmp_path), tmp_path / "scratch")
    one_by_one(events, tmp_path / "counted")
    for table in ("visitors", "products"):
        assert in_sqlite(tmp_path / "filled")[table] == in_sqlite(tmp_path / "counted")[table], table


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_events_that_follow_are_answered_as_if_the_server_had_seen_all(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The first 2,000 of 4,000 events fill the state. Their last 500 are then sent again, before the other 2,000."""
    place: str | Path = tmp_path / "state"
    if store == "redis":
        place = request.getfixturevalue("redis_server").uri
        redis.Redis.from_url(str(place)).flushall()
    table = sample.events(4000)
    pq.write_table(table.slice(0, 2000), tmp_path / "before.parquet")
    fill(place, str(tmp_path / "before.parquet"), tmp_path / "scratch")
    events = arriving([reference.Event(**row) for row in table.to_pylist()])
    whole = SqliteState(":memory:")
    rows = sent(whole, events)
    state = RedisState(place, ALL_DAYS) if isinstance(place, str) else SqliteState(place)
    for start in range(1500, 4000, 50):
        some = events[start : start + 50]
        done = counted(state, some)
        assert (done.counts.repeated == 50) == (start < 2000)
        for position, pair in done.carts.items():
            event = some[position]
            assert pair.row == list(rows[event.user, event.session, event.product].values())
    for opened in (state, whole):
        opened.close()


def test_visitors_beyond_the_retention_are_left_out_but_count_for_the_shop(tmp_path: Path) -> None:
    table = sample.events(3000)
    pq.write_table(table, tmp_path / "events.parquet")
    all_ = fill(tmp_path / "all", str(tmp_path / "events.parquet"), tmp_path / "scratch-all")
    few = fill(tmp_path / "few", str(tmp_path / "events.parquet"), tmp_path / "scratch-few", retention_days=10)
    assert 0 < few.visitors < all_.visitors
    held, all_held = in_sqlite(tmp_path / "few"), in_sqlite(tmp_path / "all")
    assert held["shop_days"] == all_held["shop_days"]
    assert held["visitors"] == {user: all_held["visitors"][user] for user in held["visitors"]}
    newest = max(time for _, time, _ in all_held["seen"]) // 86_400_000_000
    assert held["seen"] == {key for key in all_held["seen"] if key[1] // 86_400_000_000 >= newest - 10}


def long_ago(folder: Path) -> str:
    """Writes a source whose newest day is 2019-10-07; returns its path.

    A user's number is the number of days between the user's session "s" and this day: 0, 80, 90 or 91. User 0 also has
    sessions 89 and 500 days before this day, and removes a product on the day after.
    """
    days = [(0, 0, "s"), (0, 89, "old"), (0, 500, "oldest"), (80, 80, "s"), (90, 90, "s"), (91, 91, "s")]
    events = [
        reference.Event(datetime(2019, 10, 7, 12) - timedelta(days), kind, 7, None, None, None, 1.0, user, session)
        for user, days, session in days
        for kind in ("view", "cart")
    ]
    events += [events[0]._replace(event_type="remove_from_cart", event_time=datetime(2019, 10, 8), user_id=0)]
    return written(events, folder)


def test_a_visitor_of_a_file_is_kept_for_the_retention_after_its_own_newest_event(tmp_path: Path) -> None:
    """The source's newest day counts as today."""
    fill(tmp_path / "state", long_ago(tmp_path), tmp_path / "scratch", retention_days=90)
    state, now = SqliteState(tmp_path / "state"), time.time()
    left: dict[int, list[int]] = {}
    for later in (0, 1, 2, 11, 12, 91, 92):
        with mock.patch.object(time, "time", return_value=now + later * 86_400):
            state.forget(90, lambda _: None)
        left[later] = [user for _, user in in_sqlite(tmp_path / "state")["sessions"]]
    state.close()
    assert {later: sorted(set(users)) for later, users in left.items()} == {
        0: [0, 80, 90],
        1: [0, 80, 90],
        2: [0, 80],
        11: [0, 80],
        12: [0],
        91: [0],
        92: [],
    }


def test_a_key_of_redis_expires_as_if_it_had_been_written_on_the_day_of_its_newest_event(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    client = redis.Redis.from_url(redis_server.uri)
    client.flushall()
    fill(redis_server.uri, long_ago(tmp_path), tmp_path / "scratch", retention_days=90)
    ages = {
        key.decode().removeprefix(PREFIX): 92 - round(client.ttl(key) / 86_400)
        for key in client.scan_iter()
        if client.ttl(key) != -1
    }
    day = (datetime(2019, 10, 7) - datetime(1970, 1, 1)).days
    assert ages == {
        **{f"{kind}:{user}": user for kind in ("visitor", "products") for user in (0, 80, 90)},
        **{f"session:{user}:s": user for user in (0, 80, 90)},
        **{f"seen:{user}:{day - user}": user for user in (0, 80, 90)},
        **{
            "session:0:old": 89,
            "carts:old": 89,
            "session:0:oldest": 90,
            "carts:oldest": 90,
            f"seen:0:{day - 89}": 89,
            f"seen:0:{day + 1}": 0,
            "carts:s": 0,
        },
    }


def test_the_digest_of_a_seen_event_is_the_servers_own_in_sql(tmp_path: Path) -> None:
    odd = [1e-7, 0.1 + 0.2, 123456789.125, 5e-324, 99999999999.99, 1e11, 100.0]
    events = [
        reference.Event(many_shops(1)[0].event_time, "view", number, -5, "naïve.ünï🎁", "a|b", price, -3, 's"\\\n🎁')
        for number, price in enumerate(odd)
    ]
    fill(tmp_path / "filled", written(events, tmp_path), tmp_path / "scratch")
    assert in_sqlite(tmp_path / "filled")["seen"] == {(e.user, e.time, e.digest) for e in arriving(events)}


def test_a_state_that_holds_something_is_left_alone(tmp_path: Path, redis_server: RedisServer) -> None:
    """A removal is also tried, because it adds a visitor, but changes no counter of the shop."""
    for kind in ("view", "remove_from_cart"):
        redis.Redis.from_url(redis_server.uri).flushall()
        for place in (tmp_path / kind, redis_server.uri):
            state = RedisState(place, 9) if isinstance(place, str) else SqliteState(place)
            counted(state, [Event(0, kind, 1, None, None, None, None, 1, "s")])
            state.close()
            assert warming.filler_of(place, 9) is None


def test_an_empty_state_is_filled(tmp_path: Path) -> None:
    SqliteState(tmp_path / "state").close()
    filled = fill(tmp_path / "state", "sample:1000", tmp_path / "scratch")
    assert filled.events == 1000
    assert len(in_sqlite(tmp_path / "state")["visitors"]) == filled.visitors


def test_what_fails_on_its_way_leaves_no_half_filled_state(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis.Redis.from_url(redis_server.uri)
    client.flushall()
    for number, place in enumerate((tmp_path / "state", redis_server.uri)):
        filler = warming.filler_of(place, 90)
        assert filler

        def fails(*_: object) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr(filler, "put_days", fails)
        (tmp_path / f"scratch-{number}").mkdir()
        with pytest.raises(click.ClickException, match=r"^the state cannot be filled: No space left on device$"):
            warming.fill(filler, "sample:1000", tmp_path / f"scratch-{number}", 90, 0)
    assert not [path for path in tmp_path.iterdir() if "state" in path.name]
    assert client.keys() == []


def test_a_source_that_cannot_be_read_leaves_no_half_filled_state(tmp_path: Path, redis_server: RedisServer) -> None:
    client = redis.Redis.from_url(redis_server.uri)
    client.flushall()
    for number, place in enumerate((tmp_path / "state", redis_server.uri)):
        with pytest.raises(click.ClickException, match=r"nothing\.csv"):
            fill(place, str(tmp_path / "nothing.csv"), tmp_path / f"scratch-{number}")
    assert not [path for path in tmp_path.iterdir() if "state" in path.name]
    assert client.keys() == []


def test_a_primary_table_fills_no_state(tmp_path: Path) -> None:
    columns = [column.name for column in PRIMARY]
    values = ["a" if column.type == "VARCHAR" else "1" for column in PRIMARY]
    primary = f"{','.join(columns)}\n{','.join(values)}\n"
    (tmp_path / "primary.csv").write_text(primary)
    with pytest.raises(click.ClickException, match="holds the primary table, but warm needs the events table"):
        fill(tmp_path / "state", str(tmp_path / "primary.csv"), tmp_path / "scratch")


def test_a_filler_that_was_killed_leaves_a_file_that_the_next_one_does_not_take_for_the_state(tmp_path: Path) -> None:
    filler = filling_sqlite.SqliteFiller.of_empty(tmp_path / "state")
    assert filler
    filler.put("visitor_records", [(1, 1, "[]")])
    filler._connection.execute("COMMIT")
    filler._connection.close()
    assert not (tmp_path / "state").exists()
    assert in_sqlite(tmp_path / "state.filling")["visitors"]
    fill(tmp_path / "state", "sample:1000", tmp_path / "scratch")
    assert 1 not in in_sqlite(tmp_path / "state")["visitors"]
    assert [path.name for path in tmp_path.iterdir() if "filling" in path.name] == []
