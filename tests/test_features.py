"""Features against the plain-Python reference, on small random shops, and against the future."""

from datetime import datetime, timedelta
from typing import Any

import duckdb
import ibis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purchase_predict import features
from purchase_predict.schema import BEHAVIOUR, EVENTS, FEATURES, KEYS, LABEL, MOMENT
import reference
from reference import Event

MIDNIGHT = datetime(2019, 10, 7)  # a Monday's
KINDS = ("view", "view", "cart", "cart", "remove_from_cart", "purchase")

#: Few seconds and few ids around midnight, so that ties, repetitions, shared ids and visits at once are the rule.
EVENT = st.builds(
    Event,
    st.integers(-6, 6).map(lambda seconds: MIDNIGHT + timedelta(seconds=seconds)),
    st.sampled_from(KINDS),
    st.integers(1, 3),
    st.sampled_from([None, 7, 8]),
    st.sampled_from([None, "electronics", "electronics.audio", "a.b.c.d", ".", "a.", ".b", "a..b", "", "naïve.ünï"]),
    st.sampled_from([None, "acme", "Zeta", ""]),
    st.one_of(
        st.none(), st.sampled_from([0.0, 0.005, 1.005, 0.125, 9.99]), st.floats(0, 1e6).map(lambda x: round(x, 3))
    ),
    st.integers(1, 2),
    st.sampled_from([None, "s1", "s1", "s2", "s3"]),
)
SHOPS = st.lists(EVENT, max_size=40)
PROPERTY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def on_duckdb(events: list[Event]) -> list[dict[str, Any]]:
    """The primary table that the project makes of these events, in the order of the reference."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'America/New_York'")
        connection.execute(f"CREATE TABLE raw ({', '.join(f'{column.name} {column.type}' for column in EVENTS)})")
        if events:
            connection.executemany(f"INSERT INTO raw VALUES ({', '.join('?' * len(EVENTS))})", events)
        connection.execute(f"CREATE TABLE events AS {features.usable_sql('duckdb', 'raw')}")
        result = connection.execute(f"FROM ({features.primary_sql('duckdb', 'events')}) ORDER BY {', '.join(KEYS)}")
        names = [name for name, *_ in result.description or []]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


@PROPERTY
@given(SHOPS)
def test_every_column_is_what_plain_python_computes(events: list[Event]) -> None:
    assert on_duckdb(events) == reference.primary(events)
