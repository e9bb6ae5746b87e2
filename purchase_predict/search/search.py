"""The hyperparameter search: hyperopt's TPE over LightGBM, folds grouped by user, early stopping, pruning.

What is tried next depends on the trials so far, the seed and the trial's number, and on nothing else. So a search that
was interrupted goes on from its finished trials as if it had never stopped.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import click
import lightgbm
import numpy as np

from purchase_predict.evaluation import scores
from purchase_predict.search.finish import confirmed_best, final_fit, seconds_to_come
from purchase_predict.search.folds import fold_count, grouped_folds
from purchase_predict.search.objective import Objective, Runner
from purchase_predict.search.suggest import next_point
from purchase_predict.search.trial import Table, Trial, best_of

#: A larger table is searched on so many of its rows, by whole users, and the best parameters are fitted on all.
SEARCH_ROWS = 50_000


@dataclass(frozen=True)
class Found:
    """What the search ended with: all trials in their order, the best of them, its model and threshold.

    Of many trials the best is the one that does best on other folds, too: not always the one with the lowest loss.

    `searched` are the rows that trials were made on, those of `best.out_of_fold`.
    """

    trials: list[Trial]
    best: Trial
    booster: lightgbm.Booster
    threshold: float
    searched: Table


def search(
    table: Table,
    max_evals: int,
    metric: str,
    seed: int,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    earlier: Sequence[Trial] = (),
    max_seconds: float = math.inf,
    run: Runner | None = None,
    parallelism: int = 1,
) -> Found:
    """Searches, tries the leaders of many trials on other folds, then fits the best parameters on all rows.

    Trials go in batches of `parallelism`: each is suggested, and pruned, by what the batches before its own have told,
    and by nothing else. So the same trials come out wherever they run, and where an interrupted search goes on.

    Args:
        table: the training rows.
        max_evals: trials; LightGBM's defaults are the first, three more are given too, then TPE suggests.
        metric: roc_auc, average_precision, log_loss or f1, of the out-of-fold predictions of all folds together.
        seed: the same seed and rows give the same model, whatever the number of cores.
        on_trial: called after each new trial.
        earlier: the trials of an interrupted search over the same rows, metric and seed; they are not run again.
        max_seconds: no new trial is begun that would, as the trials so far tell, end the search and its last fit after
            so long; the first batch is always run. What is left then bounds the last fit: it goes in coarser steps
            where the time asks for it, and ends when it is over, but not before half its rounds.
        run: what runs a batch; None: this process, one trial after the other.
        parallelism: trials of a batch.

    Raises:
        click.ClickException: fewer users than folds, or every trial failed.
    """
    started = time.monotonic()
    searched = _some_users(table, seed)
    folds = grouped_folds(searched, fold_count(len(searched.y)), seed)
    objective = Objective(searched, folds, metric, seed)
    trials = list(earlier[:max_evals])
    while len(trials) < max_evals and (
        not trials or time.monotonic() - started + seconds_to_come(trials, objective, table) <= max_seconds
    ):
        known = trials[: len(trials) - len(trials) % parallelism]
        numbers = range(len(trials), min(len(known) + parallelism, max_evals))
        points = {number: next_point(known, number, seed) for number in numbers}
        trials += (run or one_after_the_other)(objective, points, best_of(known), on_trial)
    best = confirmed_best(trials, objective, table, started + max_seconds)
    if best is None:
        raise click.ClickException(f"all {len(trials)} trials of the search failed, the first with: {trials[0].error}")
    if best.out_of_fold is None:
        # It came from an interrupted search: its predictions, which the threshold is chosen on, are made again, held
        # against the same trial as then.
        best = objective(best.number, best.point, best_of(trials[: best.number - best.number % parallelism]))
        trials[best.number] = replace(best, seconds=trials[best.number].seconds)
    assert best.out_of_fold is not None
    booster = final_fit(best, objective, table, started + max_seconds)
    threshold = scores.best_threshold(searched.y, best.out_of_fold)
    return Found(trials, best, booster, threshold, searched)


def one_after_the_other(
    objective: Objective,
    points: Mapping[int, dict[str, float]],
    best: Trial | None,
    on_trial: Callable[[Trial], None],
) -> list[Trial]:
    """Runs a batch in this process."""
    made = []
    for number, point in points.items():
        made.append(objective(number, point, best))
        on_trial(made[-1])
    return made


def _some_users(table: Table, seed: int) -> Table:
    if len(table.y) <= SEARCH_ROWS:
        return table
    users, of = np.unique(table.user, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(users))
    rows_of = np.bincount(of)
    chosen = np.zeros(len(users), bool)
    chosen[order[: np.searchsorted(np.cumsum(rows_of[order]), SEARCH_ROWS) + 1]] = True
    rows = chosen[of]
    return replace(table, x=table.x[rows], y=table.y[rows], user=table.user[rows])
