"""The search space over LightGBM's parameters, and the points that every search starts from."""

import math
from collections.abc import Mapping
from typing import Any

from hyperopt import hp

#: The upper bound of `max_depth`, in levels. A point with this value gets LightGBM's "unlimited" (-1).
_UNLIMITED_DEPTH = 16
#: The lower bound of both penalties. A point with this value gets a penalty of 0, because a log scale has no 0.
_NO_PENALTY = 1e-8
#: The space lies around LightGBM's defaults, mostly on a log scale. Lower learning rates are left to the final fit.
#: Bagging fractions below 0.6 are left out: only 1 of the 15 best random points (5 on each of three data sets) had such
#: a fraction.
SPACE = {
    "learning_rate": hp.loguniform("learning_rate", math.log(0.06), math.log(0.2)),
    "num_leaves": hp.qloguniform("num_leaves", math.log(4), math.log(128), 1),
    "max_depth": hp.quniform("max_depth", 3, _UNLIMITED_DEPTH, 1),
    "min_child_samples": hp.qloguniform("min_child_samples", math.log(5), math.log(100), 1),
    "feature_fraction": hp.uniform("feature_fraction", 0.4, 1),
    "bagging_fraction": hp.uniform("bagging_fraction", 0.6, 1),
    "lambda_l1": hp.loguniform("lambda_l1", math.log(_NO_PENALTY), math.log(10)),
    "lambda_l2": hp.loguniform("lambda_l2", math.log(_NO_PENALTY), math.log(10)),
    "cat_smooth": hp.loguniform("cat_smooth", math.log(1), math.log(100)),
}
_INTEGERS = ("num_leaves", "max_depth", "min_child_samples")
#: LightGBM's defaults as a point of the space. They are the first trial, so every search compares its other points with
#: them.
DEFAULTS = {
    "learning_rate": 0.1,
    "num_leaves": 31.0,
    "max_depth": float(_UNLIMITED_DEPTH),
    "min_child_samples": 20.0,
    "feature_fraction": 1.0,
    "bagging_fraction": 1.0,
    "lambda_l1": _NO_PENALTY,
    "lambda_l2": _NO_PENALTY,
    "cat_smooth": 10.0,
}
#: The first trials: the defaults, then trees of 31, 15 and 63 leaves with half of the features per tree. In searches of
#: few trials, as on a large table, no random point scored as well as these. LightGBM's tuning guide and Optuna's tuner
#: also start with the fraction of features.
STARTING_POINTS = (
    DEFAULTS,
    *({**DEFAULTS, "feature_fraction": 0.5, "num_leaves": leaves} for leaves in (31.0, 15.0, 63.0)),
)


def lightgbm_params(point: Mapping[str, float]) -> dict[str, Any]:
    """Converts a point of the space to LightGBM's parameters.

    Args:
        point: a value for each parameter of `SPACE`, all of them floats.

    Returns:
        The parameters, with integers as `int`, and with LightGBM's values for "unlimited" (-1) and "none" (0).
    """
    params: dict[str, Any] = {name: round(value) if name in _INTEGERS else value for name, value in point.items()}
    if params["max_depth"] >= _UNLIMITED_DEPTH:
        params["max_depth"] = -1
    for penalty in ("lambda_l1", "lambda_l2"):
        if params[penalty] <= _NO_PENALTY * 1.01:
            params[penalty] = 0.0
    return params
