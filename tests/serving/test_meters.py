"""The metrics in Prometheus's text format, as Prometheus's own parser reads them."""

from dataclasses import fields

import pytest
from prometheus_client.parser import text_string_to_metric_families

from purchase_predict.serving import service
from purchase_predict.serving.advance import Counts
from purchase_predict.serving.meters import METRICS, Meters


def samples(
    meters: Meters, *gauges: tuple[str, dict[str, str], float]
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = list(text_string_to_metric_families(meters.text(gauges)))
    assert all(family.documentation and family.type in ("counter", "gauge", "summary") for family in families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_counters_gauges_and_quantiles_are_read_by_prometheus() -> None:
    meters = Meters()
    for number in range(100):
        meters.request("/events", 200 if number else 503, (number + 1) / 1000)
    meters.add("events_total", 7)
    meters.add("answers_total", version='3"\\\n')
    found = samples(meters, ("state_bytes", {}, 12345678901.0), ("model_version", {"env": "production"}, 3.0))
    route = (("route", "/events"),)
    assert found["purchase_predict_requests_total", (*route, ("status", "200"))] == 99
    assert found["purchase_predict_errors_total", route] == 1
    assert found["purchase_predict_request_seconds_count", route] == 100
    assert found["purchase_predict_request_seconds", (("quantile", "0.5"), *route)] == 0.05
    assert found["purchase_predict_request_seconds", (("quantile", "0.99"), *route)] == 0.099
    assert found["purchase_predict_events_total", ()] == 7
    assert found["purchase_predict_answers_total", (("version", '3"\\\n'),)] == 1
    assert found["purchase_predict_state_bytes", ()] == 12345678901
    assert found["purchase_predict_model_version", (("env", "production"),)] == 3


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([0.001] * 3 + [5.0], [0.001, 5.0, 5.0]),
        ([2.0], [2.0, 2.0, 2.0]),
        ([1.0, 2.0], [1.0, 2.0, 2.0]),
        ([float(number) for number in range(1, 201)], [100.0, 180.0, 198.0]),
    ],
)
def test_a_quantile_is_the_nearest_rank(seconds: list[float], expected: list[float]) -> None:
    meters = Meters()
    for one in reversed(seconds):
        meters.request("/events", 200, one)
    found = samples(meters)
    names = [(("quantile", quantile), ("route", "/events")) for quantile in ("0.5", "0.9", "0.99")]
    assert [found["purchase_predict_request_seconds", name] for name in names] == expected


def test_a_counter_is_there_before_it_has_counted() -> None:
    names = {name for name, _ in samples(Meters())}
    assert names == {f"purchase_predict_{name}" for name, (kind, _) in METRICS.items() if kind == "counter"}


def test_every_count_of_events_and_rows_is_a_metric() -> None:
    assert sorted(service._METERS.values()) == sorted(field.name for field in fields(Counts))
    assert {METRICS[name][0] for name in service._METERS} == {"counter"}
