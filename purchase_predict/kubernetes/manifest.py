"""The manifest of a step's Job: the template in `backend_config`, completed by the workflow.

The command is a list of words, which neither a shell nor Kubernetes interprets. The manifest contains no password or
token: an environment variable for a password or token refers to a Secret of the cluster.
"""

import copy
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from purchase_predict.kubernetes.closure import EXPECTED, text
from purchase_predict.kubernetes.config import StepConfig
from purchase_predict.kubernetes.resources import merged, resources
from purchase_predict.settings import Settings
from purchase_predict.workflow.remote import IN_JOB

#: Name of the container that runs the step.
CONTAINER = "step"
#: Labels of the Job and its pod: the step, and MLflow's id of the run.
STEP_LABEL, RUN_LABEL = "purchase-predict/step", "purchase-predict/run"
#: Annotation of the Job: its patience in seconds (`StepConfig.patience`), for other workflows that wait for the Job.
PATIENCE = "purchase-predict/patience"
#: Environment variables that a client needs if the tracking server asks for a password or a token.
SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@dataclass(frozen=True)
class Work:
    """The task of a Job.

    Attributes:
        entry_point: the step.
        command: the entry point's command in MLproject, with placeholders such as `{source}` for the parameters.
        parameters: the value of each parameter.
        run_id: MLflow's id of the run that the Job computes.
        experiment_id: that run's experiment.
        tracking_uri: the tracking server's URI, without user and password.
        expected: the source files and packages that the image must have.
        env: value of the variable ENV; None: the image's .env decides.
    """

    entry_point: str
    command: str
    parameters: Mapping[str, str]
    run_id: str
    experiment_id: str
    tracking_uri: str
    expected: Mapping[str, Any]
    env: str | None = None


def job_name(work: Work) -> str:
    """The Job's name. Jobs of different runs have different names."""
    return f"purchase-predict-{work.entry_point}-{work.run_id}"[:63].replace("_", "-")


def words(command: str, parameters: Mapping[str, str]) -> list[str]:
    """The words of a command with the parameters filled in; a parameter's value is never split."""
    return [word.format(**parameters) for word in shlex.split(command)]


def literal(word: str) -> str:
    """Escapes a word, because Kubernetes replaces `$(NAME)` by a variable's value and `$$` by `$`."""
    return word.replace("$", "$$")


def manifest(work: Work, config: StepConfig, place: str) -> dict[str, Any]:
    """The Job's manifest, as the API accepts it (batch/v1).

    Args:
        work: the Job's task.
        config: the step's settings in the file `backend_config`.
        place: the file's name in messages.

    Raises:
        click.ClickException: the template contradicts the workflow, no Secret passes a needed password or token to the
            Job, or the resources are wrong (see `resources.resources`).
    """
    job = copy.deepcopy(config.template)
    labels = {STEP_LABEL: work.entry_point, RUN_LABEL: work.run_id}
    job |= {"apiVersion": "batch/v1", "kind": "Job"}
    metadata = _part(job, "metadata", place)
    metadata |= {"name": job_name(work), "namespace": config.namespace}
    _part(metadata, "labels", place).update(labels)
    _part(metadata, "annotations", place)[PATIENCE] = str(config.patience)
    spec = _part(job, "spec", place)
    pod = _part(spec, "template", place)
    _part(_part(pod, "metadata", place), "labels", place).update(labels)
    pod_spec = _part(pod, "spec", place)
    # A run is computed once, by one pod. To repeat it, start the workflow again.
    _only(spec, {"backoffLimit": 0, "completions": 1, "parallelism": 1}, f"{place}: template.spec")
    _only(pod_spec, {"restartPolicy": "Never"}, f"{place}: template.spec.template.spec")
    spec.setdefault("activeDeadlineSeconds", config.deadline)
    spec.setdefault("ttlSecondsAfterFinished", config.keep)
    if config.service_account:
        pod_spec["serviceAccountName"] = config.service_account
    if config.node_selector:
        pod_spec["nodeSelector"] = pod_spec.get("nodeSelector", {}) | config.node_selector
    if config.tolerations:
        pod_spec["tolerations"] = [*pod_spec.get("tolerations", []), *config.tolerations]
    containers = pod_spec.setdefault("containers", [])
    if not containers:
        containers.append({})
    containers[0] = _container(containers[0], work, config, place)
    return job


def _container(given: Mapping[str, Any], work: Work, config: StepConfig, place: str) -> dict[str, Any]:
    container = dict(given)
    said = merged(container.get("resources") or {}, config.resources)
    asked = resources(work.entry_point, said, work.parameters.get("memory_limit", ""), place)
    if asked:
        container["resources"] = asked
    start = ["python", "-m", "purchase_predict.kubernetes.start", *words(work.command, work.parameters)]
    return container | {
        "name": container.get("name", CONTAINER),
        "image": config.image,
        "command": [literal(word) for word in start],
        "args": [],
        "env": _environment(given.get("env", []), work, config, place),
        # With this policy, the pod's status holds the last log lines of a container that failed. So they are known even
        # if nobody reads the log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _environment(given: list[dict[str, Any]], work: Work, config: StepConfig, place: str) -> list[dict[str, Any]]:
    from_secrets = {
        name: {"name": name, "valueFrom": {"secretKeyRef": {"name": source["secret"], "key": source["key"]}}}
        for name, source in config.env_from_secrets.items()
    }
    plain = config.env | {
        "MLFLOW_RUN_ID": work.run_id,
        "MLFLOW_EXPERIMENT_ID": work.experiment_id,
        "MLFLOW_TRACKING_URI": config.tracking_uri or work.tracking_uri,
        IN_JOB: f"{config.namespace}/{job_name(work)}",
        EXPECTED: text({"entry_point": work.entry_point, **work.expected}),
        "PYTHONUNBUFFERED": "1",
    }
    if work.env is not None:  # otherwise the image's .env decides
        plain["ENV"] = work.env
    found = {str(one.get("name")): one for one in given}
    found |= {name: {"name": name, "value": literal(value)} for name, value in plain.items()} | from_secrets
    _refuse_missing(found, work.entry_point, config, place)
    return list(found.values())


def _refuse_missing(found: Mapping[str, Any], entry_point: str, config: StepConfig, place: str) -> None:
    """Raises if a secret variable that the Job needs is set on this machine, but is not passed to the Job."""
    containers = config.pod.get("containers") or [{}]
    if containers[0].get("envFrom"):  # only the cluster knows which variables envFrom adds
        return
    needed = dict.fromkeys(
        (name for name in SECRETS if os.environ.get(name)), "the tracking server would refuse the Job"
    )
    # These entry points post promotions, refusals and rollbacks. The process of main posts failures of steps.
    if entry_point in ("main", "deploy", "approve", "rollback") and Settings.read().notify_url:
        needed["NOTIFY_URL"] = "the Job could not post promotions, refusals and rollbacks"
    for name, effect in needed.items():
        if name not in found:
            raise click.ClickException(
                f"{place}: {name} is set on this machine, but no Secret passes it to the Job, so {effect}; add {name} "
                "to env_from_secrets, with the entries secret (the name of the Secret) and key (the key in that Secret)"
            )


def _part(whole: dict[str, Any], name: str, place: str) -> dict[str, Any]:
    part: Any = whole.setdefault(name, {})
    if not isinstance(part, dict):
        raise click.ClickException(f"{place}: template: {name} must be a mapping")
    return part


def _only(part: dict[str, Any], wanted: Mapping[str, Any], place: str) -> None:
    for name, value in wanted.items():
        if part.get(name, value) != value:
            raise click.ClickException(
                f"{place}.{name}={part[name]}: must be {value}, or left out: a step's run is computed once, by one pod"
            )
        part[name] = value
