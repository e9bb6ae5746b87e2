"""The answers to events, without a model."""

from types import SimpleNamespace
from typing import Any

import pytest

from purchase_predict.serving.meters import Meters
from purchase_predict.serving.service import Service
from tests.serving.conftest import OpenState
from tests.serving.visits import ALL_DAYS


def raw(time: str, kind: str, user: int = 1) -> dict[str, Any]:
    return {"event_time": time, "event_type": kind, "product_id": 1, "user_id": user, "user_session": "s"}


@pytest.mark.parametrize(
    "before", [raw("2019-10-07 12:00:09", "view"), raw("2019-10-17 12:00:09", "view", user=2)], ids=["late", "old day"]
)
def test_a_cart_event_that_is_sent_again_gets_the_mark_of_its_first_answer(
    before: dict[str, Any], open_state: OpenState
) -> None:
    """Another server gives the same mark. So does a later cart event of the pair: its answer has the first row."""
    follower: Any = SimpleNamespace(scorer=None)
    servers = [Service(open_state(), follower, Meters(), ALL_DAYS) for _ in range(2)]
    cart, later = raw("2019-10-07 12:00:05", "cart"), raw("2019-10-17 12:00:11", "cart")
    servers[0].count([before])
    first = servers[0].count([cart])["answers"]
    assert [answer["late"] for answer in first] == [True]
    for server in servers:
        assert server.count([cart])["answers"] == first
    assert [answer["late"] for answer in servers[1].count([later, cart])["answers"]] == [True, True]
    on_time = raw("2019-10-17 12:00:12", "cart", user=3)
    for server in servers:
        assert [answer["late"] for answer in server.count([on_time])["answers"]] == [False]
