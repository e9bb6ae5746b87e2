"""The next point to try, suggested by hyperopt's TPE from the trials so far."""

from collections.abc import Sequence
from typing import Any

import hyperopt
import numpy as np

from purchase_predict.search.space import SPACE, STARTING_POINTS
from purchase_predict.search.trial import Trial


def next_point(earlier: Sequence[Trial], number: int, seed: int) -> dict[str, float]:
    """The point of a trial: a starting point, or TPE's suggestion.

    Args:
        earlier: the trials that TPE learns from.
        number: the trial's number, from 0.
        seed: the seed of the search. TPE is seeded with `seed` and `number`, so a suggestion depends only on these two
            and on the earlier trials.

    Returns:
        A value for each parameter of `SPACE`.
    """
    if number < len(STARTING_POINTS):
        return dict(STARTING_POINTS[number])
    suggestions: list[dict[str, float]] = []

    def capture(point: dict[str, float]) -> dict[str, Any]:
        suggestions.append(point)
        return {"status": hyperopt.STATUS_OK, "loss": 0.0}  # hyperopt requires a loss; this one is not used

    hyperopt.fmin(
        capture,
        SPACE,
        algo=hyperopt.tpe.suggest,
        max_evals=len(earlier) + 1,
        trials=_hyperopt_trials(earlier),
        rstate=np.random.default_rng([seed, number]),
        show_progressbar=False,
        verbose=False,
        return_argmin=False,
    )
    (point,) = suggestions
    return {name: float(value) for name, value in point.items()}


def _hyperopt_trials(trials: Sequence[Trial]) -> hyperopt.Trials:
    """The trials in hyperopt's format."""
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
