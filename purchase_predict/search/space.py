"""The search space over LightGBM's parameters, and the points that every search starts from."""

import math
from collections.abc import Mapping
from typing import Any

from hyperopt import hp

#: Depth and penalties at their bounds stand for LightGBM's "unlimited" and "none".
_NO_LIMIT = 16
_NO_PENALTY = 1e-8
#: Around LightGBM's defaults, most on a log scale. Lower learning rates are for the last fit; of the best five of the
#: random points tried on each of three data sets, one in all had a bagging fraction below 0.6.
SPACE = {
    "learning_rate": hp.loguniform("learning_rate", math.log(0.06), math.log(0.2)),
    "num_leaves": hp.qloguniform("num_leaves", math.log(4), math.log(128), 1),
    "max_depth": hp.quniform("max_depth", 3, _NO_LIMIT, 1),
    "min_child_samples": hp.qloguniform("min_child_samples", math.log(5), math.log(100), 1),
    "feature_fraction": hp.uniform("feature_fraction", 0.4, 1),
    "bagging_fraction": hp.uniform("bagging_fraction", 0.6, 1),
    "lambda_l1": hp.loguniform("lambda_l1", math.log(_NO_PENALTY), math.log(10)),
    "lambda_l2": hp.loguniform("lambda_l2", math.log(_NO_PENALTY), math.log(10)),
    "cat_smooth": hp.loguniform("cat_smooth", math.log(1), math.log(100)),
}
_WHOLE = ("num_leaves", "max_depth", "min_child_samples")
#: LightGBM's defaults as a point of the space: the first trial, which no search may end below.
DEFAULTS = {
    "learning_rate": 0.1,
    "num_leaves": 31.0,
    "max_depth": float(_NO_LIMIT),
    "min_child_samples": 20.0,
    "feature_fraction": 1.0,
    "bagging_fraction": 1.0,
    "lambda_l1": _NO_PENALTY,
    "lambda_l2": _NO_PENALTY,
    "cat_smooth": 10.0,
}
#: The first trials: the defaults, then trees that see half the features, of three sizes. Where there is time for few
#: trials only, as on a large table, random points found nothing as good (the first thing that LightGBM's tuning guides
#: and Optuna's tuner change is the fraction of features, too).
STARTS = (
    DEFAULTS,
    *({**DEFAULTS, "feature_fraction": 0.5, "num_leaves": leaves} for leaves in (31.0, 15.0, 63.0)),
)


def lightgbm_params(point: Mapping[str, float]) -> dict[str, Any]:
    """LightGBM's parameters at a point of the space: whole numbers whole, bounds that mean "none" as LightGBM's."""
    params: dict[str, Any] = {name: round(value) if name in _WHOLE else value for name, value in point.items()}
    if params["max_depth"] >= _NO_LIMIT:
        params["max_depth"] = -1
    for penalty in ("lambda_l1", "lambda_l2"):
        if params[penalty] <= _NO_PENALTY * 1.01:
            params[penalty] = 0.0
    return params
