"""Follows an environment's alias. When the alias moves, the old version answers until the new version is loaded."""

import logging
import threading
import time
from collections.abc import Callable

import click
import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from purchase_predict import mlflow_errors
from purchase_predict.checksums import Damaged
from purchase_predict.errors import first_line, message_of, printable
from purchase_predict.models import packaging
from purchase_predict.registry import model_files, versions
from purchase_predict.secrets import without_secrets
from purchase_predict.serving.scorer import Scorer

#: Seconds between two checks of the registry.
POLL_SECONDS = 2.0
#: Maximum seconds until a version that did not load is tried again.
_RETRY_SECONDS = 30.0
#: The value of `Follower._failed` while no version has failed to load.
_NONE_FAILED = ("", None), 0, 0.0


class Follower:
    """Keeps the model version of an environment loaded, and replaces it when the alias moves.

    Attributes:
        name, env: the registered model, and the environment.
        scorer: the loaded version; None while no version holds the alias, or none has been loaded yet.
        since: the time at which the loaded version took over, in seconds since 1970; 0: no version has been loaded.
        problem: why no version is loaded, or why the loaded version may not be the one that holds the alias, in one
            line; empty: no problem.
        failures, loads: the numbers of failed and of successful attempts to load a version.
        registry_seen: the time at which the registry last answered, in seconds since 1970; 0: it has not answered yet.
        problem_seen: a function. It is called with each new problem, and with an empty text when the problem has ended.
    """

    def __init__(self, name: str, env: str) -> None:
        self.name, self.env = name, env
        self.problem_seen: Callable[[str], None] = lambda problem: None
        self.scorer: Scorer | None = None
        self.since = self.registry_seen = 0.0
        self.problem = ""
        self.failures = self.loads = 0
        self._current: tuple[str, object] | None = None
        #: The version that did not load, its number of failed attempts, and the next attempt's time (monotonic clock).
        self._failed: tuple[tuple[str, object], int, float] = _NONE_FAILED
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_following, name=f"follows {env}", daemon=True)

    def start(self) -> None:
        """Loads the version that holds the alias, if any, then follows the alias in a background thread."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, without waiting for a load in progress."""
        self._stopped.set()

    def look(self) -> None:
        """Checks the registry once, and loads the version that holds the alias unless it is loaded already.

        A version that has failed to load is not tried again before its next attempt is due. If no version holds the
        alias, `scorer` becomes None.
        """
        try:
            version = self._holder()
        except Exception as error:  # whatever is wrong with the tracking server, the current version stays
            self._report(f"the registry does not answer: {without_secrets(first_line(error))}")
            return
        self.registry_seen = time.time()
        if version is None:
            self.scorer = self._current = None
            self._report(f"no version of {self.name} holds {self.env}")
            return
        # An emptied registry numbers versions from 1 again, so the number alone does not identify a version.
        found = str(version.version), version.creation_timestamp
        if found == self._current:
            self._report("")
        elif self._failed[0] != found or time.monotonic() >= self._failed[2]:
            self._change_to(version, found)

    def _holder(self) -> ModelVersion | None:
        try:
            return mlflow.MlflowClient().get_model_version_by_alias(self.name, self.env)
        except MlflowException as error:
            if mlflow_errors.is_missing(error):
                return None
            raise

    def _change_to(self, version: ModelVersion, found: tuple[str, object]) -> None:
        try:
            packaged = packaging.load(versions.uri(version), model_files.recorded_files(version))
            scorer = Scorer(packaged, str(version.version))
        except (click.ClickException, Damaged, Exception) as error:
            self.failures += 1
            attempts = 1 + (self._failed[1] if self._failed[0] == found else 0)
            self._failed = found, attempts, time.monotonic() + _seconds_to_next(attempts, error)
            stays = f"; version {self.scorer.version} stays in service" if self.scorer else ""
            self._report(f"version {version.version} does not load: {printable(message_of(error))}{stays}")
            return
        self.loads += 1
        self._failed, self._current = _NONE_FAILED, found
        self.scorer, self.since = scorer, time.time()
        self._report("")

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self.problem_seen(problem)

    def _keep_following(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            try:
                self.look()
            except Exception:
                logging.getLogger(__name__).exception("the registry could not be checked")


def _seconds_to_next(attempts: int, error: Exception) -> float:
    """Seconds until the next attempt to load a version, after a number of failed attempts.

    The second attempt is made at the next check of the registry, so that a single failed request does not delay a
    rollback. The delay then grows with each attempt, up to `_RETRY_SECONDS`. If the version is damaged or was not
    packaged by this workflow, the delay is `_RETRY_SECONDS` from the first failed attempt on, because such an error is
    not temporary.
    """
    lasting = isinstance(error, click.ClickException) and isinstance(error.__cause__, click.ClickException | None)
    return _RETRY_SECONDS if lasting else min(_RETRY_SECONDS, POLL_SECONDS * (2 ** (attempts - 1) - 1))
