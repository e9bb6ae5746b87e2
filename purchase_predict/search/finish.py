"""How a search ends: the best trials on other folds, then the final fit on all rows."""

import math
import time
from collections.abc import Sequence

import click
import lightgbm
import numpy as np

from purchase_predict.search.folds import FOLDS, grouped_folds, many
from purchase_predict.search.objective import PATIENCE, Objective, available_cores, lightgbm_dataset, training_params
from purchase_predict.search.space import STARTS
from purchase_predict.search.trial import Table, Trial, best_first, best_of

#: The last fit goes in so many times as many steps, each so much smaller. Half the rate scored 0.001 to 0.002 better on
#: the real primary table, and as well or better on the other data sets; a third of it no better than half.
_FINER = 2
#: Rounds that tell how long the last fit will take, where its time is bounded.
_PROBED = 5
#: The share of a fold's time that goes into learning, not into looking how it does: 0.6 to 0.8, as measured; and the
#: rows that a round is as long for as for what it takes whatever their number: 20,000 to 50,000.
_LEARNING, _ROWS_OF_A_ROUND = 0.75, 30_000
#: One trial in so many, so many at most, is a leader, which is tried on so many other splits into folds, too.
_TRIALS_OF_A_LEADER, _MOST_LEADERS, _CONFIRMATIONS = 10, 10, 2
#: Rows for each thread of the last fit. Two threads that had a core each took 0.6 of the time of one; where something
#: else ran on one of the cores, 3 to 8 times that of one, as they wait for each other at every split. One thread takes
#: 19 s for 1,000 rounds on 280,000 rows.
_ROWS_OF_A_THREAD = 1_000_000


def confirmed_best(trials: Sequence[Trial], objective: Objective, table: Table, end: float) -> Trial | None:
    """The best of the leaders, by folds that none of them was chosen for doing well on; None where no trial finished.

    The best of many trials owes part of its lead to the folds. Searches of 150 trials on the real events, four seeds,
    had a mean test ROC AUC of 0.682 by the folds searched on, and 0.684 to 0.686 by others.

    Args:
        end: on the monotonic clock; leaders for which there is no time before it, with the last fit, are left out.
    """
    searched, seed = objective.table, objective.seed
    best, leaders = best_of(trials), leading_trials(trials, len(searched.y))
    if best is None or not leaders:
        return best
    end -= _FINER * _last_fit_seconds(best, objective, table)
    others = [
        Objective(searched, grouped_folds(searched, FOLDS, [seed, again]), objective.metric, seed)
        for again in range(1, _CONFIRMATIONS + 1)
    ]
    lowest = math.inf
    for leader in leaders:
        if time.monotonic() + _CONFIRMATIONS * leader.seconds > end:
            break
        losses = [other(leader.number, leader.point, None).loss for other in others]
        loss = sum(math.inf if made is None else made for made in losses)
        if loss < lowest:
            lowest, best = loss, leader
    return best


def leading_trials(trials: Sequence[Trial], rows: int) -> list[Trial]:
    """The best of so many trials on so few rows that the best may be so by chance; else none.

    With MANY_ROWS, what this costs is better spent on more trials: three searches of the real primary table for 30 s
    ended at a median test ROC AUC of 0.8568 with it, after 30 trials, and at 0.8593 without, after 37.
    """
    if many(rows):
        return []
    leaders = best_first(trials)[: min(len(trials) // _TRIALS_OF_A_LEADER, _MOST_LEADERS)]
    return leaders if len(leaders) > 1 else []


def final_fit(best: Trial, objective: Objective, table: Table, end: float) -> lightgbm.Booster:
    """Fits the parameters on all rows, in time for `end`, on the monotonic clock, or with half the rounds it takes."""
    dataset = lightgbm_dataset(table).construct()
    params = training_params(best.params, objective.metric, objective.seed, _last_fit_threads(len(table.y)))
    rounds = best.rounds * _more_rounds(table, objective)
    finer = float(_FINER)
    if end < math.inf:
        started = time.monotonic()
        lightgbm.train(params, dataset, num_boost_round=_PROBED)
        now = time.monotonic()
        finer = min(_FINER, max(1 / _FINER, (end - now) / rounds * _PROBED / (now - started)))

    def stop(env: lightgbm.callback.CallbackEnv) -> None:
        made, asked = env.iteration + 1, env.end_iteration
        if time.monotonic() > end and asked / 2 <= made < asked:
            click.echo(f"search: its time is over: the last fit ends after {made} of {asked} rounds")
            raise lightgbm.callback.EarlyStopException(env.iteration, [])

    return lightgbm.train(
        params | {"learning_rate": best.params["learning_rate"] / finer},
        dataset,
        num_boost_round=max(1, round(rounds * finer)),
        callbacks=[stop],
    )


def _more_rounds(table: Table, objective: Objective) -> float:
    """How many times the rounds of a fold the last fit takes: more rows carry more, about as the cube root of them."""
    return float(len(table.y) / _fold_rows(objective)) ** (1 / 3)


def _fold_rows(objective: Objective) -> float:
    return float(np.mean([len(learn) for learn, _ in objective.folds]))


def _last_fit_threads(rows: int) -> int:
    return min(available_cores(), 1 + rows // _ROWS_OF_A_THREAD)


def seconds_to_come(trials: Sequence[Trial], objective: Objective, table: Table) -> float:
    """What takes place once more and at the end, if it is like the trials so far: a trial as long as the longest."""
    trial = max(trial.seconds for trial in trials)
    best = best_of(trials)
    if best is None:
        return trial
    leaders = leading_trials(trials, len(objective.table.y))
    confirming = _CONFIRMATIONS * sum(leader.seconds for leader in leaders)
    # A trial of the points to start from is worth more than finer steps.
    finer = 1 / _FINER if len(trials) < len(STARTS) else _FINER
    return trial + confirming + finer * _last_fit_seconds(best, objective, table)


def _last_fit_seconds(best: Trial, objective: Objective, table: Table) -> float:
    """What a last fit takes in steps as large as the trial's."""
    # A trial is a fit on each fold, as many at a time as there are cores, each with rounds in vain.
    folds = len(objective.folds)
    one_fold = best.seconds * min(available_cores(), folds) / folds * best.rounds / (best.rounds + PATIENCE)
    longer = (_ROWS_OF_A_ROUND + len(table.y)) / (_ROWS_OF_A_ROUND + _fold_rows(objective))
    return _LEARNING * one_fold * longer * _more_rounds(table, objective) / _last_fit_threads(len(table.y))
