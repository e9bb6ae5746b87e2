"""A lock between runs: one run at a time holds a resource, such as an environment or a step key.

MLflow has no compare-and-swap on tags, so a run first announces its claim and then looks for others. A run that sees no
other claim holds the resource. Each run announces before it looks. So if two runs claim at once, the one that looks
last sees the other claim, and they do not both hold the resource. (A suspended run that counts as dead may still
believe that it holds the resource: see `lease`.) If both see each other, the run that comes first in a fixed order
keeps its claim and looks again; the other run withdraws its claim and waits.
"""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import click
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_USER

from purchase_predict.errors import printable

_Made = TypeVar("_Made")


class Claims(Protocol):
    """The claims of runs on one resource."""

    def announce(self) -> None:
        """Makes this run's claim known."""

    def withdraw(self) -> None:
        """Takes this run's claim back."""

    def others(self) -> list[Run]:
        """The other live runs that have a claim."""


def take_turn(
    mine: Run,
    claims: Claims,
    doing: str,
    seconds: float,
    made: Callable[[], _Made | None] = lambda: None,
    say: Callable[[str], None] = click.echo,
) -> _Made | None:
    """Waits until no other live run has a claim. This run then holds the resource until `claims.withdraw` is called.

    Returns earlier if another run makes the wanted result.

    Args:
        mine: this process's run.
        claims: the claims on the resource.
        doing: what the other run is doing, such as "computes the same step", for the printed line.
        seconds: how many seconds to wait between two looks at the other claims.
        made: returns the wanted result if another run has made it meanwhile, else None.
        say: called with one line about the run that is waited for, at most once for each run. If several other runs
            have a claim, the line is about the first in the fixed order.

    Returns:
        The result, if another run has made it meanwhile; this run then has no claim. Otherwise None; this run then
        holds the resource.
    """
    named: set[str] = set()
    claims.announce()
    announced, others = True, claims.others()
    while others:
        first = min(others, key=_order)
        run_id = first.info.run_id
        if announced and _order(first) < _order(mine):
            claims.withdraw()  # before `say`: a user who reads the printed line must not find this claim
            announced = False
        if run_id not in named:
            named.add(run_id)
            say(printable(f"waiting for run {run_id} of {first.data.tags.get(MLFLOW_USER, '?')}, which {doing}"))
        time.sleep(seconds)
        if found := made():
            break
        others = claims.others()
        if not others and not announced:
            claims.announce()
            announced, others = True, claims.others()
    else:
        # Another run may have made the result after `made` was last called, or after the caller looked for it.
        found = made()
    if found and announced:
        claims.withdraw()
    return found


def _order(run: Run) -> tuple[int, str]:
    # Any order works if all runs agree on it. They do, even if a clock is wrong, because each run reads the start times
    # that MLflow has stored.
    return run.info.start_time, run.info.run_id
