"""The end of a search: the best trials are scored on other folds, then the best few are fitted on all rows."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import lightgbm
import numpy as np

from purchase_predict.errors import print_line
from purchase_predict.progress import phase
from purchase_predict.search.ensemble import Member, fit, mean_of, wall_time
from purchase_predict.search.folds import confirmation_folds, has_many_rows
from purchase_predict.search.objective import PATIENCE, Objective, available_cores, lightgbm_dataset, training_params
from purchase_predict.search.space import STARTING_POINTS
from purchase_predict.search.trial import LabelledRows, Trial, best_first, best_of

#: The final fit uses half the learning rate and twice the rounds. That scored 0.001 to 0.002 better on the real primary
#: table, and as well or better on the other data sets. A third of the rate scored no better than half.
FINAL_RATE_DIVISOR = 2
#: The highest number of trials whose fits are averaged into the model. Compared with the best trial alone, the mean of
#: 3 scored 0.001 to 0.005 better on the real primary table (3 seeds), 0.001 worse to 0.003 better on the sample (4
#: seeds), and 0.002 worse to 0.001 better on the real events (3 seeds).
MAX_MEMBERS = 3
#: Boosting rounds that are timed to estimate the final fit's duration, if there is a deadline.
TIMED_ROUNDS = 5
#: The leaders are the best trials, which are scored again on other folds. There is one leader per this many trials.
TRIALS_PER_LEADER = 10
#: The highest number of leaders.
MAX_LEADERS = 10
#: The number of further splits into folds that each leader is scored on.
CONFIRMATION_SPLITS = 2
#: The final fit gets one LightGBM thread, plus one per this many rows. One thread takes 19 s for 1,000 rounds on
#: 280,000 rows. Two threads took 0.6 times as long as one if each had its own core. If another process used one of the
#: cores, they took 3 to 8 times as long as one, because threads wait for each other at every split.
ROWS_PER_THREAD = 1_000_000
#: The best number of rounds grows with the cube root of the number of rows.
_ROUNDS_EXPONENT = 1 / 3


def ranked(trials: Sequence[Trial], objective: Objective, rows: LabelledRows, deadline: float) -> list[Trial]:
    """The finished trials, sorted. First come the leaders, by their score on folds that the search did not use.

    Part of the best trial's lead is luck with the folds that it was chosen on. In searches of 150 trials on the real
    events, with 4 seeds, the mean test ROC AUC was 0.682 if the best trial was chosen on the search's folds, and 0.684
    to 0.686 if it was chosen on other folds.

    Args:
        trials: the trials of the search.
        objective: the objective of the search.
        rows: the rows of the final fit.
        deadline: seconds on the monotonic clock. A leader is not scored again if there is no time for it before the
            final fit.

    Returns:
        The leaders that were scored again, the best first, then the other trials, sorted by loss. A leader that is
        behind the best leader on the other folds (`Objective.behind_below`) is left out.
    """
    searched, seed = objective.rows, objective.seed
    finished, leaders = best_first(trials), leading_trials(trials, len(searched.y))
    if not leaders:
        return finished
    deadline -= FINAL_RATE_DIVISOR * _final_fit_seconds(finished[0], objective, rows)
    confirmations = [
        Objective(searched, confirmation_folds(searched, seed, split), objective.metric, seed)
        for split in range(1, CONFIRMATION_SPLITS + 1)
    ]
    losses: dict[int, float] = {}
    with phase("scoring the best trials again on other folds", len(leaders), "trials") as shown:
        for leader in leaders:
            if time.monotonic() + CONFIRMATION_SPLITS * leader.seconds > deadline:
                break
            again = [confirmation(leader.number, leader.point, None).loss for confirmation in confirmations]
            losses[leader.number] = float(np.mean([math.inf if loss is None else loss for loss in again]))
            shown.advance()
    lowest = min(losses.values(), default=math.inf)
    if lowest == math.inf:
        return finished
    highest = _highest_loss(lowest, objective)
    kept = [trial for trial in finished if trial.number not in losses or losses[trial.number] <= highest]
    return sorted(kept, key=lambda trial: losses.get(trial.number, math.inf))


def members_of(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """The trials whose fits become the model: the first one, and others that are not behind it.

    Args:
        trials: finished trials, as `ranked` sorts them.
        objective: the objective of the search.

    Returns:
        At most MAX_MEMBERS trials, the best first.
    """
    first = trials[0]
    assert first.loss is not None
    highest = _highest_loss(first.loss, objective)
    chosen = [first]
    for trial in trials[1:]:
        # Trials with different parameters may have equal trees, for example if no tree reaches `num_leaves`.
        is_known = any((trial.loss, trial.rounds) == (one.loss, one.rounds) for one in chosen)
        if trial.loss is not None and trial.loss <= highest and not is_known:
            chosen.append(trial)
    return chosen[:MAX_MEMBERS]


def has_time_to_run_again(trial: Trial, objective: Objective, rows: LabelledRows, deadline: float) -> bool:
    """Whether a trial and then the final fit can end before `deadline`, which is in seconds on the monotonic clock."""
    fit_seconds = FINAL_RATE_DIVISOR * _final_fit_seconds(trial, objective, rows)
    return time.monotonic() + trial.seconds + fit_seconds <= deadline


def _highest_loss(best: float, objective: Objective) -> float:
    """The loss above which a trial is behind a trial with the loss `best`."""
    return -objective.behind_below(-best, objective.metric, objective.judged)


def leading_trials(trials: Sequence[Trial], row_count: int) -> list[Trial]:
    """The leaders: the best 10 % of the trials, at most 10, sorted by loss. Fewer than 2 count as none.

    A table of `folds.MANY_ROWS` rows or more has no leaders, because its time is better spent on more trials. Three
    searches of 30 s each on the real primary table had a median test ROC AUC of 0.8593 without leaders (37 trials), and
    of 0.8568 with leaders that were scored again (30 trials).
    """
    if has_many_rows(row_count):
        return []
    leaders = best_first(trials)[: min(len(trials) // TRIALS_PER_LEADER, MAX_LEADERS)]
    return leaders if len(leaders) > 1 else []


def final_fit(
    chosen: Sequence[Trial], objective: Objective, rows: LabelledRows, deadline: float
) -> tuple[lightgbm.Booster, list[Member]]:
    """Fits the parameters of the chosen trials on all rows; the mean of the fits is the model.

    Without a deadline, all chosen trials are fitted, with their learning rate divided by FINAL_RATE_DIVISOR and their
    rounds multiplied by it. With a deadline, as many trials are fitted as can finish at their own learning rate: the
    first ones, at least one. If time is left over, the rate is lower, down to 1 / FINAL_RATE_DIVISOR of the trial's. If
    the time is too short even for a single fit, its rate is higher, up to FINAL_RATE_DIVISOR times the trial's. A lower
    rate has more rounds, a higher rate fewer. If the deadline passes anyway, no further fit is started, and a running
    fit stops, but not before half its rounds.

    Two fits at their own rate take as long as one fit at half the rate. On the real primary table, the mean of the two
    fits scored 0.0004 to 0.0024 better than the single fit. On the sample, it scored 0.001 worse to 0.001 better.

    Args:
        chosen: the trials, the best first.
        objective: the objective of the search.
        rows: all rows to train on.
        deadline: seconds on the monotonic clock; infinity: none.

    Returns:
        The model, and the fits that it is the mean of, each with the number of rounds that were run.
    """
    dataset = lightgbm_dataset(rows).construct()
    threads = _final_fit_threads(len(rows.y))

    def member(trial: Trial, divisor: float) -> Member:
        params = training_params(trial.params, objective.metric, objective.seed, threads)
        rounds = trial.rounds * _rounds_factor(rows, objective) * divisor
        return Member(
            trial.number, params | {"learning_rate": trial.params["learning_rate"] / divisor}, max(1, round(rounds))
        )

    count, divisor = _fit_in_time([member(trial, 1) for trial in chosen], dataset, deadline)
    members = [member(trial, divisor) for trial in chosen[:count]]

    def stopped(member: Member, done: int) -> bool:
        if time.monotonic() <= deadline or 0 < done < member.rounds / 2:
            return False
        print_line(
            f"train: time limit reached (max_minutes): the fit of trial {member.trial + 1} "
            + (f"stops after {done} of {member.rounds} rounds" if done else "is left out")
        )
        return True

    with phase("final fit", sum(member.rounds for member in members), "rounds") as shown:
        boosters = fit(members, dataset, _at_once(members), shown.advance, stopped)
    return mean_of(boosters), [
        replace(member, rounds=booster.current_iteration()) for member, booster in zip(members, boosters, strict=False)
    ]


def _fit_in_time(planned: Sequence[Member], dataset: lightgbm.Dataset, deadline: float) -> tuple[int, float]:
    """The number of members that can be fitted before the deadline, and the divisor of their learning rates."""
    if deadline == math.inf:
        return len(planned), FINAL_RATE_DIVISOR
    seconds = [_seconds_per_round(member, dataset) * member.rounds for member in planned]
    left = deadline - time.monotonic()
    for count in range(len(planned), 0, -1):
        divisor = left / wall_time(seconds[:count], _at_once(planned[:count]))
        if divisor >= 1 or count == 1:
            break
    return count, min(FINAL_RATE_DIVISOR, max(1 / FINAL_RATE_DIVISOR, divisor))


def _seconds_per_round(member: Member, dataset: lightgbm.Dataset) -> float:
    ends: list[float] = []  # the end of each round; LightGBM's start-up is not counted
    fit([replace(member, rounds=TIMED_ROUNDS)], dataset, 1, lambda: ends.append(time.monotonic()))
    return (ends[-1] - ends[0]) / (TIMED_ROUNDS - 1)


def _at_once(members: Sequence[Member]) -> int:
    """How many members are fitted at the same time, each on as many cores as it has threads."""
    return max(1, min(available_cores() // members[0].params["num_threads"], len(members)))


def fit_like(members: Sequence[Member], rows: LabelledRows, of_rows: int) -> lightgbm.Booster:
    """Fits a model like the final one on other rows, with the number of rounds scaled to the number of rows.

    Args:
        members: the fits that the final model is the mean of.
        rows: the rows to train on.
        of_rows: the number of rows that the final model was trained on.
    """
    factor = (len(rows.y) / of_rows) ** _ROUNDS_EXPONENT
    refits = [
        replace(member, params={**member.params, "num_threads": 1}, rounds=max(1, round(member.rounds * factor)))
        for member in members
    ]
    return mean_of(fit(refits, lightgbm_dataset(rows).construct(), _at_once(refits)))


def remaining_seconds(trials: Sequence[Trial], objective: Objective, rows: LabelledRows) -> float:
    """Estimates the seconds that one more trial and the end of the search take together.

    The end of the search is scoring the leaders again, running trials without predictions again, and the final fit.

    Args:
        trials: the trials so far, at least one. The next trial is assumed to take as long as the longest of them.
        objective: the objective of the search.
        rows: the rows of the final fit.
    """
    trial = max(trial.seconds for trial in trials)
    best = best_of(trials)
    if best is None:
        return trial
    leaders = leading_trials(trials, len(objective.rows.y))
    confirmation = CONFIRMATION_SPLITS * sum(leader.seconds for leader in leaders)
    # The next starting point gains more than a lower learning rate in the final fit. So until all starting points are
    # tried, only the time for the shortest final fit is reserved.
    divisor = 1 / FINAL_RATE_DIVISOR if len(trials) < len(STARTING_POINTS) else FINAL_RATE_DIVISOR
    # Trials that were read from their MLflow runs have no predictions. Those that become the model must run again.
    rerun_seconds = math.fsum(one.seconds for one in best_first(trials)[:MAX_MEMBERS] if one.out_of_fold is None)
    return trial + confirmation + rerun_seconds + divisor * _final_fit_seconds(best, objective, rows)


def _final_fit_seconds(best: Trial, objective: Objective, rows: LabelledRows) -> float:
    """Estimates the seconds that a fit of the trial on all rows takes at the trial's own learning rate."""
    # Share of a fold's time that is spent on boosting rather than on evaluation. Measured: 0.6 to 0.8.
    boosting_share = 0.75
    # The fixed time of a boosting round, expressed as a number of rows that take as long. Measured: 20,000 to 50,000.
    fixed_rows = 30_000
    # A trial fits its folds in parallel, one per core. Each fold runs PATIENCE rounds past its best round.
    folds = len(objective.folds)
    fold_seconds = best.seconds * min(available_cores(), folds) / folds * best.rounds / (best.rounds + PATIENCE)
    slowdown = (fixed_rows + len(rows.y)) / (fixed_rows + _mean_fold_rows(objective))
    rounds_factor = _rounds_factor(rows, objective)
    return boosting_share * fold_seconds * slowdown * rounds_factor / _final_fit_threads(len(rows.y))


def _rounds_factor(rows: LabelledRows, objective: Objective) -> float:
    """The number of the final fit's rounds, divided by the number of a fold's rounds."""
    return float(len(rows.y) / _mean_fold_rows(objective)) ** _ROUNDS_EXPONENT


def _mean_fold_rows(objective: Objective) -> float:
    return float(np.mean([len(train) for train, _ in objective.folds]))


def _final_fit_threads(row_count: int) -> int:
    return min(available_cores(), 1 + row_count // ROWS_PER_THREAD)
