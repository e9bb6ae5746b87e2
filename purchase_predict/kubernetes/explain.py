"""Explains the state of a Job in one line with a remedy, from the Job, its pods and their events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

#: The kubelet's reasons for a container that waits although it has a node, in our words.
_WAITING = {
    "ImagePullBackOff": "its image cannot be pulled",
    "ErrImagePull": "its image cannot be pulled",
    "InvalidImageName": "its image has a wrong name",
    "ErrImageNeverPull": "its image is not on the node, and imagePullPolicy is Never",
    "CreateContainerConfigError": "its container cannot be made",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be started",
}
_IMAGE_WAY_OUT = "check image in backend_config, and that the node may pull it (imagePullSecrets in the template)"
QUOTA_WAY_OUT = "wait until other Jobs have ended, request less (resources in backend_config), or have the quota raised"
_SECRET_WAY_OUT = "create it in the namespace of the Job, or correct env_from_secrets in backend_config"


@dataclass(frozen=True)
class State:
    """The state of a Job.

    Attributes:
        ended: whether it has ended.
        succeeded: whether its command ended with exit code 0.
        running: whether its container has begun.
        problem: why it failed, or what keeps it from starting; empty: nothing.
        exited: whether its command ended by itself, with an exit code other than 0.
        passing: whether the problem may pass by itself, such as a full cluster.
        lingers: whether further containers keep the Job, whose command has ended, from ending.
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
        return State(problem=_not_created(events))
    status = _container(pod)
    if "terminated" in status and _lingers(pod):
        problem = _ended_by_cluster({}, job, pod)
        return replace(State(ended=True, problem=problem) if problem else _exit(pod), lingers=True)
    if "running" in status or "terminated" in status:  # the Job's own end says more, and follows soon
        return State(running=True)
    problem = _waits(pod, events)
    if not problem and (where := _condition(pod, "PodScheduled")) and where.get("reason") == "Unschedulable":
        return State(problem=f"no node has room for it ({where.get('message', '')})", passing=True)
    return State(problem=problem)


def _container(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The state of the container that runs the step, the pod's first one: `waiting`, `running` or `terminated`."""
    name = pod["spec"]["containers"][0].get("name")
    statuses = pod.get("status", {}).get("containerStatuses") or []  # in any order
    return dict(next((one.get("state") or {} for one in statuses if one.get("name") == name), {}))


def _lingers(pod: Mapping[str, Any]) -> bool:
    """Whether a container beside the step's has not ended. Kubernetes waits for it, and it may never end."""
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
    """Why the cluster ended a Job; empty: its command ended by itself."""
    if condition.get("reason") == "DeadlineExceeded":
        seconds = job["spec"].get("activeDeadlineSeconds")
        return f"the cluster ended it after its deadline of {seconds} s: raise deadline in backend_config"
    if pod is None:
        return f"its pod is gone ({condition.get('message', 'the node was lost or the pod deleted')}): run again"
    status = pod.get("status", {})
    if status.get("reason") == "Evicted":
        return (
            f"it was evicted from its node ({status.get('message', '').strip()}): request what it needs "
            "(resources in backend_config), or lower memory_limit"
        )
    terminated = _container(pod).get("terminated") or {}
    if terminated.get("reason") == "OOMKilled":
        limit = _limit(pod)
        return (
            f"it was killed because it took more memory than its limit{f' of {limit}' if limit else ''} (OOMKilled): "
            "raise resources.limits.memory in backend_config, or lower memory_limit"
        )
    disruption = _condition(pod, "DisruptionTarget")
    if disruption.get("status") == "True":
        return f"the cluster took its pod away ({disruption.get('reason')}: {disruption.get('message', '')}): run again"
    if not terminated:
        return f"its pod ended ({status.get('reason') or condition.get('message', 'for an unknown reason')}): run again"
    return ""


def _exit(pod: Mapping[str, Any] | None) -> State:
    """The state of a Job whose command ended by itself. Further containers may have failed; they do not count."""
    terminated = _container(pod)["terminated"] if pod else {}
    if terminated.get("exitCode") == 0:
        return State(ended=True, succeeded=True)
    last = terminated.get("message", "").strip().splitlines()[-1:]
    why = "".join(f": {line}" for line in last)
    problem = f"it ended with exit code {terminated.get('exitCode')} ({terminated.get('reason', 'Error')}){why}"
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
        return f"the quota of its namespace requires limits ({messages[-1]}): give resources in backend_config"
    return f"the cluster cannot create its pod ({messages[-1]}): check service_account and template in backend_config"


def _waits(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """Why a container of a pod (the step's or a sidecar) cannot start; empty: none is hindered."""
    status = pod.get("status", {})
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    waiting = [(one.get("state") or {}).get("waiting") or {} for one in statuses]
    hindered = next((one for one in waiting if one.get("reason") in _WAITING), {})
    reason, message = hindered.get("reason", ""), hindered.get("message", "")
    mounts = [one.get("message", "") for one in events if one.get("reason") == "FailedMount"]
    if mounts and "secret" in mounts[-1] and "not found" in mounts[-1]:
        return f"it needs a Secret or key that does not exist ({mounts[-1]}): {_SECRET_WAY_OUT}"
    if not reason:
        return ""
    if "secret" in message or "couldn't find key" in message:
        return f"it needs a Secret or key that does not exist ({message}): {_SECRET_WAY_OUT}"
    way_out = _IMAGE_WAY_OUT if "Image" in reason else "check the template in backend_config"
    return f"{_WAITING[reason]} ({reason}{f': {message}' if message else ''}): {way_out}"
