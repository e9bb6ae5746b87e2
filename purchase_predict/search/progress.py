"""What is told of a search while it works: a bar where a person watches, a line for each trial where a log is kept."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from purchase_predict.search.trial import Trial, best_of


@contextmanager
def progress(of: int, metric: str, earlier: Sequence[Trial]) -> Iterator[Callable[[Trial], None]]:
    """Gives what is to be called with each new trial as it ends.

    Args:
        of: trials in all.
        metric: what the search compares.
        earlier: the trials that were taken over.
    """
    if not sys.stderr.isatty():
        yield lambda trial: click.echo(f"train: {_said(trial, metric, of)}")
        return
    ended = list(earlier)

    def best(trial: Trial | None) -> str:
        return f"best {metric} {trial.score:.4f}" if trial and trial.score is not None else ""

    with click.progressbar(length=of, label="train", show_pos=True, item_show_func=best, file=sys.stderr) as bar:
        bar.update(len(ended), best_of(ended))

        def say(trial: Trial) -> None:
            ended.append(trial)
            bar.update(1, best_of(ended))

        yield say


def _said(trial: Trial, metric: str, of: int) -> str:
    what = {
        "finished": f"{metric} {trial.score or 0:.4f} out of fold, {trial.rounds} rounds",
        "pruned": "pruned, it clearly trails the best after the first folds",
        "failed": f"failed: {trial.error}",
    }[trial.state]
    return f"trial {trial.number + 1}/{of}, {what}, {trial.seconds:.1f} s"
