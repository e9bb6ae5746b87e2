"""Runs trials on the user's Spark cluster with hyperopt's SparkTrials; each trial is one task on an executor.

SparkTrials accepts neither earlier trials nor starting points, so `search` makes the suggestions. A batch is one call
of `fmin`, whose suggestion algorithm (`_in_order`) only numbers the trials of the batch.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import hyperopt
import numpy as np
from hyperopt import hp

from purchase_predict.search.objective import Objective, Runner
from purchase_predict.search.space import lightgbm_params
from purchase_predict.search.trial import Trial
from purchase_predict.spark_session import send_package, session_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: The one parameter of the space that hyperopt sees: the position of a trial in its batch, from 0.
_POSITION = "position"


@contextmanager
def cluster(parallelism: int) -> Iterator[tuple[Runner, int]]:
    """Connects to the cluster that the user's Spark configuration names; yields a runner and its batch size.

    The project's code is sent to the executors. The packages of conda.yaml must be installed on the executors, in the
    Python that PYSPARK_PYTHON names (default: the path of this process's Python).

    Args:
        parallelism: trials at a time; 0: one per core of the cluster.

    Raises:
        click.ClickException: PySpark or Java is missing, the cluster cannot be reached, or Spark Connect is configured.
    """
    if os.environ.get("SPARK_REMOTE"):
        raise click.ClickException(
            "trials=spark: hyperopt does not support Spark Connect: unset SPARK_REMOTE and set SPARK_MASTER to the "
            "cluster's address, or use trials=local"
        )
    with session_of("trials=spark", "trials=local") as session:
        send_package(session)

        def run_batch(
            objective: Objective,
            points: Mapping[int, dict[str, float]],
            best: Trial | None,
            on_trial: Callable[[Trial], None],
        ) -> list[Trial]:
            return _Batch(session, objective, points, best, on_trial).run()

        yield run_batch, parallelism or max(1, session.sparkContext.defaultParallelism)


class _Batch:
    """A batch of trials on the cluster.

    `on_trial` is called for the trials that have ended: whenever SparkTrials polls (every second), and at the end.
    """

    def __init__(
        self,
        session: "SparkSession",
        objective: Objective,
        points: Mapping[int, dict[str, float]],
        best: Trial | None,
        on_trial: Callable[[Trial], None],
    ) -> None:
        self.session, self.points, self.on_trial = session, points, on_trial
        # A task may use this many cores, even if its machine has more.
        threads = int(session.sparkContext.getConf().get("spark.task.cpus", "1"))
        best = best and replace(best, out_of_fold=None)
        # Broadcast, so that each executor gets the rows once instead of with each trial.
        self.shared = session.sparkContext.broadcast((replace(objective, threads=threads), dict(points), best))
        self.ended: dict[int, Trial] = {}
        self.error: Exception | None = None

    def run(self) -> list[Trial]:
        """Runs the batch and returns its trials. If `on_trial` raised an exception, raises it."""
        numbers, shared = list(self.points), self.shared

        def evaluate(suggestion: dict[str, int]) -> dict[str, Any]:
            """Runs a trial on an executor."""
            objective, points, best = shared.value
            number = numbers[suggestion[_POSITION]]
            return {"status": hyperopt.STATUS_OK, "loss": 0.0, "trial": objective(number, points[number], best)}

        spark_trials = hyperopt.SparkTrials(parallelism=len(numbers), spark_session=self.session)
        hyperopt.fmin(
            evaluate,
            {_POSITION: hp.randint(_POSITION, len(numbers))},
            algo=_in_order,
            max_evals=len(numbers),
            max_queue_len=len(numbers),
            trials=spark_trials,
            rstate=np.random.default_rng(0),
            early_stop_fn=self._poll,
            show_progressbar=False,
            verbose=False,
            return_argmin=False,
        )
        self._collect(spark_trials)
        self.shared.destroy()
        if self.error:
            raise self.error
        for number, point in self.points.items():
            if number not in self.ended:
                error = "Spark ended the trial without a result: see Spark's log"
                self._add(Trial(number, "failed", point, lightgbm_params(point), None, None, 0, 0.0, error))
        return [self.ended[number] for number in self.points]

    def _poll(self, spark_trials: hyperopt.Trials, *_: Any) -> tuple[bool, list[Any]]:
        """Collects the trials that have ended, and keeps an exception for `run`.

        SparkTrials calls this method in a thread, and would hang if the method raised the exception.
        """
        try:
            self._collect(spark_trials)
        except Exception as error:
            self.error = error
        return self.error is not None, []

    def _collect(self, spark_trials: hyperopt.Trials) -> None:
        for document in spark_trials.trials:
            trial = document["result"].get("trial")
            if trial is not None and trial.number not in self.ended:
                self._add(trial)

    def _add(self, trial: Trial) -> None:
        self.ended[trial.number] = trial
        self.on_trial(trial)


def _in_order(
    new_ids: Sequence[int], domain: hyperopt.base.Domain, trials: hyperopt.Trials, seed: int
) -> list[dict[str, Any]]:
    """A suggestion algorithm for hyperopt: trial 0 gets position 0, trial 1 position 1, and so on."""
    misc = [
        {
            "tid": tid,
            "cmd": domain.cmd,
            "workdir": domain.workdir,
            "idxs": {_POSITION: [tid]},
            "vals": {_POSITION: [tid]},
        }
        for tid in new_ids
    ]
    return list(trials.new_trial_docs(new_ids, [None] * len(new_ids), [domain.new_result() for _ in new_ids], misc))
