"""Trials on the user's Spark cluster, by hyperopt's SparkTrials: each is a task of its own on an executor.

SparkTrials takes no history and no first point, so what is tried is suggested by `search`; a batch goes through one
`fmin` over SparkTrials, whose "suggestions" are the trials of the batch in their order.
"""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import hyperopt
import numpy as np
from hyperopt import hp

from purchase_predict.parameters import PROJECT
from purchase_predict.search.objective import Objective, Runner
from purchase_predict.search.space import lightgbm_params
from purchase_predict.search.trial import Trial
from purchase_predict.spark_session import session_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_PLACE = "place"


@contextmanager
def cluster(parallelism: int) -> Iterator[tuple[Runner, int]]:
    """What runs batches of trials on the cluster that the user's Spark configuration names, and their size.

    Executors get the project's code from here; the packages of conda.yaml they must have, in the Python that
    PYSPARK_PYTHON names (else this one).

    Args:
        parallelism: trials at a time; 0: as many as the cluster has cores.

    Raises:
        click.ClickException: PySpark or Java is missing, the cluster cannot be reached, or it is one of Spark Connect.
    """
    if os.environ.get("SPARK_REMOTE"):
        raise click.ClickException(
            "trials=spark cannot use Spark Connect (SPARK_REMOTE), which hyperopt does not know: name the cluster by "
            "SPARK_MASTER, or take trials=local"
        )
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    # A session that outlives the search refuses a second file of the same name, and hands the file to new executors: so
    # each search has a name of its own, and the file stays until this process ends.
    folder = Path(tempfile.mkdtemp(prefix="purchase-predict-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with session_of("trials=spark", "trials=local") as session:
        package = shutil.make_archive(str(folder / folder.name), "zip", PROJECT, "purchase_predict")
        session.sparkContext.addPyFile(package)

        def run(
            objective: Objective,
            points: Mapping[int, dict[str, float]],
            best: Trial | None,
            on_trial: Callable[[Trial], None],
        ) -> list[Trial]:
            return _Batch(session, objective, points, best, on_trial).run()

        yield run, parallelism or max(1, session.sparkContext.defaultParallelism)


class _Batch:
    """Trials that are on the cluster together; each is handed over when SparkTrials next looks, every second."""

    def __init__(
        self,
        session: "SparkSession",
        objective: Objective,
        points: Mapping[int, dict[str, float]],
        best: Trial | None,
        on_trial: Callable[[Trial], None],
    ) -> None:
        self.session, self.points, self.on_trial = session, points, on_trial
        # The table goes to each executor once and not with each trial. A task has so many cores, whatever the machine.
        threads = int(session.sparkContext.getConf().get("spark.task.cpus", "1"))
        best = best and replace(best, out_of_fold=None)
        self.shared = session.sparkContext.broadcast((replace(objective, threads=threads), dict(points), best))
        self.made: dict[int, Trial] = {}
        self.problem: Exception | None = None

    def run(self) -> list[Trial]:
        numbers, shared = list(self.points), self.shared

        def evaluate(chosen: dict[str, int]) -> dict[str, Any]:  # on an executor
            objective, points, best = shared.value
            number = numbers[chosen[_PLACE]]
            return {"status": hyperopt.STATUS_OK, "loss": 0.0, "trial": objective(number, points[number], best)}

        trials = hyperopt.SparkTrials(parallelism=len(numbers), spark_session=self.session)
        hyperopt.fmin(
            evaluate,
            {_PLACE: hp.randint(_PLACE, len(numbers))},
            algo=_in_order,
            max_evals=len(numbers),
            max_queue_len=len(numbers),
            trials=trials,
            rstate=np.random.default_rng(0),
            early_stop_fn=self._look,
            show_progressbar=False,
            verbose=False,
            return_argmin=False,
        )
        self._take(trials)
        self.shared.destroy()
        if self.problem:
            raise self.problem
        for number, point in self.points.items():
            if number not in self.made:
                error = "Spark ended it without a result: its log says why"
                self._hand_over(Trial(number, "failed", point, lightgbm_params(point), None, None, 0, 0.0, error))
        return [self.made[number] for number in self.points]

    def _look(self, trials: hyperopt.Trials, *_: Any) -> tuple[bool, list[Any]]:
        # In a thread of SparkTrials, which would wait for ever where this raises.
        try:
            self._take(trials)
        except Exception as error:
            self.problem = error
        return self.problem is not None, []

    def _take(self, trials: hyperopt.Trials) -> None:
        for document in trials.trials:
            trial = document["result"].get("trial")
            if trial is not None and trial.number not in self.made:
                self._hand_over(trial)

    def _hand_over(self, trial: Trial) -> None:
        self.made[trial.number] = trial
        self.on_trial(trial)


def _in_order(
    new_ids: Sequence[int], domain: hyperopt.base.Domain, trials: hyperopt.Trials, seed: int
) -> list[dict[str, Any]]:
    """hyperopt's "suggestion": the place of the trial in its batch, which is its id."""
    misc = [
        {"tid": tid, "cmd": domain.cmd, "workdir": domain.workdir, "idxs": {_PLACE: [tid]}, "vals": {_PLACE: [tid]}}
        for tid in new_ids
    ]
    return list(trials.new_trial_docs(new_ids, [None] * len(new_ids), [domain.new_result() for _ in new_ids], misc))
