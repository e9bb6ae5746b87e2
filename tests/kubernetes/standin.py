"""A stand-in for a Kubernetes cluster: the API calls that a Job needs, and a Job controller.

It behaves as described in the API's OpenAPI document
(https://github.com/kubernetes/kubernetes/tree/master/api/openapi-spec) and in the API conventions:

- `POST /apis/batch/v1/namespaces/{namespace}/jobs` checks the manifest against the schemas of an old and a new version
  (tests/kubernetes/schemas). A violation is a 400; an unknown field only with `fieldValidation=Strict`. A name that is
  taken is a 409. A used-up quota `count/jobs.batch` is a 403.
- `GET .../jobs/{name}` returns the Job. `GET .../jobs?watch=true&fieldSelector=metadata.name=...&resourceVersion=...`
  returns each change after that version as one line of JSON, until `timeoutSeconds` are over.
- `DELETE .../jobs/{name}?propagationPolicy=Foreground` gives the Job a `deletionTimestamp`. The Job remains until its
  pod has ended. The pod gets SIGTERM, and 30 s later (`terminationGracePeriodSeconds`) SIGKILL.
- `GET /api/v1/namespaces/{namespace}/pods?labelSelector=job-name=...` lists pods, `.../events` with
  `fieldSelector=involvedObject.name=...` lists events, `.../pods/{name}/log?follow&timestamps&sinceTime` returns a log.
- A call without the right bearer token is a 401. Every error is a `Status` object.
- A Job has one pod. If the pod's command exits with 0, the Job becomes `Complete`; otherwise it becomes `Failed` with
  the reason `BackoffLimitExceeded`. `activeDeadlineSeconds` after its start, it becomes `Failed` with the reason
  `DeadlineExceeded`.
- Only the first container of a pod is a process. Further containers count as running until the pod is deleted, and so
  does the pod.
- `$(NAME)` and `$$` in commands and variables are expanded.
- `env` from a Secret that does not exist keeps the container waiting (`CreateContainerConfigError`).

Failures that cannot happen here are simulated: `troubles` holds, by step, the failure of the next pod
(`ImagePullBackOff`, `OOMKilled`, ...). It is reported in the words of the kubelet and the Job controller. With
`exit: <text>`, the pod fails, and `<text>` is the last line of its log.
"""

import copy
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema_rs

from tests.kubernetes.pods import Container, expanded

SCHEMAS = {
    file.stem.removeprefix("job-"): json.loads(file.read_text())
    for file in sorted((Path(__file__).parent / "schemas").glob("job-*.json"))
}
_VALIDATORS = {version: jsonschema_rs.validator_for(schema) for version, schema in SCHEMAS.items()}
TOKEN = "token-of-the-launcher"
#: Seconds from SIGTERM to SIGKILL when a pod is deleted.
GRACE = 30.0

_LOW = "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 0. "
_QUOTA = (
    'Error creating: pods "{name}-x" is forbidden: exceeded quota: team, requested: requests.memory=5Gi, '
    "used: requests.memory=30Gi, limited: requests.memory=32Gi"
)
#: The kubelet's message for each failure that keeps a container waiting.
WAITING = {
    "ErrImagePull": "rpc error: code = NotFound desc = failed to pull and unpack image: not found",
    "ImagePullBackOff": 'Back-off pulling image "{image}"',
}


class Error(Exception):
    """An error of the API, which the caller gets as a `Status` object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass
class Cluster:
    """The cluster's state, its API and its Job controller.

    Attributes:
        images: the folder of each image, by the image's name with digest.
        python: the folder of the `python` in the images.
        machines: the network namespace of each step; empty: containers use the network of this process.
        hidden: the folder that is hidden from containers; None: containers are plain processes.
        secrets: the values of the Secrets, by name and key.
        troubles: by step, the failure of the step's next pod.
        job_quota: the maximum number of Jobs; None: no maximum.
        outages: how many of the next calls get a 503, as while the API restarts.
        token: the bearer token that a call must have.
        created: called with the step of a new Job, after the Job was created and before the API answers that call.
        submitted: every accepted manifest, unchanged.
        jobs, pods: the Jobs and pods that exist, by name.
        events: all events.
        containers: every container that has started, by the name of its pod.
    """

    images: Mapping[str, Path]
    python: Path
    machines: Mapping[str, str] = field(default_factory=dict)
    hidden: Path | None = None
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    job_quota: int | None = None
    outages: int = 0
    token: str = TOKEN
    created: Callable[[str], None] = lambda step: None
    submitted: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    containers: dict[str, Container] = field(default_factory=dict)
    #: The steps whose pods wait until a node has room for them (see `release`).
    held: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self._version = 0
        self._history: list[tuple[int, str, dict[str, Any]]] = []

    # ---- the API -------------------------------------------------------------------------------------------------

    def create(self, namespace: str, job: dict[str, Any], strict: bool) -> dict[str, Any]:
        for version, validator in _VALIDATORS.items():
            for error in validator.iter_errors(job):
                if strict or "additional" not in error.message.lower():
                    raise Error(400, "BadRequest", f'strict decoding error (schema of {version}): "{error.message}"')
        name = job["metadata"]["name"]
        if job["metadata"].get("namespace", namespace) != namespace:
            raise Error(400, "BadRequest", "the namespace of the object does not match the namespace of the request")
        with self.changed:
            if name in self.jobs:
                raise Error(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
            if self.job_quota is not None and len(self.jobs) >= self.job_quota:
                used = f"count/jobs.batch={len(self.jobs)}"
                message = f"exceeded quota: team, requested: count/jobs.batch=1, used: {used}, limited: {used}"
                raise Error(403, "Forbidden", f'jobs.batch "{name}" is forbidden: {message}')
            self.submitted.append(copy.deepcopy(job))
            made = copy.deepcopy(job)
            made["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now()}
            made["status"] = {"startTime": _now(), "active": 1}
            self.jobs[name] = made
            self._note("ADDED", made)
        self._begin(made)
        self.created(made["metadata"]["labels"]["purchase-predict/step"])
        seconds = made["spec"].get("activeDeadlineSeconds")
        if seconds:
            threading.Timer(seconds, self._deadline, [name, seconds]).start()
        return made

    def job(self, name: str) -> dict[str, Any]:
        with self.changed:
            if name not in self.jobs:
                raise Error(404, "NotFound", f'jobs.batch "{name}" not found')
            return copy.deepcopy(self.jobs[name])

    def delete(self, name: str) -> None:
        self.job(name)
        with self.changed:
            self.jobs[name]["metadata"]["deletionTimestamp"] = _now()
            self._note("MODIFIED", self.jobs[name])
        threading.Thread(target=self._collect, args=[name], daemon=True).start()

    def pods_of(self, job: str) -> list[dict[str, Any]]:
        with self.changed:
            return [copy.deepcopy(pod) for pod in self.pods.values() if pod["metadata"]["labels"]["job-name"] == job]

    def watch(self, name: str, since: int, seconds: float) -> Iterator[dict[str, Any]]:
        deadline = time.monotonic() + seconds
        while True:
            with self.changed:
                new = [one for one in self._history if one[0] > since and one[2]["metadata"]["name"] == name]
                if not new and not self.changed.wait(max(0.0, deadline - time.monotonic())):
                    return
            for version, kind, job in new:
                since = version
                yield {"type": kind, "object": job}

    # ---- the Job controller and the kubelet -----------------------------------------------------------------------

    def _note(self, kind: str, job: dict[str, Any]) -> None:
        self._version += 1
        job["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, kind, copy.deepcopy(job)))
        self.changed.notify_all()

    def _begin(self, job: dict[str, Any]) -> None:
        name, spec = job["metadata"]["name"], job["spec"]["template"]["spec"]
        step = job["metadata"]["labels"]["purchase-predict/step"]
        trouble = self.troubles.pop(step, "")
        if trouble == "quota":
            self._event(name, "FailedCreate", _QUOTA.format(name=name))
            return
        container = spec["containers"][0]
        labels = job["spec"]["template"]["metadata"]["labels"] | {"job-name": name}
        pod = {
            "metadata": {"name": f"{name}-x", "labels": labels, "creationTimestamp": _now()},
            "spec": copy.deepcopy(spec),
            "status": {
                "phase": "Pending",
                "containerStatuses": [{"name": one["name"], "state": {}} for one in spec["containers"]],
            },
        }
        with self.changed:
            self.pods[pod["metadata"]["name"]] = pod
        if trouble in WAITING:
            self._waits(pod, trouble, WAITING[trouble].format(image=container["image"]))
        elif trouble == "OOMKilled":
            self._ends(pod, {"exitCode": 137, "reason": "OOMKilled"})
        elif trouble.startswith("exit: "):
            self._ends(pod, {"exitCode": 3, "reason": "Error", "message": f"first\n{trouble.removeprefix('exit: ')}\n"})
        elif trouble == "Evicted":
            pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": _LOW}
            self.fail(name)
        elif trouble == "Pending":
            scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            pod["status"]["conditions"] = [scheduled | {"message": "0/3 nodes are available: 3 Insufficient memory."}]
        else:
            threading.Thread(target=self._schedule, args=[pod, step], daemon=True).start()

    def _schedule(self, pod: dict[str, Any], step: str) -> None:
        with self.changed:
            self.changed.wait_for(lambda: step not in self.held)
        if self.jobs.get(pod["metadata"]["labels"]["job-name"], {}).get("status", {}).get("active"):
            self._start(pod, step)

    def _start(self, pod: dict[str, Any], step: str) -> None:
        container = pod["spec"]["containers"][0]
        environ: dict[str, str] = {}
        for one in container.get("env", []):
            if "valueFrom" not in one:
                environ[one["name"]] = expanded(one.get("value", ""), environ)
                continue
            ref = one["valueFrom"]["secretKeyRef"]
            if ref["name"] not in self.secrets:
                return self._waits(pod, "CreateContainerConfigError", f'secret "{ref["name"]}" not found')
            if ref["key"] not in self.secrets[ref["name"]]:
                message = f"couldn't find key {ref['key']} in Secret ml/{ref['name']}"
                return self._waits(pod, "CreateContainerConfigError", message)
            environ[one["name"]] = self.secrets[ref["name"]][ref["key"]]
        if container["image"] not in self.images:
            return self._waits(pod, "ImagePullBackOff", WAITING["ImagePullBackOff"].format(image=container["image"]))
        name = pod["metadata"]["name"]
        # The lock is held during the start, so that the end of the container cannot be recorded before its start.
        with self.changed:
            self.containers[name] = Container(
                self.images[container["image"]],
                [expanded(word, environ) for word in (*container["command"], *container.get("args", []))],
                environ | {"HOSTNAME": name}, self.machines.get(step, ""), self.hidden, self.python,
                lambda: self._container_ended(pod),
            )  # fmt: skip
            pod["status"] |= {"phase": "Running"}
            for status in pod["status"]["containerStatuses"]:
                status["state"] = {"running": {"startedAt": _now()}}
            job = self.jobs[pod["metadata"]["labels"]["job-name"]]
            job["status"]["ready"] = 1
            self._note("MODIFIED", job)

    def _container_ended(self, pod: dict[str, Any]) -> None:
        container = self.containers[pod["metadata"]["name"]]
        last = "\n".join(text for _, text in container.lines[-80:])[-2048:]
        reason = "Error" if container.code else "Completed"
        self._ends(pod, {"exitCode": container.code, "reason": reason, "message": last if container.code else ""})

    def _ends(self, pod: dict[str, Any], terminated: dict[str, Any]) -> None:
        name = pod["metadata"]["labels"]["job-name"]
        with self.changed:
            pod["status"]["containerStatuses"][0]["state"] = {"terminated": terminated}
            if len(pod["spec"]["containers"]) > 1:  # the other containers still run, and so does the pod
                if job := self.jobs.get(name):
                    job["status"]["ready"] = 0
                    self._note("MODIFIED", job)
                return
            pod["status"]["phase"] = "Failed" if terminated["exitCode"] else "Succeeded"
        if terminated["exitCode"]:
            self.fail(name)
        else:
            self._condition(name, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")

    def fail(self, name: str) -> None:
        """Makes a Job fail, as if its node were lost."""
        self._condition(name, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def _condition(self, name: str, kind: str, reason: str, message: str) -> None:
        with self.changed:
            job = self.jobs.get(name)
            if job is None or job["status"].get("conditions"):
                return
            condition = {"type": kind, "status": "True", "reason": reason, "message": message}
            job["status"] |= {"conditions": [condition], "active": 0, "ready": 0}
            self._note("MODIFIED", job)

    def _waits(self, pod: dict[str, Any], reason: str, message: str) -> None:
        with self.changed:
            pod["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": reason, "message": message}}

    def _event(self, name: str, reason: str, message: str) -> None:
        self.events.append({"involvedObject": {"name": name}, "reason": reason, "message": message})

    def _deadline(self, name: str, seconds: int) -> None:
        if name in self.jobs and not self.jobs[name]["status"].get("conditions"):
            self._condition(name, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
            self._stop_pods(name)

    def _collect(self, name: str) -> None:
        self._stop_pods(name)
        with self.changed:
            for pod in [one for one in self.pods if self.pods[one]["metadata"]["labels"]["job-name"] == name]:
                del self.pods[pod]
            self._note("DELETED", self.jobs.pop(name))

    def _stop_pods(self, name: str) -> None:
        for pod in self.pods_of(name):
            if container := self.containers.get(pod["metadata"]["name"]):
                container.stop(GRACE)

    def release(self) -> None:
        """There is room for every pod from now on."""
        with self.changed:
            self.held.clear()
            self.changed.notify_all()

    def close(self) -> None:
        """Kills the containers that still run."""
        for container in self.containers.values():
            container.kill()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
