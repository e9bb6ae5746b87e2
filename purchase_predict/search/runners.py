"""Where the trials of a search run: in this process, or on the user's Spark cluster."""

from contextlib import AbstractContextManager, nullcontext

import click

from purchase_predict.search import on_spark
from purchase_predict.search.objective import Runner
from purchase_predict.search.search import run_in_process


def runner(trials: str, parallelism: int) -> AbstractContextManager[tuple[Runner, int]]:
    """The runner of a batch of trials, and the number of trials per batch.

    Args:
        trials: local or spark.
        parallelism: trials at the same time on Spark; 0: as many as the cluster has cores.

    Raises:
        click.ClickException: parallelism is above 1 for trials in this process, or Spark cannot be used.
    """
    if trials == "spark":
        return on_spark.cluster(parallelism)
    if parallelism > 1:
        raise click.ClickException(
            f"parallelism={parallelism} needs trials=spark; with trials=local, trials run one at a time on all cores"
        )
    return nullcontext((run_in_process, 1))
