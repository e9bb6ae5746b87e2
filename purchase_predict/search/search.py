"""The hyperparameter search: hyperopt's TPE over LightGBM, with early stopping and pruning.

A suggestion depends only on the earlier trials, the seed and the trial's number. So an interrupted search that is
resumed from its trials gives the same result as an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import lightgbm
import numpy as np

from purchase_predict.evaluation import scores
from purchase_predict.search.ensemble import Member, mean_probability
from purchase_predict.search.finish import final_fit, has_time_to_run_again, members_of, ranked, remaining_seconds
from purchase_predict.search.fold_scores import FoldScore, fold_scores
from purchase_predict.search.folds import kind_of_folds, search_folds
from purchase_predict.search.objective import Objective, Runner
from purchase_predict.search.suggest import next_point
from purchase_predict.search.trial import LabelledRows, Trial, best_of

#: If a table has more rows, the search uses a sample: all rows of randomly chosen users, about this many rows together.
#: The final fit uses all rows of the table.
SEARCH_ROWS = 50_000


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        trials: all trials, sorted by number.
        best: the first of the trials that the model is made of. If the best trials were scored again on other folds
            (`finish.ranked`), `best` is the trial that scored best on those folds. Another trial may have a lower loss.
        booster: the model, fitted on all rows.
        members: the fits that the model is the mean of; the first has the parameters of `best`.
        out_of_fold: the out-of-fold probability of each row in `searched`: the mean, in log-odds, over the members'
            trials.
        score: the metric of `out_of_fold`.
        threshold: the decision threshold with the best F1 on `out_of_fold`.
        searched: the rows that the trials were validated on.
        folds: the score of `out_of_fold` on each fold.
        fold_kind: what the folds are and, if they are not the planned ones, why (`folds.kind_of_folds`).
    """

    trials: list[Trial]
    best: Trial
    booster: lightgbm.Booster
    members: Sequence[Member]
    out_of_fold: np.ndarray
    score: float
    threshold: float
    searched: LabelledRows
    folds: Sequence[FoldScore] = ()
    fold_kind: str = ""

    @property
    def params(self) -> dict[str, Any]:
        """The train run's MLflow parameters: those of the best trial, and the members' trial numbers, from 1."""
        trials = ", ".join(str(member.trial + 1) for member in self.members)
        return {f"best_{name}": value for name, value in self.best.params.items()} | {"model_trials": trials}


def run_in_process(
    objective: Objective,
    points: Mapping[int, dict[str, float]],
    best: Trial | None,
    on_trial: Callable[[Trial], None],
) -> list[Trial]:
    """The `Runner` that runs a batch in this process, one trial after the other."""
    trials = []
    for number, point in points.items():
        trials.append(objective(number, point, best))
        on_trial(trials[-1])
    return trials


def search(
    rows: LabelledRows,
    max_evals: int,
    metric: str,
    seed: int,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    earlier: Sequence[Trial] = (),
    max_seconds: float = math.inf,
    run_batch: Runner = run_in_process,
    parallelism: int = 1,
) -> SearchResult:
    """Runs the trials, scores the best ones again on other folds (`ranked`), and fits the best few on all rows.

    Trials run in batches of `parallelism`. Suggestions and pruning use the earlier batches only, so the trials do not
    depend on where they run. Each batch learns from the ones before it, so small batches search better.

    Args:
        rows: the training rows.
        max_evals: the number of trials. The first ones are the starting points (LightGBM's defaults and three
            variants), then TPE suggests.
        metric: roc_auc, average_precision, log_loss or f1, of the out-of-fold predictions of all folds together.
        seed: the seed of the search. Without a time limit, equal arguments give the same model, whatever the number of
            cores.
        on_trial: called with each new trial when it ends.
        earlier: trials of an interrupted search with the same rows, metric and seed; they are not run again.
        max_seconds: time limit in seconds for the search and the final fit. After the first batch, a batch is started
            only if there is time for one more trial and the end of the search (`remaining_seconds`). The final fit is
            shortened if needed (see `final_fit`).
        run_batch: runs a batch of trials.
        parallelism: trials per batch.

    Raises:
        click.ClickException: there are fewer users than folds, every trial failed, or a trial of `earlier` that must
            run again for its predictions does not finish.
    """
    started = time.monotonic()
    searched = sample_users(rows, seed)
    objective = Objective(searched, search_folds(searched, seed), metric, seed)
    trials = list(earlier[:max_evals])
    while len(trials) < max_evals and (
        not trials or time.monotonic() - started + remaining_seconds(trials, objective, rows) <= max_seconds
    ):
        # An interrupted search may have stopped within a batch: then run the rest of that batch first.
        earlier_batches = trials[: len(trials) - len(trials) % parallelism]
        numbers = range(len(trials), min(len(earlier_batches) + parallelism, max_evals))
        points = {number: next_point(earlier_batches, number, seed) for number in numbers}
        trials += run_batch(objective, points, best_of(earlier_batches), on_trial)
    finished = ranked(trials, objective, rows, started + max_seconds)
    if not finished:
        raise click.ClickException(
            f"all trials of the search failed ({len(trials)} in total); error of trial 1: {trials[0].error}"
        )
    return _finished(trials, members_of(finished, objective), objective, rows, started + max_seconds, parallelism)


def _finished(
    trials: list[Trial],
    chosen: Sequence[Trial],
    objective: Objective,
    rows: LabelledRows,
    deadline: float,
    parallelism: int,
) -> SearchResult:
    """Fits the chosen trials on all rows; computes score and threshold from the mean of their predictions."""
    predicted: list[np.ndarray] = []
    for trial in chosen:
        if predicted and trial.out_of_fold is None and not has_time_to_run_again(trial, objective, rows, deadline):
            break
        predicted.append(_out_of_fold(trial, trials, objective, parallelism))
    booster, members = final_fit(chosen[: len(predicted)], objective, rows, deadline)
    out_of_fold = mean_probability(predicted[: len(members)])
    judged = ~np.isnan(out_of_fold)
    probability, searched = out_of_fold[judged], objective.rows.at(judged)
    return SearchResult(
        trials=trials,
        best=chosen[0],
        booster=booster,
        members=members,
        out_of_fold=probability,
        score=scores.score(objective.metric, searched.y, probability),
        threshold=scores.best_threshold(searched.y, probability),
        searched=searched,
        folds=fold_scores(objective.rows, objective.folds, out_of_fold, objective.metric),
        fold_kind=kind_of_folds(objective.rows, objective.folds),
    )


def _out_of_fold(trial: Trial, trials: Sequence[Trial], objective: Objective, parallelism: int) -> np.ndarray:
    """The out-of-fold probability of each row from a trial.

    A trial that was read from its MLflow run has no predictions, so it is run again. Pruning then compares it with the
    same best trial as the first time.

    Raises:
        click.ClickException: the trial does not finish this time.
    """
    if trial.out_of_fold is None:
        trial = objective(trial.number, trial.point, best_of(trials[: trial.number - trial.number % parallelism]))
    if trial.out_of_fold is None:
        raise click.ClickException(
            f"trial {trial.number + 1} failed when it was run again: {trial.error}; run the step again"
        )
    return trial.out_of_fold


def sample_users(rows: LabelledRows, seed: int) -> LabelledRows:
    """All rows of randomly chosen users, about SEARCH_ROWS rows together; all rows if there are at most SEARCH_ROWS."""
    if len(rows.y) <= SEARCH_ROWS:
        return rows
    users, user_of_row = np.unique(rows.user, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(users))
    row_counts = np.bincount(user_of_row)
    chosen = np.zeros(len(users), bool)
    chosen[order[: np.searchsorted(np.cumsum(row_counts[order]), SEARCH_ROWS) + 1]] = True
    mask = chosen[user_of_row]
    return rows.at(mask)
