"""The lock on an environment: only one deploy, approval or rollback at a time judges versions and moves the alias.

A claim is a tag of the registered model, `claim.<env>.<run id>`. It is valid while its run is RUNNING and sends
heartbeats (see `workflow/lease.py`). So if a deploy is killed, the runs that wait for it soon continue. A run also
loses its claim if it is suspended for so long that another run takes it for dead. So each promotion and rollback checks
twice whether its claim still exists (`holds`): before its first write, and right before it moves the alias.
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

#: Seconds that a waiting run lets pass between two checks of the other claims.
_POLL_SECONDS = 1.0


@contextmanager
def sole_right(name: str, env: str, mine: Run) -> Iterator[str]:
    """Waits for the claim on an environment of a registered model, then holds the claim while the block runs.

    Args:
        name: the registered model.
        env: staging or production.
        mine: this process's run, which has a heartbeat.

    Yields:
        The name of the claim's tag, for `holds`.
    """
    claims = _EnvironmentClaims(name, env, mine)
    try:
        take_turn(mine, claims, f"is deciding about {env} of {name}", _POLL_SECONDS)
        yield claims.tag
    finally:
        claims.withdraw()


def holds(tags: Mapping[str, str], claim: str) -> bool:
    """Whether a claim is among the tags of a registered model.

    An empty `claim` means that nobody else decides about the environment. The result is then always true.
    """
    return not claim or claim in tags


def claimants(tags: Mapping[str, str], env: str) -> list[str]:
    """The ids of the runs that hold or wait for the claim on an environment.

    Args:
        tags: the registered model's tags.
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
