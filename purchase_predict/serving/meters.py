"""The server's metrics in Prometheus's text format: counters, gauges, and quantiles of request durations."""

import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

_PREFIX = "purchase_predict_"
#: The quantiles of the request durations, in percent: whole numbers, so that a rank is exact (`Meters.text`).
_QUANTILES = (50, 90, 99)
#: A route's quantiles are computed from its newest requests, at most this many.
_WINDOW = 1000

#: Name and value of each label.
Labels = tuple[tuple[str, str], ...]

#: Type and help text of each metric, by its name without the prefix.
METRICS = {
    "requests_total": ("counter", "Requests answered, by route and status."),
    "errors_total": ("counter", "Requests that ended with a status of 500 or more, by route."),
    "connections_refused_total": ("counter", "Connections closed immediately because too many were open."),
    "bodies_refused_total": (
        "counter",
        "Requests refused because the bodies of all requests in progress were too large in total.",
    ),
    "request_seconds": (
        "summary",
        "Seconds from request to answer, by route: quantiles over the newest 1000 requests.",
    ),
    "answers_total": ("counter", "Cart events answered, by model version (empty: no version held the alias)."),
    "events_total": ("counter", "Events counted."),
    "events_repeated_total": ("counter", "Repeated events: the same event was counted before."),
    "events_refused_total": ("counter", "Events refused because a field is invalid or the event is too old."),
    "events_late_total": (
        "counter",
        "Late events: when they arrived, a newer event of the same visitor had already arrived.",
    ),
    "carts_late_total": (
        "counter",
        "Carts whose cart event was late: their answers also use the newer events that had already arrived.",
    ),
    "events_after_answer_total": (
        "counter",
        "Events that arrived too late: a simultaneous or later cart event of their visitor was already answered.",
    ),
    "events_earlier_day_total": (
        "counter",
        "Events that arrived too late: a cart event of a later day (of any visitor) was already answered.",
    ),
    "rows_old_day_total": (
        "counter",
        "Answers to carts from a day 3 or more days before the day of the newest event (of any visitor): their columns "
        "about the product may include later events.",
    ),
    "rows_overlapping_total": (
        "counter",
        "Answers whose columns about earlier sessions may be wrong because sessions overlap.",
    ),
    "model_version": ("gauge", "Number of the version that answers, by environment; 0: none."),
    "model_age_seconds": ("gauge", "Seconds since the current version took over, by environment."),
    "model_loads_total": ("counter", "Versions loaded, by environment."),
    "model_load_failures_total": ("counter", "Failed attempts to load a version, by environment."),
    "model_behind": (
        "gauge",
        "1 if the version that answers does not hold the alias, or if the alias's holder is unknown.",
    ),
    "registry_age_seconds": ("gauge", "Seconds since the registry last answered."),
    "shadow_answers_total": ("counter", "Carts that the shadow's version also scored, by version."),
    "shadow_dropped_total": ("counter", "Carts that the shadow's version was too slow to score."),
    "shadow_failures_total": ("counter", "Carts that the shadow's version failed to score."),
    "shadow_difference_total": (
        "counter",
        "Sum of the absolute differences between the probabilities of the two versions.",
    ),
    "shadow_disagreements_total": ("counter", "Carts for which the two versions differ in will_buy."),
    "log_rows_total": ("counter", "Answers written to the log."),
    "log_dropped_total": ("counter", "Answers that could not be written to the log."),
    "state_bytes": ("gauge", "Bytes of the state's files; with Redis, all memory that Redis uses."),
    "state_evicted_keys": ("gauge", "Keys that Redis has evicted since the prediction server started."),
    "state_visitors": ("gauge", "Visitors in the state."),
    "visitors_forgotten_total": (
        "counter",
        "Visitors forgotten after more than retention_days days without an event; always 0 with Redis.",
    ),
    "state_up": ("gauge", "1 if the state can be read."),
    "state_writable": ("gauge", "1 if the last write of events to the state succeeded."),
}


class Meters:
    """Counters and durations; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, Labels], float] = defaultdict(float)
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_WINDOW))

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds `amount` to a counter; `name` is a key of `METRICS`."""
        with self._lock:
            self._counts[name, tuple(labels.items())] += amount

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts an answered request and its duration.

        `route` is the route's pattern, because a path may contain a session id.
        """
        with self._lock:
            self._counts["requests_total", (("route", route), ("status", str(status)))] += 1
            self._counts["errors_total", (("route", route),)] += status >= 500
            self._seconds[route].append(seconds)
            self._counts["request_seconds_sum", (("route", route),)] += seconds
            self._counts["request_seconds_count", (("route", route),)] += 1

    def value(self, name: str, **labels: str) -> float:
        """The value of a counter; 0 if nothing was added to it."""
        with self._lock:
            return self._counts.get((name, tuple(labels.items())), 0.0)

    def text(self, gauges: Iterable[tuple[str, Mapping[str, str], float]]) -> str:
        """All metrics in Prometheus's text format.

        Quantiles follow the nearest-rank method: quantile q of n durations is number ceil(q x n) in ascending order. So
        with fewer than 100 requests, the 0.99 quantile is the longest duration.

        Args:
            gauges: name, labels and current value of each gauge, and of the counters that are kept elsewhere
                (`health.Health`).
        """
        with self._lock:
            samples = [(name, labels, value) for (name, labels), value in self._counts.items()]
            windows = {route: sorted(seconds) for route, seconds in self._seconds.items()}
        samples += [(name, tuple(labels.items()), value) for name, labels, value in gauges]
        for route, seconds in windows.items():
            for percent in _QUANTILES:
                labels = (("route", route), ("quantile", str(percent / 100)))
                rank = -(-percent * len(seconds) // 100)  # rounded up
                samples.append(("request_seconds", labels, seconds[rank - 1]))
        lines = []
        for metric, (kind, says) in METRICS.items():
            own = [sample for sample in samples if sample[0] in (metric, f"{metric}_sum", f"{metric}_count")]
            if not own and kind == "counter":
                own = [(metric, (), 0.0)]
            if own:
                lines += [f"# HELP {_PREFIX}{metric} {says}", f"# TYPE {_PREFIX}{metric} {kind}"]
                lines += [f"{_PREFIX}{name}{_shown(labels)} {value:.17g}" for name, labels, value in own]
        return "\n".join([*lines, ""])


def _shown(labels: Labels) -> str:
    def escaped(text: str) -> str:
        return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels) + "}" if labels else ""
