"""Progress of a search: a bar on a terminal, one line per trial in a log."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from purchase_predict.errors import print_line
from purchase_predict.progress import bar
from purchase_predict.search.trial import Trial, best_of


@contextmanager
def progress(
    total: int, metric: str, earlier: Sequence[Trial], record: Callable[[dict[str, Any]], None] = lambda facts: None
) -> Iterator[Callable[[Trial], None]]:
    """Shows the progress of a search while the context lasts; yields a function to call with each new trial.

    Args:
        total: the number of trials of the search.
        metric: the metric that the search optimises.
        earlier: the trials reused from an interrupted search.
        record: called with each new trial's `facts` before the trial is shown, to store them.
    """
    trials = list(earlier)

    def best() -> str:
        trial = best_of(trials)
        return f"best {metric} {trial.score:.4f}" if trial and trial.score is not None else ""

    with bar("search", total, "trials") as shown:
        if shown:
            shown.advance(len(trials), best())
        elif earlier:
            print_line(f"train: trials reused from an earlier search with the same search key: {len(earlier)}")

        def end_of(trial: Trial) -> None:
            record(trial.facts)
            trials.append(trial)
            if shown:
                shown.advance(1, best())
            else:
                print_line(f"train: {_line(trial, metric, total)}")

        yield end_of


def _line(trial: Trial, metric: str, total: int) -> str:
    outcome = {
        "finished": f"{metric} {trial.score or 0:.4f} out of fold, {trial.rounds} rounds",
        "pruned": "pruned: clearly behind the best trial after the first folds",
        "failed": f"failed: {trial.error}",
    }[trial.state]
    return f"trial {trial.number + 1}/{total}, {outcome}, {trial.seconds:.1f} s"
