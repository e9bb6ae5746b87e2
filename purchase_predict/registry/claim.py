"""The lock on an environment: one deploy or rollback at a time decides who holds it, from judging to moving.

A claim is a tag of the registered model, `claim.<env>.<run id>`. It is valid as long as its run lives (see `lease`), so
others soon continue after a deploy was killed. A run that is suspended for longer than a dead one is silent loses its
claim, too. So a move looks whether the claim is still there before it begins and before the alias moves (`holds`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from purchase_predict import mlflow_errors
from purchase_predict.workflow.collisions import through_collisions
from purchase_predict.workflow.lease import Watch
from purchase_predict.workflow.turns import take_turn

#: Seconds between two looks of a deploy that waits for another one.
_POLL_SECONDS = 1.0


@contextmanager
def sole_right(name: str, env: str, mine: Run) -> Iterator[str]:
    """Holds the claim on an environment of a registered model while the block runs; waits for it first.

    Args:
        name: the registered model.
        env: staging or production.
        mine: this process's run, with its heartbeat.

    Yields:
        The claim: the name of its tag, for `holds`.
    """
    claims = _EnvironmentClaims(name, env, mine)
    try:
        take_turn(mine, claims, f"is deciding about {env} of {name}", _POLL_SECONDS)
        yield claims.tag
    finally:
        claims.withdraw()


def holds(tags: Mapping[str, str], claim: str) -> bool:
    """Whether a claim is among the tags of a registered model. An empty claim, of a sole user, always holds."""
    return not claim or claim in tags


def claimants(tags: Mapping[str, str], env: str) -> list[str]:
    """The ids of the runs that hold or wait for the claim on an environment.

    Args:
        tags: of the registered model.
        env: staging or production.
    """
    return [tag.removeprefix(_prefix(env)) for tag in tags if tag.startswith(_prefix(env))]


def _prefix(env: str) -> str:
    return f"claim.{env}."


class _EnvironmentClaims:
    """The claims on an environment, as tags of the registered model."""

    def __init__(self, name: str, env: str, mine: Run) -> None:
        self._client = mlflow.MlflowClient()
        self._name, self._env, self._mine = name, env, mine.info.run_id
        self.tag = _prefix(env) + self._mine
        self._watch = Watch(self._client, _POLL_SECONDS)

    def announce(self) -> None:
        through_collisions(lambda: self._client.set_registered_model_tag(self._name, self.tag, "held"))

    def withdraw(self) -> None:
        self._remove(self._mine)

    def others(self) -> list[Run]:
        tags = self._client.get_registered_model(self._name).tags
        alive = []
        for run_id in claimants(tags, self._env):
            if run_id == self._mine:
                continue
            run = self._run(run_id)
            if run is None or run.info.status != "RUNNING" or self._watch.died([run]):
                self._remove(run_id)
            else:
                alive.append(run)
        return alive

    def _run(self, run_id: str) -> Run | None:
        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if mlflow_errors.is_missing(error):
                return None
            raise

    def _remove(self, run_id: str) -> None:
        try:
            through_collisions(
                lambda: self._client.delete_registered_model_tag(self._name, _prefix(self._env) + run_id)
            )
        except MlflowException as error:  # another process has removed it, or the whole registered model
            if not mlflow_errors.is_missing(error):
                raise
