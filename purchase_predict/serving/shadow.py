"""The shadow: a second environment's version also scores the carts, and no request waits for it.

The log has the shadow's answer beside the answer that was sent.
"""

import contextlib
import logging
import queue
import threading

from purchase_predict.serving.answer_log import Answer, AnswerLog, end
from purchase_predict.serving.follower import Follower
from purchase_predict.serving.meters import Meters
from purchase_predict.serving.scorer import Scorer

#: Maximum number of answers that wait for the shadow. Further answers are counted as dropped, and logged without the
#: shadow's answer.
_WAITING = 1000


class Shadow:
    """Scores each cart with the shadow's version in a background thread, then passes the answer on to the log.

    If the shadow is too slow, fails, or has no version, `Answer.shadow` is None. Every answer is passed on, with one
    exception: an answer that is still being scored when `close` stops waiting may be lost.
    """

    def __init__(self, follower: Follower, log: AnswerLog | None, meters: Meters) -> None:
        self.follower, self._log, self._meters = follower, log, meters
        self._failed: Scorer | None = None
        self._queue: queue.Queue[Answer | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._answer_on, name="shadow", daemon=True)
        self._thread.start()

    def add(self, answer: Answer) -> None:
        """Queues an answer for the shadow. If the queue is full, the answer is logged without the shadow's answer."""
        try:
            self._queue.put_nowait(answer)
        except queue.Full:
            self._drop(answer)

    def close(self) -> None:
        """Scores the queued carts, then ends the thread.

        Answers that are still queued after `answer_log.CLOSE_SECONDS` are logged without the shadow's answer.
        """
        end(self._thread, self._queue)
        with contextlib.suppress(queue.Empty):
            while True:
                if answer := self._queue.get_nowait():
                    self._drop(answer)

    def _answer_on(self) -> None:
        while (answer := self._queue.get()) is not None:
            if scorer := self.follower.scorer:
                try:
                    self._score(answer, scorer)
                except Exception as error:  # the answer is logged, whatever the error is
                    self._meters.add("shadow_failures_total")
                    if scorer is not self._failed:  # one line per loaded version
                        self._failed = scorer
                        name = type(error).__name__  # only the type, because the error's text may quote a request
                        logging.getLogger(__name__).warning("shadow: version %s fails: %s", scorer.version, name)
            if self._log:
                self._log.add(answer)

    def _score(self, answer: Answer, scorer: Scorer) -> None:
        ((probability, will_buy),) = scorer.score([answer.row])
        answer.shadow = probability, will_buy, scorer.version
        self._meters.add("shadow_answers_total", version=scorer.version)
        if answer.probability is not None:
            self._meters.add("shadow_difference_total", abs(probability - answer.probability))
            self._meters.add("shadow_disagreements_total", will_buy != answer.will_buy)

    def _drop(self, answer: Answer) -> None:
        self._meters.add("shadow_dropped_total")
        if self._log:
            self._log.add(answer)
