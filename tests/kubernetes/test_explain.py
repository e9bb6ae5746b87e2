from typing import Any

import pytest

from purchase_predict.kubernetes.explain import State, state_of


def job(*conditions: dict[str, str]) -> dict[str, Any]:
    true = [one | {"status": "True"} for one in conditions]
    return {"spec": {"activeDeadlineSeconds": 60}, "status": {"conditions": true}}


FAILED = job({"type": "Failed", "reason": "BackoffLimitExceeded", "message": "Job has reached the backoff limit"})
STARTED = job()


def pod(state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    limits = {"resources": {"limits": {"memory": "2Gi"}}}
    return {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "step", **limits}, {"name": "proxy"}]},
        "status": {"containerStatuses": [{"name": "proxy"}, {"name": "step", "state": state or {}}], **status},
    }


def alone(state: dict[str, Any]) -> dict[str, Any]:
    """A pod whose only container is that of the step."""
    made = pod(state)
    made["spec"]["containers"].pop()
    return made


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod({"waiting": {"reason": reason, "message": message}})


def event(reason: str, message: str) -> dict[str, str]:
    return {"reason": reason, "message": message}


def unscheduled(message: str, reason: str = "Unschedulable") -> dict[str, Any]:
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}])


MATCH = "node(s) didn't match Pod's node affinity/selector"
LOST = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "node is gone"}
TROUBLES = {
    "image": (STARTED, [waiting("ImagePullBackOff", "Back-off pulling image")], [],
              "its image cannot be pulled (ImagePullBackOff: Back-off pulling image): check the setting image in"),
    "secret": (STARTED, [waiting("CreateContainerConfigError", 'secret "mlflow" not found')], [],
               'the Job needs a Secret or key that does not exist (secret "mlflow" not found): create it in the'),
    "key": (STARTED, [waiting("CreateContainerConfigError", "couldn't find key user in Secret ml/mlflow")], [],
            "the Job needs a Secret or key that does not exist (couldn't find key user in Secret ml/mlflow)"),
    "mounted": (STARTED, [waiting("ContainerCreating")], [event("FailedMount", 'volume "x": secret "x" not found')],
                "the Job needs a Secret or key that does not exist"),
    "mounted key": (STARTED, [waiting("ContainerCreating")],
                    [event("FailedMount", 'failed for volume "x" : references non-existent secret key: user')],
                    "the Job needs a Secret or key that does not exist"),
    "mounted configmap": (STARTED, [waiting("ContainerCreating")],
                          [event("FailedMount", 'failed for volume "secret-x" : configmap "shop" not found'),
                           event("FailedMount", "Unable to attach or mount volumes: timed out waiting")],
                          "the Job needs a ConfigMap or key that does not exist (failed for volume"),
    "configmap": (STARTED, [waiting("CreateContainerConfigError", "couldn't find key user in ConfigMap ml/shop")], [],
                  "ml/shop): create it in the namespace of the Job, or correct the template in backend_config"),
    "claim": (STARTED, [unscheduled('0/3 nodes are available: persistentvolumeclaim "data" not found. preemption: 0')],
              [], "the Job needs a PersistentVolumeClaim that does not exist (0/3 nodes"),
    "selector": (STARTED, [unscheduled(f"0/3 nodes are available: 3 {MATCH}.")],
                 [event("NotTriggerScaleUp", f"pod didn't trigger scale-up: 2 {MATCH}")],
                 "no node matches its node_selector, affinity and tolerations (0/3 nodes"),
    "quota": (STARTED, [], [event("FailedCreate", 'pods "x" is forbidden: exceeded quota: team, requested: pods=1')],
              "the quota of its namespace is used up"),
    "limits": (STARTED, [], [event("FailedCreate", "failed quota: team: must specify limits.memory")],
               "set resources in backend_config"),
    "account": (STARTED, [], [event("FailedCreate", "error looking up service account ml/x")],
                "check service_account and template"),
    "memory": (FAILED, [pod({"terminated": {"reason": "OOMKilled", "exitCode": 137}})], [],
               "its container was killed because it used more memory than its limit of 2Gi (OOMKilled): raise"),
    "init": (FAILED, [pod(initContainerStatuses=[
        {"name": "certificates", "state": {"terminated": {"exitCode": 0}}},
        {"name": "wait-for-proxy", "state": {"terminated": {"exitCode": 3}}},
    ])], [], "its init container wait-for-proxy ended with exit code 3: check the template in backend_config"),
    "evicted": (FAILED, [pod(reason="Evicted", message="The node was low on resource: ephemeral-storage. ")], [],
                "its pod was evicted from the node (The node was low on resource: ephemeral-storage.): request"),
    "deadline": (job({"type": "Failed", "reason": "DeadlineExceeded"}), [], [],
                 "the cluster ended the Job after its deadline of 60 s: raise deadline in backend_config"),
    "node": (FAILED, [pod(conditions=[LOST])], [],
             "the cluster removed its pod (DeletionByTaintManager: node is gone)"),
    "gone": (FAILED, [], [], "its pod is gone (Job has reached the backoff limit): run again"),
    "code": (FAILED, [pod({"terminated": {"reason": "Error", "exitCode": 3, "message": "first\nlast words\n"}})], [],
             "its command ended with exit code 3 (Error): last words"),
    "no program": (STARTED, [waiting("CreateContainerError", 'exec: "python": not found')], [],
                   "its container cannot be created (CreateContainerError"),
}  # fmt: skip


def explained(trouble: tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, str]], str]) -> State:
    """The state of a trouble. Asserts that its problem is one line with the expected text."""
    of_job, pods, events, says = trouble
    state = state_of(of_job, pods, events)
    assert says in state.problem
    assert "\n" not in state.problem
    return state


@pytest.mark.parametrize("trouble", TROUBLES)
def test_every_trouble_is_one_line_with_the_way_out(trouble: str) -> None:
    state = explained(TROUBLES[trouble])
    assert not state.succeeded
    assert not state.passing
    assert state.ended == (TROUBLES[trouble][0] is not STARTED)


def test_a_container_beside_the_step_may_keep_it_from_starting() -> None:
    waits = {"name": "proxy", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    state = state_of(STARTED, [pod({"waiting": {"reason": "PodInitializing"}}, initContainerStatuses=[waits])], [])
    assert state.problem.startswith("its image cannot be pulled (ErrImagePull: no such image)")


def beside(step: dict[str, Any], proxy: dict[str, Any] | None) -> dict[str, Any]:
    """A pod whose step container has ended, in the state `step`. The container beside it is in the state `proxy`."""
    made = pod({"terminated": step})
    made["status"]["containerStatuses"][0] |= {"state": proxy} if proxy else {}
    return made


@pytest.mark.parametrize("proxy", [{"running": {}}, {"waiting": {"reason": "ImagePullBackOff"}}, None])
def test_a_container_beside_the_step_does_not_keep_the_job_from_ending(proxy: dict[str, Any] | None) -> None:
    done = state_of(STARTED, [beside({"exitCode": 0}, proxy)], [])
    assert (done.ended, done.succeeded, done.lingers, done.problem) == (True, True, True, "")
    failed = state_of(STARTED, [beside({"exitCode": 3, "message": "last words"}, proxy)], [])
    assert (failed.ended, failed.succeeded, failed.lingers, failed.exited) == (True, False, True, True)
    assert failed.problem == "its command ended with exit code 3 (Error): last words"
    killed = state_of(STARTED, [beside({"exitCode": 137, "reason": "OOMKilled"}, proxy)], [])
    assert (killed.ended, killed.lingers, killed.exited) == (True, True, False)
    assert "OOMKilled" in killed.problem


def test_a_failure_of_a_container_beside_the_step_is_none_of_the_step() -> None:
    state = state_of(FAILED, [beside({"exitCode": 0}, {"terminated": {"exitCode": 143}})], [])
    assert (state.ended, state.succeeded, state.lingers) == (True, True, False)
    # If all containers have ended, the Job soon gets a condition. Until then it counts as running.
    assert state_of(STARTED, [beside({"exitCode": 0}, {"terminated": {"exitCode": 0}})], []).running


NO_MATCH = unscheduled(f"0/3 nodes are available: 3 {MATCH}. preemption: 0/3 nodes are available: not helpful.")
SUSPENDED = {"spec": {"suspend": True}, "status": {"conditions": [{"type": "Suspended", "status": "True"}]}}
MAY_PASS = {
    "full": (STARTED, [unscheduled("0/3 nodes")], [], "no node has room for its pod (0/3 nodes)"),
    "full where it may run": (STARTED, [unscheduled(f"0/3 nodes: 1 Insufficient memory, 2 {MATCH}")], [],
                              "no node has room for its pod (0/3 nodes"),
    "no autoscaler has said anything": (STARTED, [NO_MATCH], [], "no node matches its node_selector, affinity and"),
    "the autoscaler may not now": (STARTED, [NO_MATCH], [event("NotTriggerScaleUp", f"2 {MATCH}, 1 max node group size "
                                   "reached")], "no node matches its node_selector, affinity and"),
    "the autoscaler adds a node": (STARTED, [NO_MATCH], [event("NotTriggerScaleUp", f"2 {MATCH}"),
                                   event("TriggeredScaleUp", "pool big 0->1")], "or add a node that matches"),
    "taints": (STARTED, [unscheduled("0/1 nodes are available: 1 node(s) had untolerated taint {big: }.")], [],
               "no node matches its node_selector, affinity and tolerations (0/1 nodes"),
    "disk": (STARTED, [unscheduled("0/3 nodes: pod has unbound immediate PersistentVolumeClaims")], [],
             "its PersistentVolumeClaim has no disk yet (0/3 nodes"),
    "gates": (STARTED, [unscheduled("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated")], [],
              "scheduling gates hold its pod back"),
    "suspended": (SUSPENDED, [], [], "the Job is suspended until a queue or a person resumes it (spec.suspend: false)"),
    "attached elsewhere": (STARTED, [waiting("ContainerCreating")], [event("FailedAttachVolume", "Multi-Attach error")],
                           "its node cannot set up the pod (Multi-Attach error): check the node and the template"),
    "network": (STARTED, [waiting("ContainerCreating")], [event("FailedCreatePodSandBox", "no CNI")],
                "its node cannot set up the pod (no CNI)"),
}  # fmt: skip


@pytest.mark.parametrize("trouble", MAY_PASS)
def test_what_may_pass_is_one_line_and_the_job_waits(trouble: str) -> None:
    state = explained(MAY_PASS[trouble])
    assert (state.passing, state.ended, state.running) == (True, False, False)


def test_a_volume_that_was_mounted_after_all_is_no_trouble() -> None:
    events = [event("FailedMount", 'configmap "x" not found'), event("Pulling", "Pulling image")]
    assert state_of(STARTED, [waiting("ContainerCreating")], events).problem == ""


@pytest.mark.parametrize(
    ("pods", "running"),
    [
        ([], False),
        ([waiting("ContainerCreating")], False),
        ([pod({"running": {}})], True),
        ([alone({"terminated": {}})], True),
    ],
)
def test_what_only_takes_its_time_is_no_trouble(pods: list[dict[str, Any]], running: bool) -> None:
    state = state_of(STARTED, pods, [event("SuccessfulCreate", "Created pod: p")])
    assert (state.problem, state.ended, state.running) == ("", False, running)


def test_a_condition_that_is_not_true_is_none() -> None:
    assert state_of(job({"type": "Complete"}), [], []).succeeded
    suspended = {"spec": {}, "status": {"conditions": [{"type": "Complete", "status": "False"}]}}
    assert not state_of(suspended, [], []).ended
    assert not state_of({"spec": {}}, [], []).ended
