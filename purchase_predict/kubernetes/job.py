"""A step's Job: creates it, watches it until it ends, and reports a failure in one line."""

import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import mlflow
from mlflow.exceptions import MlflowException

from purchase_predict.errors import print_line, printable
from purchase_predict.kubernetes.cluster import Away, Cluster
from purchase_predict.kubernetes.config import StepConfig
from purchase_predict.kubernetes.explain import State, state_of
from purchase_predict.kubernetes.log import Log
from purchase_predict.kubernetes.manifest import Work, manifest
from purchase_predict.workflow import descriptions, lease, remote
from purchase_predict.workflow.completed import ERROR

#: Tag of a step's run: the image that computed it.
IMAGE = "step.image"
#: The artifact with the pod's log.
LOG = "job.log"
#: Longest pause in seconds between two checks of a Job: `_STARTING` until the Job runs, `_RUNNING` while it runs. A
#: change of the Job ends the pause.
_STARTING, _RUNNING = 3, 60
#: Maximum number of seconds to wait until the pods of a deleted Job have ended.
_DELETED = 60.0


class Job:
    """The Job of one run.

    Attributes:
        problem: why the Job failed, or why its run is not FINISHED although the Job succeeded; empty: no problem.
        told: whether the pod's log has already shown the problem.
    """

    def __init__(self, cluster: Cluster, work: Work, config: StepConfig, place: str) -> None:
        """Makes the manifest. `place` names the file of `config` in messages.

        Raises:
            click.ClickException: see `manifest`.
        """
        self._cluster, self._work, self._config = cluster, work, config
        self._manifest = manifest(work, config, place)
        self._name = str(self._manifest["metadata"]["name"])
        self._folder = tempfile.TemporaryDirectory(prefix="job-log-")
        self._log = Log(cluster, config.namespace, Path(self._folder.name) / LOG)
        self.problem, self.told = "", False

    def submit(self, key: str = "") -> None:
        """Creates the Job.

        If that fails or is interrupted, closes the run. Also deletes the Job then, unless the API cannot be reached or
        refuses the deletion.

        Args:
            key: the step key that the run claims, so that other workflows wait for the Job even after main has ended;
                empty: the run claims none.

        Raises:
            click.ClickException: the cluster refuses the Job, or does not answer.
        """
        client = mlflow.MlflowClient()
        run_id = self._work.run_id
        try:
            # The tags come first: if this process is killed right after creating the Job, the tags lead other
            # workflows to the Job.
            client.set_tag(run_id, remote.JOB, f"{self._config.namespace}/{self._name}")
            client.set_tag(run_id, IMAGE, self._config.image)
            if key:
                client.set_tag(run_id, lease.CLAIM, key)
            self._cluster.create(self._manifest)
        except BaseException as error:
            # If the API cannot be reached, the Job may exist and cannot be deleted. If its pod starts later, it stops,
            # because its run is closed.
            if not isinstance(error, Away):
                with suppress(click.ClickException):
                    self.cancel()
            if isinstance(error, click.ClickException):
                descriptions.record_failure(run_id, printable(error.format_message()))
            client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise

    def wait(self) -> bool:
        """Waits until the Job has ended, and prints its log meanwhile.

        If a problem that does not pass by itself keeps the Job from starting, deletes the Job after `patience` seconds
        (see `StepConfig`). If the command has ended but other containers of the pod still run, deletes the Job at once.
        After a failure, sets `problem`, records the problem on the run, and closes the run if it is still open.

        Returns:
            Whether the Job's command succeeded and its run is FINISHED.

        Raises:
            click.ClickException: the cluster does not answer, or refuses a call. The Job continues.
        """
        state = self._watch()
        self._log.finish()
        self._keep_log()
        if state.lingers:
            try:
                self._cluster.delete(self._config.namespace, self._name)
            except click.ClickException as error:
                print_line(
                    f"{self._work.entry_point}: the other containers of its pod cannot be stopped: "
                    f"{error.format_message()}",
                    err=True,
                )
        client = mlflow.MlflowClient()
        run = client.get_run(self._work.run_id)
        if state.succeeded and run.info.status == "FINISHED":
            return True
        # The tag ERROR, and the last log line in `state.problem`, come from the pod. They may contain a value that only
        # this process knows to be secret, so they are masked here.
        recorded = printable(self._log.masked(run.data.tags.get(ERROR, "")))
        reason = recorded or (self._log.error if state.exited else "")
        self.told = bool(reason) and self._log.error == reason
        problem = state.problem or f"its command ended, but the status of run {self._work.run_id} is {run.info.status}"
        self.problem = reason or printable(self._log.masked(f"{self._work.entry_point}: {problem}"))
        if not recorded:
            descriptions.record_failure(self._work.run_id, self.problem)
        if run.info.status in ("RUNNING", "SCHEDULED"):
            client.set_terminated(self._work.run_id, "FAILED")
        return False

    def cancel(self) -> None:
        """Deletes the Job, and waits up to 60 s until its pod has ended. Then waits up to 20 s for the rest of the log.

        A user waits for the end of this call. So from now on, calls are retried for at most 60 s while the API is away.

        Raises:
            click.ClickException: the cluster does not answer, or refuses a call.
        """
        self._cluster.hurry(_DELETED)
        self._cluster.delete(self._config.namespace, self._name)
        deadline = time.monotonic() + _DELETED
        while self._cluster.job(self._config.namespace, self._name) and time.monotonic() < deadline:
            time.sleep(0.5)
        self._log.finish()
        self._keep_log()

    def _watch(self) -> State:
        namespace, name = self._config.namespace, self._name
        hindered, reported = None, ""
        while True:
            job = self._cluster.job(namespace, name)
            if job is None:
                return State(ended=True, problem=f"Job {namespace}/{name} is gone: somebody deleted it; run again")
            state, pods = look(self._cluster, job)
            if (state.running or state.ended) and pods:
                self._log.follow(pods[-1]["metadata"]["name"], pods[-1]["spec"]["containers"][0]["name"])
            if state.ended:
                return state
            if state.problem and state.passing and state.problem != reported:
                reported = state.problem
                print_line(f"{self._work.entry_point}: waiting: {reported}")
            hindered = (hindered or time.monotonic()) if state.problem and not state.passing else None
            if hindered and time.monotonic() - hindered >= self._config.patience:
                self._cluster.delete(namespace, name)
                return State(ended=True, problem=state.problem)
            seconds = _RUNNING if state.running else min(_STARTING, self._config.patience)
            self._cluster.wait_for_change(namespace, name, job["metadata"]["resourceVersion"], seconds)

    def _keep_log(self) -> None:
        file = Path(self._folder.name) / LOG
        if file.is_file() and file.stat().st_size:
            with suppress(MlflowException):  # without a stored log, the run still gets the same status
                mlflow.MlflowClient().log_artifact(self._work.run_id, str(file))


def look(cluster: Cluster, job: Mapping[str, Any]) -> tuple[State, list[dict[str, Any]]]:
    """The state of a Job (`job`: the cluster's latest answer), and its pods, the newest last.

    Raises:
        click.ClickException: the cluster does not answer, or refuses a call.
    """
    namespace, name = str(job["metadata"]["namespace"]), str(job["metadata"]["name"])
    pods = cluster.pods(namespace, name)
    state = state_of(job, pods, [])
    if state.ended or state.running:
        return state, pods
    names = [name, *(pod["metadata"]["name"] for pod in pods)]
    events = [event for one in names for event in cluster.events(namespace, one)]
    return state_of(job, pods, events), pods
