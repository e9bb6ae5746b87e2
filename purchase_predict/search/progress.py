"""Progress of a search: a bar on a terminal, one line per trial in a log."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from purchase_predict.search.trial import Trial, best_of


@contextmanager
def progress(
    total: int, metric: str, earlier: Sequence[Trial], record: Callable[[dict[str, Any]], None] = lambda facts: None
) -> Iterator[Callable[[Trial], None]]:
    """Shows the progress of a search while the context lasts; yields a function to call with each new trial.

    Args:
        total: the number of trials of the search.
        metric: the metric that the search optimises.
        earlier: the trials taken over from an interrupted search.
        record: keeps each new trial, before it is shown.
    """
    if not sys.stderr.isatty():
        if earlier:
            click.echo(f"train: {len(earlier)} trials of an earlier search with the same key are taken over")

        def show(trial: Trial) -> None:
            record(trial.facts)
            click.echo(f"train: {_line(trial, metric, total)}")

        yield show
        return
    trials = list(earlier)

    def best_score(trial: Trial | None) -> str:
        return f"best {metric} {trial.score:.4f}" if trial and trial.score is not None else ""

    with click.progressbar(
        length=total, label="train", show_pos=True, item_show_func=best_score, file=sys.stderr
    ) as bar:
        bar.update(len(trials), best_of(trials))

        def advance(trial: Trial) -> None:
            record(trial.facts)
            trials.append(trial)
            bar.update(1, best_of(trials))

        yield advance


def _line(trial: Trial, metric: str, total: int) -> str:
    outcome = {
        "finished": f"{metric} {trial.score or 0:.4f} out of fold, {trial.rounds} rounds",
        "pruned": "pruned, it clearly trails the best after the first folds",
        "failed": f"failed: {trial.error}",
    }[trial.state]
    return f"trial {trial.number + 1}/{total}, {outcome}, {trial.seconds:.1f} s"
