"""The shadow: a second environment's version scores each cart without delaying requests; the log has both answers."""

import queue
import threading

from purchase_predict.serving.answer_log import Answer, AnswerLog
from purchase_predict.serving.follower import Follower
from purchase_predict.serving.meters import Meters

#: Maximum number of answers that wait for the shadow. Further ones are logged without its answer, and counted.
_WAITING = 1000


class Shadow:
    """Scores each cart with the shadow's version in a thread of its own, then passes the answer on to the log."""

    def __init__(self, follower: Follower, log: AnswerLog | None, meters: Meters) -> None:
        self.follower, self._log, self._meters = follower, log, meters
        self._queue: queue.Queue[Answer | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._answer_on, name="shadow", daemon=True)
        self._thread.start()

    def add(self, answer: Answer) -> None:
        """Queues an answer for the shadow. If the queue is full, it is logged without the shadow's answer."""
        try:
            self._queue.put_nowait(answer)
        except queue.Full:
            self._meters.add("shadow_dropped_total")
            if self._log:
                self._log.add(answer)

    def close(self) -> None:
        """Scores the waiting carts and ends the thread; waits for that up to 10 s."""
        self._queue.put(None)
        self._thread.join(10)

    def _answer_on(self) -> None:
        while (answer := self._queue.get()) is not None:
            scorer = self.follower.scorer
            if scorer:
                ((probability, will_buy),) = scorer.score([answer.row])
                answer.shadow = probability, will_buy, scorer.version
                self._meters.add("shadow_answers_total", version=scorer.version)
                if answer.probability is not None:
                    self._meters.add("shadow_difference_total", abs(probability - answer.probability))
                    self._meters.add("shadow_disagreements_total", will_buy != answer.will_buy)
            if self._log:
                self._log.add(answer)
