"""What the server does with a request, without HTTP: events are counted, carts are answered."""

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
from purchase_predict.serving.scorer import Scorer
from purchase_predict.serving.shadow import Shadow
from purchase_predict.serving.state import Batch, State, Unavailable

#: A try-out may have events of any time.
_ANY_AGE = 10**6
_METERS = {
    "events_total": "counted",
    "events_repeated_total": "repeated",
    "events_late_total": "late",
    "carts_late_total": "late_carts",
    "events_after_answer_total": "after_answer",
    "rows_overlapping_total": "overlaps",
}


@dataclass
class Service:
    """The parts of the server. Its methods may be called from several threads.

    Attributes:
        state: what is remembered of the visitors.
        follower: the environment whose version answers.
        meters: what is counted.
        retention_days: how far back the state reaches.
        log: where answers are logged; None: nowhere.
        shadow: the scorer of the second environment, for the log only; None: there is none.
        unwritten: why the last request with events could not be written; empty if it was.
    """

    state: State
    follower: Follower
    meters: Meters
    retention_days: int
    log: AnswerLog | None = None
    shadow: Shadow | None = None
    unwritten: str = ""

    def count(self, raw: Sequence[object]) -> dict[str, Any]:
        """Counts events, and answers each cart event among them.

        Args:
            raw: the events as JSON values.

        Returns:
            `events` (counted now), `repeated`, `refused` (position, field, value and reason of each), and `answers`.

        Raises:
            Unavailable: the state cannot be written; nothing was counted.
        """
        positions, events, refused = _parsed(raw)
        done = self._written(events) if events else Advanced()
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

    def _written(self, events: Sequence[Event]) -> Advanced:
        try:
            done = self.state.change(events, lambda batch: advance(batch, events, self.retention_days))
        except Unavailable as error:
            self.unwritten = str(error)
            raise
        if done.counts.counted:  # events that were counted before are not written again
            self.unwritten = ""
        return done

    def try_out(self, raw: Sequence[object]) -> dict[str, Any]:
        """What `count` would return, with the columns and what pushed each answer; nothing is kept."""
        positions, events, refused = _parsed(raw)

        def work(batch: Batch) -> Advanced:
            batch.seen.clear()  # a visit that was counted may be tried again
            done = advance(batch, events, _ANY_AGE)
            batch.counted = []
            batch.added = {}
            return done

        done = self.state.change(events, work) if events else Advanced()
        scorer = self.follower.scorer
        answers = [
            {
                "event": positions[place],
                **self._of_pair(events[place].user, events[place].session, pair, scorer, why=True),
            }
            for place, pair in done.carts.items()
        ]
        return {"events": done.counts.counted, "repeated": done.counts.repeated, "refused": refused, "answers": answers}

    def cart(self, session: str, why: bool = False) -> dict[str, Any]:
        """What is in the cart of a session, with the answer as of now for each: the columns stay those of the moment.

        Args:
            session: its id.
            why: whether each answer has what pushed it.

        Raises:
            Unavailable: the state cannot be read.
        """
        scorer = self.follower.scorer
        carts = [
            self._of_pair(user, session, pair, scorer, why=why)
            for user, _, pair in self.state.carts(session)
            if pair.in_cart
        ]
        return {"user_session": session, "carts": carts}

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
            late = (event.user, event.session, event.product) in done.late
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
                    "late": late,
                }
            )
            self._log(
                Answer(
                    now,
                    event.user,
                    event.session,
                    event.product,
                    pair.moment or 0,
                    late,
                    row,
                    probability,
                    will_buy,
                    version,
                )
            )
        return answers

    def _of_pair(self, user: int, session: str, pair: Pair, scorer: Scorer | None, why: bool) -> dict[str, Any]:
        row = pair.row or []
        answer: dict[str, Any] = {
            "user_id": user,
            "user_session": session,
            "product_id": row[COLUMNS.index("product_id")],
            "moment": _shown(pair.moment or 0),
            "probability": None,
            "will_buy": None,
            "model_version": scorer.version if scorer else None,
            "missing": scorer.missing(row) if scorer else [],
            "columns": dict(zip(COLUMNS, row, strict=True)),
        }
        if scorer:
            ((answer["probability"], answer["will_buy"]),) = scorer.score([row])
            if why:
                answer["contributions"] = scorer.contributions(row)
        return answer

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
    """The events that keep the rules, the position of each, and the others with what is wrong."""
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
    reason = f"must not be more than {retention_days} days older than the newest event (retention_days)"
    return _refusal(position, Refused("event_time", _shown(event.time), reason))


def _refusal(position: int, error: Refused) -> dict[str, Any]:
    return {"event": position, "field": error.field, "value": error.value, "reason": error.reason}


def _shown(time: int) -> str:
    return as_time(time).replace(tzinfo=None).isoformat() + "Z"
