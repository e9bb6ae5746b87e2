"""The work of the HTTP endpoints: counts events, and scores each cart event."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from purchase_predict.serving.advance import Advanced, Counts, advance
from purchase_predict.serving.answer_log import Answer, AnswerLog
from purchase_predict.serving.columns import COLUMNS
from purchase_predict.serving.events import Event, Refused, as_time, parse
from purchase_predict.serving.follower import Follower
from purchase_predict.serving.meters import Meters
from purchase_predict.serving.records import Pair
from purchase_predict.serving.shadow import Shadow
from purchase_predict.serving.state import Batch, State, Unavailable

#: The retention for /try in days, about 2,700 years: the events of a try-out may be of any age.
_ANY_AGE = 10**6
#: Maximum number of events in a request.
MAX_EVENTS = 1000
#: /carts returns at most this many products for one session id. A product that several visitors put in the cart counts
#: once for each of them.
MAX_CARTS = 1000
#: For each metric (a key of `meters.METRICS`), the attribute of `advance.Counts` that is added to the metric.
_METERS = {
    "events_total": "counted",
    "events_repeated_total": "repeated",
    "events_late_total": "late",
    "carts_late_total": "late_carts",
    "events_after_answer_total": "after_answer",
    "events_earlier_day_total": "earlier_day",
    "rows_old_day_total": "old_day_rows",
    "rows_overlapping_total": "overlaps",
}


@dataclass
class Service:
    """Counts events and scores carts. Its methods may be called from several threads.

    Attributes:
        state: the store of the visitors' state.
        follower: holds the model version that answers.
        meters: the counters behind /metrics.
        retention_days: an event is refused if its day is more than this many days before the newest event's day.
        log: the log of answers; None: no log.
        shadow: scores carts with a second environment's version, for log and metrics only; None: off.
        unwritten: why new events could not be counted at the last attempt; empty if they were counted.
    """

    state: State
    follower: Follower
    meters: Meters
    retention_days: int
    log: AnswerLog | None = None
    shadow: Shadow | None = None
    unwritten: str = ""

    def count(self, raw: Sequence[object], *, wait: bool = True) -> dict[str, Any]:
        """Counts events, and scores each cart event among them.

        Args:
            raw: the events as JSON values.
            wait: whether to wait while another thread or process uses a local state.

        Returns:
            A dict. `events` is the number of new events, `repeated` the number of repeated events. `refused` lists the
            refused events, each with position, field, value and reason. `answers` lists one answer for each cart event
            that was not refused.

        Raises:
            Unavailable: the state cannot be read or written. The client can send the events again.
            Busy: the state is in use, and `wait` is false. Nothing was counted.
        """
        positions, events, refused = _parsed(raw)
        done = self._written(events, wait) if events else Advanced()
        refused += [_too_old(positions[place], events[place], self.retention_days) for place in done.too_old]
        self._meter(done.counts, len(refused))
        answers = self._answers(positions, events, done)
        refused.sort(key=lambda entry: int(entry["event"]))
        return {
            "events": done.counts.counted,
            "repeated": done.counts.repeated,
            "refused": refused,
            "answers": answers,
        }

    def _written(self, events: Sequence[Event], wait: bool) -> Advanced:
        try:
            done = self.state.change(events, lambda batch: advance(batch, events, self.retention_days), wait=wait)
        except Unavailable as error:
            self.unwritten = str(error)
            raise
        if done.counts.counted:  # without new events, nothing is written, and writing may still fail
            self.unwritten = ""
        return done

    def try_out(self, raw: Sequence[object]) -> dict[str, Any]:
        """Like `count`, but changes neither state, metrics nor log.

        Events may be of any age, and events that were counted before count again. The answers have the columns and SHAP
        values, but no `late`.

        Raises:
            Unavailable: the state cannot be read or locked.
        """
        positions, events, refused = _parsed(raw)

        def work(batch: Batch) -> Advanced:
            batch.seen.clear()  # a visit that was counted before may be tried
            done = advance(batch, events, _ANY_AGE)
            batch.counted = []
            batch.added = {}
            return done

        done = self.state.change(events, work) if events else Advanced()
        found = [(events[place].user, events[place].session, pair) for place, pair in done.carts.items()]
        shown = self._of_pairs(found, why=True)
        answers = [{"event": positions[place], **answer} for place, answer in zip(done.carts, shown, strict=True)]
        return {"events": done.counts.counted, "repeated": done.counts.repeated, "refused": refused, "answers": answers}

    def cart(self, session: str, why: bool = False) -> dict[str, Any]:
        """The products that are now in a session's cart. The current version scores each product's row (`Pair.row`).

        Args:
            session: the session's id.
            why: whether each answer has SHAP values.

        Returns:
            `user_session` (the id), `carts` (the answers), and `complete`. Several visitors may share a session id:
            `carts` then holds the products of all of them. At most `MAX_CARTS` products of an id are returned. If there
            are more, as for an id like `undefined`, `complete` is false.

        Raises:
            Unavailable: the state cannot be read.
        """
        found = self.state.carts(session, MAX_CARTS + 1)
        pairs = [(user, session, pair) for user, _, pair in found[:MAX_CARTS] if pair.in_cart]
        return {
            "user_session": session,
            "complete": len(found) <= MAX_CARTS,
            "carts": self._of_pairs(pairs, why=why),
        }

    def _answers(self, positions: list[int], events: list[Event], done: Advanced) -> list[dict[str, Any]]:
        if not done.carts:
            return []
        scorer = self.follower.scorer
        pairs = list(done.carts.values())
        rows = [pair.row or [] for pair in pairs]
        scored: Sequence[tuple[float | None, int | None]] = scorer.score(rows) if scorer else [(None, None)] * len(rows)
        version = scorer.version if scorer else ""
        self.meters.add("answers_total", len(rows), version=version)
        now = time.time_ns() // 1000
        answers = []
        for (place, pair), row, (probability, will_buy) in zip(done.carts.items(), rows, scored, strict=True):
            event = events[place]
            answers.append(
                {
                    "event": positions[place],
                    "user_id": event.user,
                    "user_session": event.session,
                    "product_id": event.product,
                    "moment": _shown(pair.moment or 0),
                    "probability": probability,
                    "will_buy": will_buy,
                    "model_version": version or None,
                    "missing": scorer.missing(row) if scorer else [],
                    "late": pair.late,
                }
            )
            self._log(
                Answer(
                    now,
                    event.user,
                    event.session,
                    event.product,
                    pair.moment or 0,
                    pair.late,
                    row,
                    probability,
                    will_buy,
                    version,
                )
            )
        return answers

    def _of_pairs(self, found: Sequence[tuple[int, str, Pair]], why: bool) -> list[dict[str, Any]]:
        """The answers for pairs that have a row.

        Each entry of `found` has a user, a session id and the pair's record.
        """
        scorer = self.follower.scorer
        rows = [pair.row or [] for _, _, pair in found]
        scored: Sequence[tuple[float | None, int | None]] = [(None, None)] * len(rows)
        contributions: Sequence[dict[str, float]] = []
        if scorer and rows:
            scored = scorer.score(rows)
            contributions = scorer.contributions(rows) if why else []
        answers: list[dict[str, Any]] = [
            {
                "user_id": user,
                "user_session": session,
                "product_id": row[COLUMNS.index("product_id")],
                "moment": _shown(pair.moment or 0),
                "probability": probability,
                "will_buy": will_buy,
                "model_version": scorer.version if scorer else None,
                "missing": scorer.missing(row) if scorer else [],
                "columns": dict(zip(COLUMNS, row, strict=True)),
            }
            for (user, session, pair), row, (probability, will_buy) in zip(found, rows, scored, strict=True)
        ]
        for answer, values in zip(answers, contributions, strict=False):
            answer["contributions"] = values
        return answers

    def _log(self, answer: Answer) -> None:
        if self.shadow:
            self.shadow.add(answer)
        elif self.log:
            self.log.add(answer)

    def _meter(self, counts: Counts, refused: int) -> None:
        for name, field in _METERS.items():
            if amount := getattr(counts, field):
                self.meters.add(name, amount)
        if refused:
            self.meters.add("events_refused_total", refused)


def _parsed(raw: Sequence[object]) -> tuple[list[int], list[Event], list[dict[str, Any]]]:
    """Checks raw events. Returns the positions of the valid events, these events, and the refusals of the others."""
    now = datetime.now(UTC)
    positions, events, refused = [], [], []
    for position, value in enumerate(raw):
        try:
            events.append(parse(value, now))
            positions.append(position)
        except Refused as error:
            refused.append(_refusal(position, error))
    return positions, events, refused


def _too_old(position: int, event: Event, retention_days: int) -> dict[str, Any]:
    reason = f"must be at most {retention_days} days older than the newest event (retention_days)"
    return _refusal(position, Refused("event_time", _shown(event.time), reason))


def _refusal(position: int, error: Refused) -> dict[str, Any]:
    return {"event": position, "field": error.field, "value": error.value, "reason": error.reason}


def _shown(time: int) -> str:
    return as_time(time).replace(tzinfo=None).isoformat() + "Z"
