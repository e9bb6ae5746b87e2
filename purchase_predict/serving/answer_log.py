"""The log of answers: Parquet files in one folder per day, locally or in a Cloud Storage bucket.

    <answers>/day=2026-11-29/120000-<process>-<random>.parquet

A row of a file has an answer and its time, the columns that were scored, and the answer of the shadow, a second model
version (module `shadow`). Rows can be joined with the output of `predict`, or with later events, by `user_id`,
`user_session` and `product_id`. A file appears only once it is complete (module `unfinished`).
"""

import contextlib
import logging
import os
import queue
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from purchase_predict.parameters import local_path
from purchase_predict.schema import CATEGORICAL
from purchase_predict.serving import unfinished
from purchase_predict.serving.columns import COLUMNS
from purchase_predict.serving.meters import Meters
from purchase_predict.sources import cloud_storage
from purchase_predict.sources.part import CLOUD

if TYPE_CHECKING:
    from google.cloud import storage

#: Queued answers are written every `_FLUSH_SECONDS`, or earlier if `_FLUSH_ROWS` answers are queued.
_FLUSH_SECONDS, _FLUSH_ROWS = 60.0, 20_000
#: Maximum number of queued answers. Further answers are dropped and counted, so the log never delays a request.
_WAITING_ROWS = 100_000
#: Maximum seconds that `end` waits for a thread.
CLOSE_SECONDS = 10.0

#: Name of the object that a server creates in a bucket when it starts, to check that the bucket can be written.
_MARKER = "answers-of-purchase-predict"

#: The content type of a file in a bucket.
_TYPE = "application/octet-stream"

_TIME = pa.timestamp("us", tz="UTC")
#: The columns of a file. `event_time` is the pair's moment, in UTC and without a zone.
SCHEMA = pa.schema(
    [("answered_at", _TIME), ("user_id", pa.int64()), ("user_session", pa.string()), ("product_id", pa.int64())]
    + [("event_time", pa.timestamp("us")), ("late", pa.bool_())]
    + [("probability", pa.float64()), ("will_buy", pa.int8()), ("model_version", pa.string())]
    + [("shadow_probability", pa.float64()), ("shadow_will_buy", pa.int8()), ("shadow_version", pa.string())]
    + [(name, pa.string() if name in CATEGORICAL else pa.float64()) for name in COLUMNS if name != "product_id"]
)


@dataclass
class Answer:
    """A row of the log. Times are in microseconds since 1970.

    Attributes:
        row: the columns that were scored, in the order of `COLUMNS`.
        probability, will_buy: None if no version held the alias; `version` is then empty.
        shadow: the shadow's probability, will_buy and version; None: the shadow has not scored the cart.
    """

    answered_at: int
    user: int
    session: str
    product: int
    moment: int
    late: bool
    row: list[Any]
    probability: float | None
    will_buy: int | None
    version: str
    shadow: tuple[float, int, str] | None = None


def end(thread: threading.Thread, waiting: "queue.Queue[Answer | None]") -> None:
    """Lets a thread handle the answers in its queue and then end. Waits up to `CLOSE_SECONDS` for the thread's end.

    Puts None at the end of the queue; a thread that takes None from the queue must end.
    """
    until = time.monotonic() + CLOSE_SECONDS
    with contextlib.suppress(queue.Full):
        waiting.put(None, timeout=CLOSE_SECONDS)
    thread.join(max(0.0, until - time.monotonic()))


class AnswerLog:
    """Writes answers to the log, in a background thread."""

    def __init__(self, place: str, retention_days: int, meters: Meters) -> None:
        """Checks that the log can be written, and starts the thread.

        Args:
            place: a folder, or `gs://<bucket>/<folder>`.
            retention_days: days for which a local folder keeps answers. In a bucket, a lifecycle rule must remove
                old answers.
            meters: counts the rows that are written or dropped.

        Raises:
            click.ClickException: the folder or bucket cannot be written, or `place` is not valid.
        """
        self._meters, self._days = meters, retention_days
        self._queue: queue.Queue[Answer | None] = queue.Queue(_WAITING_ROWS)
        self._folder = None if place.startswith(CLOUD) else local_path("answers", place)
        self._put: Callable[[str, bytes], None] = self._save if self._folder else _uploader(place)
        if self._folder:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._folder):
                    pass
                unfinished.remove_left(self._folder)
            except OSError as error:
                raise click.ClickException(f"answers {place}: cannot be written: {error.strerror}") from error
        self._thread = threading.Thread(target=self._write_on, name="log of answers", daemon=True)
        self._thread.start()

    def add(self, answer: Answer) -> None:
        """Queues an answer for the log. If the queue is full, the answer is dropped and counted."""
        try:
            self._queue.put_nowait(answer)
        except queue.Full:
            self._meters.add("log_dropped_total")

    def close(self) -> None:
        """Writes the queued answers, then ends the thread.

        Answers that are not written within `CLOSE_SECONDS` may be lost.
        """
        end(self._thread, self._queue)

    def _write_on(self) -> None:
        ended = False
        while not ended:
            rows: list[Answer] = []
            due = time.monotonic() + _FLUSH_SECONDS
            while len(rows) < _FLUSH_ROWS and not ended:
                try:
                    answer = self._queue.get(timeout=max(0.0, due - time.monotonic()))
                except queue.Empty:
                    break
                if answer is None:
                    ended = True
                else:
                    rows.append(answer)
            if rows:
                self._write(rows)
            try:
                self._forget()
            except OSError as error:  # for example, the folder cannot be listed: the log continues
                logging.getLogger(__name__).warning("old answers were not removed: %s", type(error).__name__)

    def _write(self, rows: list[Answer]) -> None:
        days: dict[str, list[Answer]] = {}
        for row in rows:
            days.setdefault(_as_datetime(row.answered_at).date().isoformat(), []).append(row)
        for day, of_day in days.items():
            name = f"day={day}/{datetime.now(UTC):%H%M%S}-{os.getpid()}-{uuid.uuid4().hex[:8]}.parquet"
            try:
                content = pa.BufferOutputStream()
                pq.write_table(_table(of_day), content, compression="zstd")
                self._put(name, content.getvalue().to_pybytes())
                self._meters.add("log_rows_total", len(of_day))
            except Exception as error:  # for example, a full disk or a refused upload: the server continues
                self._meters.add("log_dropped_total", len(of_day))
                logging.getLogger(__name__).warning("answers were not logged: %s", type(error).__name__)

    def _save(self, name: str, content: bytes) -> None:
        assert self._folder
        target = self._folder / name
        target.parent.mkdir(exist_ok=True)
        unfinished.write(self._folder, target, content)

    def _forget(self) -> None:
        """Removes the folders of days older than the retention. Does nothing if the log is in a bucket."""
        if self._folder is None:
            return
        oldest = (datetime.now(UTC) - timedelta(days=self._days)).date()
        for folder in self._folder.glob("day=*"):
            try:
                if date.fromisoformat(folder.name.removeprefix("day=")) < oldest:
                    shutil.rmtree(folder, ignore_errors=True)
            except ValueError:
                continue


def _uploader(place: str) -> Callable[[str, bytes], None]:
    """Returns a function that uploads content under a name below `place`. An object appears only once it is complete.

    An empty object is uploaded first: if the bucket cannot be written, the server fails at its start.
    """
    from google.api_core.exceptions import PreconditionFailed  # this import takes 0.5 s; most logs are local

    bucket_name, _, folder = place.removeprefix(CLOUD).partition("/")
    if not bucket_name:
        raise click.ClickException(f"answers {place}: must be gs://<bucket>/<folder>")
    bucket = cloud_storage.connection("", "read_write").client.bucket(bucket_name)

    def named(name: str) -> "storage.Blob":
        return bucket.blob("/".join(filter(None, [folder.strip("/"), name])))

    # If the object exists, an earlier server wrote it. It is not replaced, because that needs a further permission.
    with cloud_storage.explained(place, "create", ""), contextlib.suppress(PreconditionFailed):
        named(_MARKER).upload_from_string(b"", if_generation_match=0)
    return lambda name, content: named(name).upload_from_string(content, _TYPE, if_generation_match=0)


def _table(answers: list[Answer]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "answered_at": [_as_datetime(answer.answered_at) for answer in answers],
        "user_id": [answer.user for answer in answers],
        "user_session": [answer.session for answer in answers],
        "product_id": [answer.product for answer in answers],
        "event_time": [_as_datetime(answer.moment).replace(tzinfo=None) for answer in answers],
        "late": [answer.late for answer in answers],
        "probability": [answer.probability for answer in answers],
        "will_buy": [answer.will_buy for answer in answers],
        "model_version": [answer.version for answer in answers],
        "shadow_probability": [answer.shadow and answer.shadow[0] for answer in answers],
        "shadow_will_buy": [answer.shadow and answer.shadow[1] for answer in answers],
        "shadow_version": [answer.shadow and answer.shadow[2] for answer in answers],
    }
    for place, name in enumerate(COLUMNS):
        if name != "product_id":
            values = [answer.row[place] for answer in answers]
            text = name in CATEGORICAL
            columns[name] = [value if text or value is None else float(value) for value in values]
    return pa.table(columns, schema=SCHEMA)


def _as_datetime(time: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)
