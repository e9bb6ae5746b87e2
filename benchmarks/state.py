"""Measures the server's state: time per event with a long history, and time and size of filling it for many visitors.

python -m benchmarks.state --visitors 1000000
python -m benchmarks.state --events 0 --redis redis://127.0.0.1:6379/0   # an empty Redis, which is emptied afterwards
"""

import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

import click
import duckdb
import redis

from purchase_predict.database import one_row, quoted
from purchase_predict.serving import warming
from purchase_predict.serving.advance import advance
from purchase_predict.serving.events import Event, microseconds
from purchase_predict.serving.on_sqlite import SqliteState

#: The time of the first event, and the length of a second, in microseconds.
_START = microseconds(datetime(2026, 1, 1))
_SECOND = 1_000_000
#: The retention of the state. It is longer than the time since `_START`, so no visitor is left out and nothing expires.
_RETENTION_DAYS = 30_000


def _long_history(events: int, sessions: int) -> tuple[float, float]:
    """The milliseconds that an event of one visitor takes: medians of the first 1,000 and of the last 1,000 events."""
    with tempfile.TemporaryDirectory() as folder:
        state = SqliteState(Path(folder) / "state")
        seconds = []
        for number in range(events):
            kind = ("view", "view", "view", "cart", "purchase")[number % 5]
            session = f"session-{number * sessions // events}"
            event = Event(_START + number * _SECOND, kind, number % 300, None, "a.b", "acme", 9.99, 1, session)
            begun = time.perf_counter()
            state.change([event], lambda batch, event=event: advance(batch, [event], 10_000))  # type: ignore[misc]
            seconds.append(time.perf_counter() - begun)
        state.close()
    return 1000 * statistics.median(seconds[:1000]), 1000 * statistics.median(seconds[-1000:])


def _write_events(visitors: int, file: Path) -> None:
    """Writes 10 events per visitor, within 30 days. Both sessions have three views, a cart event and a purchase."""
    duckdb.sql(
        f"""COPY (
            SELECT make_timestamp({_START} + day * 86400 * {_SECOND} + (visitor * 7 % 80000 + nth * 20) * {_SECOND}) AS
                    event_time,
                CASE nth % 5 WHEN 3 THEN 'cart' WHEN 4 THEN 'purchase' ELSE 'view' END AS event_type,
                hash(visitor, nth // 2) % 20000 AS product_id, 2053013550000000003 AS category_id,
                'electronics.smartphone' AS category_code, 'brand-' || visitor % 60 AS brand,
                (hash(visitor, nth) % 100000) / 100 AS price, visitor AS user_id,
                md5(visitor || '-' || nth // 5)::UUID::VARCHAR AS user_session
            FROM (SELECT visitor, nth, (visitor + nth // 5 * 3) % 30 AS day
                  FROM range({visitors}) v(visitor), range(10) n(nth))
        ) TO {quoted(file)} (FORMAT parquet)"""
    )


def _redis_bytes(uri: str) -> int:
    """Returns the bytes of memory that Redis uses, and then removes all keys of the database."""
    client = redis.Redis.from_url(uri)
    used = client.info("memory")["used_memory"]
    client.flushdb()
    return int(used)


@click.command()
@click.option("--visitors", default=1_000_000, show_default=True)
@click.option("--events", default=100_000, show_default=True, help="Of one visitor.")
@click.option("--redis", "uri", default="", help="URI of an empty Redis to fill instead of a SQLite file.")
def main(visitors: int, events: int, uri: str) -> None:
    """Measures and prints both."""
    for sessions in (1, events // 50) if events else ():
        first, last = _long_history(events, sessions)
        click.echo(
            f"one visitor, {events} events in {sessions} sessions: first {first:.3f} ms, last {last:.3f} ms an event"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scratch").mkdir()
        _write_events(visitors, folder / "events.parquet")
        (rows,) = one_row(duckdb.connect(), f"SELECT count(*) FROM {quoted(folder / 'events.parquet')}")
        filler = warming.filler_of(uri or folder / "state", _RETENTION_DAYS)
        if filler is None:
            raise click.ClickException("the state is not empty")
        filled = warming.fill(filler, str(folder / "events.parquet"), folder / "scratch", _RETENTION_DAYS, 0)
        size = _redis_bytes(uri) if uri else (folder / "state").stat().st_size
        click.echo(
            f"{filled}: {rows / filled.seconds:,.0f} events a second, {size / filled.visitors:,.0f} bytes a visitor"
        )


if __name__ == "__main__":
    main()
