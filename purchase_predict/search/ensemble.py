"""The model as an ensemble: several fits, whose mean in log-odds becomes one LightGBM booster."""

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np

#: The lines of a tree, in LightGBM's model text, that hold outputs in log-odds.
_OUTPUTS = re.compile(r"^(leaf_value|internal_value)=(.*)$", re.MULTILINE)

#: Probabilities are clipped to the range from this value to 1 minus this value, because 0 and 1 have no log-odds.
MIN_PROBABILITY = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Member:
    """One fit of the ensemble.

    Attributes:
        trial: the number of the trial, counted from 0, that the parameters come from.
        params: all LightGBM parameters of the fit.
        rounds: the number of boosting rounds.
    """

    trial: int
    params: dict[str, Any]
    rounds: int


def fit(
    members: Sequence[Member],
    dataset: lightgbm.Dataset,
    at_once: int,
    on_round: Callable[[], None] = lambda: None,
    stopped: Callable[[Member, int], bool] = lambda member, done: False,
) -> list[lightgbm.Booster]:
    """Fits the members, one booster each.

    Args:
        members: at least one.
        dataset: the rows to fit; its `construct` was already called.
        at_once: how many members are fitted at the same time.
        on_round: called after each boosting round, by any thread.
        stopped: called with a member and the number of rounds that it has finished; returns whether the member must
            stop. A member that stops before its first round is left out, and so are all members after it. The first
            member always has at least one round.

    Returns:
        The boosters of the members that were not left out, in the order of the members.
    """
    creation_lock, given_up = threading.Lock(), threading.Event()

    def fitted(member: Member) -> lightgbm.Booster | None:
        if member is not members[0] and stopped(member, 0):
            return None
        # Each thread creates its own booster, because LightGBM's log level is per thread. Creating a booster writes to
        # the shared dataset, so only one thread at a time may do it.
        with creation_lock:
            booster = lightgbm.Booster(member.params, dataset)
        for done in range(1, member.rounds + 1):
            booster.update()
            on_round()
            if given_up.is_set() or (done < member.rounds and stopped(member, done)):
                break
        return booster

    if at_once == 1:
        boosters = [fitted(member) for member in members]
    else:
        with ThreadPoolExecutor(at_once) as pool:
            try:
                # A signal raises an exception in this thread, even while it submits. Without `given_up`, the pool would
                # then wait until all fits are complete.
                futures = [pool.submit(fitted, member) for member in members]
                ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in ended:
                    future.result()  # raises the exception of the fit
                boosters = [future.result() for future in futures]
            except BaseException:
                given_up.set()
                raise
    begun: list[lightgbm.Booster] = []
    for booster in boosters:
        if booster is None:
            break
        begun.append(booster)
    return begun


def mean_of(boosters: Sequence[lightgbm.Booster]) -> lightgbm.Booster:
    """One booster whose output in log-odds is the mean of the outputs of several boosters.

    It has the trees of all boosters, with the trees' outputs divided by the number of boosters. LightGBM cannot divide
    a model, so the model text is edited. If there are several boosters, their training parameters are left out,
    because each fit has its own. The result holds no training rows, even if there is only one booster.
    """
    if len(boosters) == 1:
        return lightgbm.Booster(model_str=boosters[0].model_to_string())
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
    """Averages the probabilities of several models in log-odds. If a row is NaN in one of them, its mean is NaN.

    Args:
        probabilities: one array per model, each with the probabilities of the same rows, 0 to 1.
    """
    if len(probabilities) == 1:
        return probabilities[0]
    clipped = [np.clip(one, MIN_PROBABILITY, 1 - MIN_PROBABILITY) for one in probabilities]
    log_odds = np.mean([np.log(one) - np.log1p(-one) for one in clipped], axis=0)
    mean: np.ndarray = 1 / (1 + np.exp(-log_odds))
    return mean


def wall_time(seconds: Sequence[float], at_once: int) -> float:
    """The wall time in seconds of fits that take `seconds` each, if at most `at_once` of them run at the same time."""
    ends = [0.0] * at_once
    for one in seconds:
        ends[ends.index(min(ends))] += one
    return max(ends)
