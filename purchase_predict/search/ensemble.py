"""The model as an ensemble: several fits, whose mean in log-odds becomes one LightGBM booster."""

import math
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np

#: The lines of a tree, in LightGBM's model text, that hold outputs in log-odds.
_OUTPUTS = re.compile(r"^(leaf_value|internal_value)=(.*)$", re.MULTILINE)

#: The probability closest to 0 or 1 that counts in a mean of log-odds.
_SMALLEST = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Member:
    """A fit of the ensemble.

    Attributes:
        trial: the number of the trial whose parameters it has.
        params: all of LightGBM's parameters.
        rounds: its boosting rounds.
    """

    trial: int
    params: dict[str, Any]
    rounds: int


def fit(
    members: Sequence[Member],
    dataset: lightgbm.Dataset,
    lanes: int,
    on_round: Callable[[], None] = lambda: None,
    stopped_early: Callable[[int, int], bool] = lambda done, planned: False,
) -> list[lightgbm.Booster]:
    """Fits the members, one booster each.

    Args:
        members: at least one.
        dataset: the rows to fit, constructed.
        lanes: how many members are fitted at the same time.
        on_round: called after each boosting round, by any thread.
        stopped_early: whether a member stops after `done` of its `planned` rounds.
    """
    creating, given_up = threading.Lock(), threading.Event()

    def fitted(member: Member) -> lightgbm.Booster:
        # LightGBM's log level is per thread, so each thread creates its own booster. That writes to the shared dataset.
        with creating:
            booster = lightgbm.Booster(member.params, dataset)
        for done in range(1, member.rounds + 1):
            booster.update()
            on_round()
            if given_up.is_set() or (done < member.rounds and stopped_early(done, member.rounds)):
                break
        return booster

    if lanes == 1:
        return [fitted(member) for member in members]
    with ThreadPoolExecutor(lanes) as pool:
        try:
            return list(pool.map(fitted, members))
        except BaseException:  # a signal arrives in this thread, and the pool would wait for the fits
            given_up.set()
            raise


def mean_of(boosters: Sequence[lightgbm.Booster]) -> lightgbm.Booster:
    """One booster whose output in log-odds is the mean of the outputs of several; a single one is returned as it is.

    It has the trees of all of them, with their outputs divided by the number of boosters. LightGBM cannot divide a
    model, so this edits its model text, and leaves out the training parameters, which belong to one fit.
    """
    if len(boosters) == 1:
        return boosters[0]
    trees: list[str] = []
    for booster in boosters:
        head, *blocks = booster.model_to_string().partition("\nend of trees\n")[0].split("\nTree=")
        for block in blocks:
            body = _OUTPUTS.sub(lambda line: f"{line[1]}={_divided(line[2], len(boosters))}", block.partition("\n")[2])
            trees.append(f"Tree={len(trees)}\n{body}\n")
    sizes = " ".join(str(len(tree.encode())) for tree in trees)
    head = re.sub(r"^tree_sizes=.*$", f"tree_sizes={sizes}", head, flags=re.MULTILINE)
    return lightgbm.Booster(model_str=f"{head}\n{''.join(trees)}end of trees\n")


def _divided(numbers: str, count: int) -> str:
    return " ".join(repr(float(number) / count) for number in numbers.split())


def mean_probability(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """The probabilities whose log-odds are the mean of those of several models; NaN stays NaN.

    Args:
        probabilities: of the same rows by each model, 0 to 1.
    """
    if len(probabilities) == 1:
        return probabilities[0]
    # A probability of exactly 0 or 1 has no log-odds.
    inside = [np.clip(one, _SMALLEST, 1 - _SMALLEST) for one in probabilities]
    log_odds = np.mean([np.log(one) - np.log1p(-one) for one in inside], axis=0)
    mean: np.ndarray = 1 / (1 + np.exp(-log_odds))
    return mean


def seconds_at_once(seconds: Sequence[float], lanes: int) -> float:
    """About how long fits take together, given how long each takes, if `lanes` run at the same time."""
    return max(*seconds, math.fsum(seconds) / lanes) if len(seconds) > 1 else seconds[0]
