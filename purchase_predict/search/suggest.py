"""What is tried next: hyperopt's TPE on the trials so far."""

from collections.abc import Sequence
from typing import Any

import hyperopt
import numpy as np

from purchase_predict.search.space import SPACE, STARTS
from purchase_predict.search.trial import Trial


def next_point(known: Sequence[Trial], number: int, seed: int) -> dict[str, float]:
    """A trial's starting point, then TPE's suggestion after the known ones, from the trial's own random numbers."""
    if number < len(STARTS):
        return dict(STARTS[number])
    suggested: list[dict[str, float]] = []

    def note(point: dict[str, float]) -> dict[str, Any]:
        suggested.append(point)
        return {"status": hyperopt.STATUS_OK, "loss": 0.0}  # for hyperopt's eyes alone: the history is made anew

    hyperopt.fmin(
        note,
        SPACE,
        algo=hyperopt.tpe.suggest,
        max_evals=len(known) + 1,
        trials=_history(known),
        rstate=np.random.default_rng([seed, number]),
        show_progressbar=False,
        verbose=False,
        return_argmin=False,
    )
    (point,) = suggested
    return {name: float(value) for name, value in point.items()}


def _history(trials: Sequence[Trial]) -> hyperopt.Trials:
    """hyperopt's record of these trials."""
    history = hyperopt.Trials()
    for trial in trials:
        result: dict[str, Any] = {"status": hyperopt.STATUS_FAIL}
        if trial.loss is not None:
            result = {"status": hyperopt.STATUS_OK, "loss": trial.loss}
        misc = {
            "tid": trial.number,
            "cmd": None,
            "idxs": {name: [trial.number] for name in trial.point},
            "vals": {name: [value] for name, value in trial.point.items()},
        }
        (document,) = history.new_trial_docs([trial.number], [None], [result], [misc])
        document["state"] = hyperopt.JOB_STATE_DONE
        history.insert_trial_doc(document)
    history.refresh()
    return history
