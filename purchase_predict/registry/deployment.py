"""Judges a version. If it passes, it is promoted or waits for approval.

Meanwhile the run holds the claim on the environment, so no other run decides about this environment.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import click
import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.registry import approval, promotion
from purchase_predict.registry.claim import sole_right
from purchase_predict.registry.journal import Author
from purchase_predict.registry.judge import Judgement, Rows, Rules, judge
from purchase_predict.workflow import models
from purchase_predict.workflow.completed import digest_of, run_of
from purchase_predict.workflow.notification import notify

#: The most times that a version is judged. A version that passed is judged again if it could not be promoted, because
#: meanwhile the holder changed, the claim was lost, or the version was rolled back or deleted.
_ATTEMPTS = 5


def decide(
    version: ModelVersion,
    env: str,
    rows: Rows,
    rules: Rules,
    card: Callable[[Judgement], str],
    mine: Run,
    reason: str = "",
) -> Judgement:
    """Judges a version and records the verdict. A version that passes takes over the environment or waits for approval.

    Args:
        version: the challenger.
        env: staging or production; empty: the version is only judged, and nothing moves.
        rows: the rows that the models are judged on.
        rules: what the challenger must satisfy.
        card: makes the version's description, as Markdown, from the judgement.
        mine: the run of deploy or approve.
        reason: the user's reason; the journal stores it in front of the gate's reason.

    Raises:
        click.ClickException: the version cannot be judged, or the holder of the environment keeps changing.
    """
    for _ in range(_ATTEMPTS):
        with sole_right(version.name, env, mine) if env else nullcontext("") as claim:
            if env:
                promotion.mend(version.name, env, Author.of(mine), claim)
            judgement = judge(version, env, rows, rules)
            promotion.record(version, env, judgement.decision, card(judgement), judgement.numbers)
            author = Author.of(mine, "; ".join(filter(None, [reason, judgement.decision.reason])))
            if judgement.waits:
                approval.ask(judgement.version, env, author)
                break
            if not judgement.promoted:
                promotion.no_longer_waits(judgement.version, env)
                break
            if promotion.promote(judgement.version, env, judgement.champion, author, claim):
                break
        # Not promoted, for example because somebody without a claim has moved the alias on MLflow's page, or because
        # this process was suspended and counted as dead. In the second case, another process may have closed the run
        # `mine`. A closed run cannot hold a claim, so the run is opened again.
        mlflow.MlflowClient().update_run(mine.info.run_id, "RUNNING")
    else:
        raise click.ClickException(
            f"{version.name} version {version.version} is not promoted: it was judged {_ATTEMPTS} times, and each time "
            f"the version that holds {env} changed before the promotion; check with -e status which version holds "
            f"{env}, then deploy again"
        )
    if env:
        notify(f"{version.name} version {version.version}, {judgement.verdict}", mine)
    return judgement


def training_rows(dataset: str, fetch: Callable[[str], Path]) -> Callable[[str], Path | None]:
    """Returns a function that fetches the training rows of a model, given the model's URI.

    The function returns the Parquet file, or None if the model was trained on `dataset` or on a dataset with the same
    content. It raises click.ClickException if the training rows are no longer known.

    Args:
        dataset: the URI `runs:/<run id>/dataset`. The models are judged on the test rows of this dataset.
        fetch: downloads an artifact.
    """
    own = digest_of(run_of(dataset))

    def of(uri: str) -> Path | None:
        trained_on = models.find(uri).trained_on
        if not trained_on:
            raise click.ClickException(f"{uri}: the training rows of this model are no longer known")
        # The training rows and the test rows of one dataset share no session, so no test row has to be left out.
        return None if digest_of(run_of(trained_on)) == own else fetch(f"{trained_on}/train.parquet")

    return of
