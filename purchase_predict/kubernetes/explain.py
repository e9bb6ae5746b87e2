"""Explains the state of a Job in one line with a remedy, from the Job, its pods and their events."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

#: The kubelet's names of the reasons why a container cannot start, each with its wording in messages.
_WAITING = {
    "ImagePullBackOff": "its image cannot be pulled",
    "ErrImagePull": "its image cannot be pulled",
    "InvalidImageName": "its image has an invalid name",
    "ErrImageNeverPull": "its image is not on the node, and imagePullPolicy is Never",
    "CreateContainerConfigError": "its container cannot be created",
    "CreateContainerError": "its container cannot be created",
    "RunContainerError": "its container cannot be started",
}
_IMAGE_WAY_OUT = (
    "check the setting image in backend_config, and whether the node may pull the image (imagePullSecrets in the "
    "template)"
)
_SUSPENDED = (
    "the Job is suspended until a queue or a person resumes it (spec.suspend: false); if nobody does, remove suspend "
    "from the template in backend_config"
)
#: Remedy for a quota that is used up, in messages.
QUOTA_WAY_OUT = "wait until other Jobs have ended, request less (resources in backend_config), or have the quota raised"
#: Messages about a missing object. The group that matched holds the kind of the object.
_NOT_FOUND = re.compile(
    r'\b(?P<a>secret|configmap|persistentvolumeclaim)s? "[^"]*" not found'
    r"|couldn't find key .* in (?P<b>Secret|ConfigMap) "
    r"|references non-existent (?P<c>secret|config) key",
    re.IGNORECASE,
)
_TEMPLATE = "the template in backend_config"
#: By kind of object: its name in messages, and the setting that refers to the object.
_OBJECTS = {
    "secret": ("Secret or key", f"env_from_secrets or {_TEMPLATE}"),
    "configmap": ("ConfigMap or key", _TEMPLATE),
    "config": ("ConfigMap or key", _TEMPLATE),
    "persistentvolumeclaim": ("PersistentVolumeClaim", f"volumes in {_TEMPLATE}"),
}
#: Reasons of events that say that the node cannot set up the pod.
_NOT_SET_UP = {"FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox"}
#: Reasons of events that come only after the pod's volumes are mounted.
_MOUNTED = {"Pulling", "Pulled", "Created", "Started"}
#: Messages of the scheduler: no node has room.
_ROOM = re.compile(r"Insufficient|Too many pods")
#: Messages of the scheduler and the autoscaler: a node does not match the pod.
_NO_SUCH_NODE = re.compile(r"didn't match Pod's node affinity/selector|had untolerated taint")
#: Messages of the autoscaler: it adds no node for now.
_FOR_NOW = re.compile(r"Insufficient|max node group size reached|backoff|limit", re.IGNORECASE)


@dataclass(frozen=True)
class State:
    """The state of a Job.

    Attributes:
        ended: whether it has ended; also true if `lingers` is true.
        succeeded: whether its command ended with exit code 0.
        running: whether the step's container has started, and the Job has not ended.
        problem: why it failed, or what keeps it from starting; empty: no problem is known.
        exited: whether its command ended by itself, with an exit code other than 0.
        passing: whether the problem may pass by itself, such as a full cluster.
        lingers: whether its command has ended, but other containers of the pod keep the Job from ending.
    """

    ended: bool = False
    succeeded: bool = False
    running: bool = False
    problem: str = ""
    exited: bool = False
    passing: bool = False
    lingers: bool = False


def state_of(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> State:
    """The state of a Job.

    Args:
        job: the Job.
        pods: its pods, the newest last.
        events: the cluster's events about the Job and its pods.
    """
    conditions = {one["type"]: one for one in job.get("status", {}).get("conditions") or [] if one["status"] == "True"}
    if "Complete" in conditions:
        return State(ended=True, succeeded=True)
    pod = pods[-1] if pods else None
    if "Failed" in conditions:
        if problem := _ended_by_cluster(conditions["Failed"], job, pod):
            return State(ended=True, problem=problem)
        return _exit(pod)
    if pod is None:
        if job["spec"].get("suspend"):
            return State(problem=_SUSPENDED, passing=True)
        return State(problem=_not_created(events))
    status = _container(pod)
    if "terminated" in status and _lingers(pod):
        problem = _ended_by_cluster({}, job, pod)
        return replace(State(ended=True, problem=problem) if problem else _exit(pod), lingers=True)
    # A terminated container counts as running for now: the Job soon gets the condition Complete or Failed.
    if "running" in status or "terminated" in status:
        return State(running=True)
    if problem := _waits(pod):
        return State(problem=problem)
    return _scheduled(pod, events) or _set_up(events)


def _scheduled(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> State | None:
    """The state of a pod without a node; None: the pod has a node, or the scheduler has not given a reason yet."""
    scheduled = _condition(pod, "PodScheduled")
    reason, message = scheduled.get("reason"), str(scheduled.get("message", ""))
    if scheduled.get("status") == "True" or reason not in ("Unschedulable", "SchedulingGated"):
        return None
    if reason == "SchedulingGated":
        return State(
            problem=f"scheduling gates hold its pod back ({message}): somebody has to remove the gates", passing=True
        )
    if missing := _missing(message):
        return State(problem=missing)
    if "unbound immediate PersistentVolumeClaims" in message:
        why = f"its PersistentVolumeClaim has no disk yet ({message})"
        return State(problem=f"{why}: if the claim gets no disk, check its StorageClass", passing=True)
    if _ROOM.search(message) or not _NO_SUCH_NODE.search(message):
        return State(problem=f"no node has room for its pod ({message})", passing=True)
    why = f"no node matches its node_selector, affinity and tolerations ({message})"
    return State(
        problem=f"{why}: correct them in backend_config, or add a node that matches",
        passing=not _no_node_follows(events),
    )


def _no_node_follows(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the autoscaler says that none of the nodes that it could add would match."""
    verdicts = {one.get("reason"): str(one.get("message", "")) for one in events}
    verdict = verdicts.get("NotTriggerScaleUp", "")
    return "TriggeredScaleUp" not in verdicts and bool(_NO_SUCH_NODE.search(verdict)) and not _FOR_NOW.search(verdict)


def _set_up(events: Sequence[Mapping[str, Any]]) -> State:
    """The state of a pod whose containers report no problem. Its node may still fail to set the pod up."""
    messages = [str(one.get("message", "")) for one in events if one.get("reason") in _NOT_SET_UP]
    if not messages or any(one.get("reason") in _MOUNTED for one in events):
        return State()
    if missing := next(filter(None, map(_missing, messages)), ""):
        return State(problem=missing)
    # This problem may pass by itself, because the node tries again, and another pod may release a disk.
    return State(
        problem=f"its node cannot set up the pod ({messages[-1]}): check the node and {_TEMPLATE}", passing=True
    )


def _missing(message: str) -> str:
    """The explanation of a message about an object that does not exist; empty: the message is about something else."""
    if not (found := _NOT_FOUND.search(message)):
        return ""
    kind, setting = _OBJECTS[str(found["a"] or found["b"] or found["c"]).lower()]
    way_out = f"create it in the namespace of the Job, or correct {setting}"
    return f"the Job needs a {kind} that does not exist ({message}): {way_out}"


def _container(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The state of the step's container, which is the pod's first.

    Its only key is `waiting`, `running` or `terminated`. The state is empty if the pod does not report it.
    """
    name = pod["spec"]["containers"][0].get("name")
    statuses = pod.get("status", {}).get("containerStatuses") or []  # in any order
    return dict(next((one.get("state") or {} for one in statuses if one.get("name") == name), {}))


def _lingers(pod: Mapping[str, Any]) -> bool:
    """Whether any container of a pod has not ended. The Job ends only when all have ended, which may never happen."""
    ended = {
        one.get("name")
        for one in pod.get("status", {}).get("containerStatuses") or []
        if "terminated" in (one.get("state") or {})
    }
    return any(one.get("name") not in ended for one in pod["spec"]["containers"])


def _condition(pod: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions: Sequence[Mapping[str, Any]] = pod.get("status", {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {})


def _ended_by_cluster(condition: Mapping[str, Any], job: Mapping[str, Any], pod: Mapping[str, Any] | None) -> str:
    """Why a Job ended, if its command did not end by itself; empty: the command ended by itself."""
    if condition.get("reason") == "DeadlineExceeded":
        seconds = job["spec"].get("activeDeadlineSeconds")
        return f"the cluster ended the Job after its deadline of {seconds} s: raise deadline in backend_config"
    if pod is None:
        return f"its pod is gone ({condition.get('message', 'the node was lost or the pod deleted')}): run again"
    status = pod.get("status", {})
    if status.get("reason") == "Evicted":
        return (
            f"its pod was evicted from the node ({status.get('message', '').strip()}): request the resources that the "
            "step needs (resources in backend_config), or lower memory_limit"
        )
    terminated = _container(pod).get("terminated") or {}
    if terminated.get("reason") == "OOMKilled":
        limit = _limit(pod)
        return (
            f"its container was killed because it used more memory than its limit{f' of {limit}' if limit else ''} "
            "(OOMKilled): raise resources.limits.memory in backend_config, or lower memory_limit"
        )
    disruption = _condition(pod, "DisruptionTarget")
    if disruption.get("status") == "True":
        return f"the cluster removed its pod ({disruption.get('reason')}: {disruption.get('message', '')}): run again"
    for one in status.get("initContainerStatuses", []) if not terminated else []:
        if code := (one.get("state", {}).get("terminated") or {}).get("exitCode"):
            return f"its init container {one['name']} ended with exit code {code}: check {_TEMPLATE}"
    if not terminated:
        return f"its pod ended ({status.get('reason') or condition.get('message', 'for an unknown reason')}): run again"
    return ""


def _exit(pod: Mapping[str, Any] | None) -> State:
    """The state of a Job whose command ended by itself. A failure of another container does not count."""
    terminated = _container(pod)["terminated"] if pod else {}
    if terminated.get("exitCode") == 0:
        return State(ended=True, succeeded=True)
    last = terminated.get("message", "").strip().splitlines()[-1:]
    why = "".join(f": {line}" for line in last)
    problem = (
        f"its command ended with exit code {terminated.get('exitCode')} ({terminated.get('reason', 'Error')}){why}"
    )
    return State(ended=True, exited=True, problem=problem)


def _limit(pod: Mapping[str, Any]) -> str:
    containers = pod.get("spec", {}).get("containers") or [{}]
    return str((containers[0].get("resources", {}).get("limits") or {}).get("memory", ""))


def _not_created(events: Sequence[Mapping[str, Any]]) -> str:
    """Why the cluster cannot create a pod of the Job; empty: it reports no such failure."""
    messages = [one.get("message", "") for one in events if one.get("reason") == "FailedCreate"]
    if not messages:
        return ""
    if "exceeded quota" in messages[-1]:
        return f"the quota of its namespace is used up ({messages[-1]}): {QUOTA_WAY_OUT}"
    if "failed quota" in messages[-1]:
        return (
            f"the quota of its namespace requires requests or limits ({messages[-1]}): set resources in backend_config"
        )
    return f"the cluster cannot create its pod ({messages[-1]}): check service_account and template in backend_config"


def _waits(pod: Mapping[str, Any]) -> str:
    """Why a container of a pod (init container, step or sidecar) cannot start; empty: none reports a problem."""
    status = pod.get("status", {})
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    waiting = [(one.get("state") or {}).get("waiting") or {} for one in statuses]
    hindered = next((one for one in waiting if one.get("reason") in _WAITING), {})
    reason, message = hindered.get("reason", ""), hindered.get("message", "")
    if not reason:
        return ""
    if missing := _missing(message):
        return missing
    way_out = _IMAGE_WAY_OUT if "Image" in reason else f"check {_TEMPLATE}"
    return f"{_WAITING[reason]} ({reason}{f': {message}' if message else ''}): {way_out}"
