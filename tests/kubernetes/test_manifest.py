import json
from pathlib import Path
from typing import Any

import click
import jsonschema_rs
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from purchase_predict.kubernetes.config import Config
from purchase_predict.kubernetes.manifest import manifest
from purchase_predict.kubernetes.resources import size_of
from purchase_predict.secrets import shown_uri, without_secrets
from tests.kubernetes.files import HOSTILE, IMAGE, RUN_ID, config, work
from tests.kubernetes.pods import expanded
from tests.kubernetes.standin import SCHEMAS

#: A `backend_config` with many settings for all steps, and with further settings and a template for train.
FULL = config(
    service_account="purchase-predict",
    deadline=7200,
    env={"STORAGE_EMULATOR_HOST": "http://storage:9000", "WORKERS": 2, "FLAG": True},
    env_from_secrets={"MLFLOW_TRACKING_PASSWORD": {"secret": "mlflow", "key": "password"}},
    steps={
        "train": {
            "resources": {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
            "node_selector": {"pool": "big"},
            "tolerations": [{"key": "big", "operator": "Exists", "effect": "NoSchedule"}],
            "env_from_secrets": {"MLFLOW_TRACKING_USERNAME": {"secret": "mlflow", "key": "user"}},
            "deadline": 60,
            "template": {
                "metadata": {"annotations": {"team": "shop"}},
                "spec": {
                    "ttlSecondsAfterFinished": 5,
                    "template": {
                        "metadata": {"labels": {"team": "shop"}},
                        "spec": {
                            "priorityClassName": "batch",
                            "volumes": [{"name": "scratch", "emptyDir": {}}],
                            "containers": [
                                {
                                    "name": "main",
                                    "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
                                    "env": [{"name": "TMPDIR", "value": "/tmp"}],
                                },
                                {"name": "proxy", "image": "proxy@sha256:1"},
                            ],
                        },
                    },
                },
            },
        }
    },
)


def rendered(values: dict[str, Any], entry_point: str = "load", **parameters: str) -> dict[str, Any]:
    of_step = Config.of(values, "backend_config f", Path()).of_step(entry_point)
    return manifest(work(entry_point, **parameters), of_step, "backend_config f")


def container(job: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return first


@pytest.mark.parametrize("version", SCHEMAS)
@pytest.mark.parametrize(
    ("values", "entry_point", "parameters"),
    [(config(), "load", {"memory_limit": "2GB"}), (FULL, "train", {}), (FULL, "deploy", {"env": ""})],
)
def test_the_api_takes_it_in_an_old_and_a_new_version(
    version: str, values: dict[str, Any], entry_point: str, parameters: dict[str, str]
) -> None:
    validator = jsonschema_rs.validator_for(SCHEMAS[version])
    assert [error.message for error in validator.iter_errors(rendered(values, entry_point, **parameters))] == []


def test_the_schemas_refuse_what_the_api_refuses() -> None:
    for schema in SCHEMAS.values():
        job = rendered(config())
        job["spec"]["activeDeadlineSecond"] = 5
        container(job)["env"][0]["value"] = 1
        assert len(list(jsonschema_rs.validator_for(schema).iter_errors(job))) == 2


def test_what_the_file_says_of_a_step_is_in_its_job_and_in_no_other() -> None:
    job = rendered(FULL, "train")
    pod = job["spec"]["template"]["spec"]
    assert job["metadata"]["annotations"] == {"team": "shop", "purchase-predict/patience": "60"}
    assert job["spec"]["template"]["metadata"]["labels"] == {
        "team": "shop", "purchase-predict/step": "train", "purchase-predict/run": RUN_ID
    }  # fmt: skip
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["ttlSecondsAfterFinished"]) == (60, 5)
    assert (pod["nodeSelector"], pod["priorityClassName"]) == ({"pool": "big"}, "batch")
    assert [one["name"] for one in pod["containers"]] == ["main", "proxy"]
    assert container(job)["image"] == IMAGE
    assert container(job)["resources"]["limits"] == {"memory": "8Gi"}
    env = {one["name"]: one.get("value", one.get("valueFrom")) for one in container(job)["env"]}
    assert (env["TMPDIR"], env["WORKERS"], env["FLAG"], env["ENV"]) == ("/tmp", "2", "true", "staging")
    assert env["MLFLOW_RUN_ID"] == RUN_ID
    secrets = {name: value["secretKeyRef"] for name, value in env.items() if isinstance(value, dict)}
    assert secrets == {
        "MLFLOW_TRACKING_PASSWORD": {"name": "mlflow", "key": "password"},
        "MLFLOW_TRACKING_USERNAME": {"name": "mlflow", "key": "user"},
    }
    other = rendered(FULL, "deploy")
    assert "resources" not in container(other)
    assert "nodeSelector" not in other["spec"]["template"]["spec"]
    assert other["spec"]["activeDeadlineSeconds"] == 7200
    assert other["spec"]["template"]["spec"]["serviceAccountName"] == "purchase-predict"


NULLS = {
    "metadata": {"labels": None, "annotations": None},
    "spec": {
        "activeDeadlineSeconds": None,
        "ttlSecondsAfterFinished": None,
        "backoffLimit": None,
        "template": {
            "metadata": None,
            "spec": {
                "nodeSelector": None, "tolerations": None, "restartPolicy": None, "initContainers": None,
                "containers": [{"name": None, "env": None, "resources": {"limits": None}, "volumeMounts": None}],
            },
        },
    },
}  # fmt: skip


def test_a_null_in_a_template_says_nothing() -> None:
    values = config(node_selector={"pool": "big"}, tolerations=[{"key": "big"}], deadline=7, keep=8)
    job = rendered(values | {"template": NULLS}, memory_limit="4GB")
    assert job == rendered(values, memory_limit="4GB")
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["ttlSecondsAfterFinished"]) == (7, 8)
    for nothing in ({"spec": None}, {"spec": {"template": {"spec": {"containers": None}}}}):
        assert rendered(values | {"template": nothing}) == rendered(values)


def test_rendering_leaves_the_file_as_it_is() -> None:
    before = json.dumps(FULL, sort_keys=True)
    rendered(FULL, "train")
    assert json.dumps(FULL, sort_keys=True) == before


#: Texts that often contain `$`, `(` and `)`, the characters of Kubernetes' references to variables.
REFERENCES = st.text("$()A" + "a b{}'\"") | st.text()


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), REFERENCES, max_size=5), REFERENCES)
@example({"source": HOSTILE}, HOSTILE)
def test_every_parameter_and_variable_arrives_as_typed(parameters: dict[str, str], variable: str) -> None:
    assume(without_secrets(variable) == shown_uri(variable) == variable)
    found = container(rendered(config(env={"A": variable, "AA": "$(A)"}), **parameters))
    known = {"A": "expanded", "MLFLOW_RUN_ID": "expanded"}
    assert [expanded(word, known) for word in found["command"]] == [
        "python", "-m", "purchase_predict.kubernetes.start", "python", "-m", "steps.load",
        *(f"--{name}={value}" for name, value in parameters.items()),
    ]  # fmt: skip
    values = {one["name"]: expanded(one["value"], known) for one in found["env"]}
    assert (values["A"], values["AA"]) == (variable, "$(A)")


def test_a_template_may_refer_to_variables_as_kubernetes_has_it() -> None:
    env = [{"name": "HOME_OF_RUN", "value": "/data/$(POD)"}]
    template = {"spec": {"template": {"spec": {"containers": [{"env": env}]}}}}
    assert env[0] in container(rendered(config(template=template)))["env"]


@pytest.mark.parametrize(
    ("written", "arrives"),
    [("$(A)$$(A)", "x$(A)"), ("$$$(A) $(B) $(A", "$x $(B) $(A"), ("$ $A $", "$ $A $"), ("$$$$a", "$$a")],
)
def test_the_stand_in_expands_as_the_kubelet(written: str, arrives: str) -> None:
    assert expanded(written, {"A": "x"}) == arrives


def test_memory_and_disk_follow_from_memory_limit_unless_the_file_says_them() -> None:
    asked = container(rendered(config(), "process", memory_limit="4GB"))["resources"]
    assert size_of(asked["requests"]["memory"]) >= 2 * 4_000_000_000
    assert asked["limits"] == {"memory": asked["requests"]["memory"]}
    assert size_of(asked["requests"]["ephemeral-storage"]) >= 8 * 4_000_000_000
    assert "resources" not in container(rendered(config(), "process", memory_limit=""))
    assert "resources" not in container(rendered(config(), "train"))


def asked(entry_point: str, resources: dict[str, Any], template: dict[str, Any] | None = None) -> dict[str, Any]:
    """The resources of a Job with memory_limit=4GB, given those in the file and in the template's container."""
    containers = [{"resources": template}] if template else []
    values = config(resources=resources, template={"spec": {"template": {"spec": {"containers": containers}}}})
    found: dict[str, Any] = container(rendered(values, entry_point, memory_limit="4GB"))["resources"]
    return found


@pytest.mark.parametrize("limit", ["2gb", "80%", "much"])
def test_a_memory_limit_that_is_no_size_is_one_line(limit: str) -> None:
    with pytest.raises(click.ClickException, match=f"^memory_limit={limit}: must be a size such as 2GB or 512MB$"):
        rendered(config(), "load", memory_limit=limit)


def test_what_the_file_says_of_resources_wins_and_the_rest_follows_from_memory_limit() -> None:
    computed = asked("load", {})
    memory, disk = computed["requests"]["memory"], computed["requests"]["ephemeral-storage"]
    # A CPU request changes neither memory nor disk.
    assert asked("load", {"requests": {"cpu": "4"}}) == {
        "requests": {"cpu": "4", "memory": memory, "ephemeral-storage": disk}, "limits": {"memory": memory}
    }  # fmt: skip
    assert asked("load", {"limits": {"memory": "16Gi"}}) == computed | {"limits": {"memory": "16Gi"}}
    # The resources of the template's container count, too. Those of the file override them, by kind and name.
    template = {"limits": {"cpu": "2", "memory": "5G"}, "requests": {"cpu": "1"}}
    assert asked("load", {"limits": {"cpu": "8"}}, template) == {
        "requests": {"cpu": "1", "ephemeral-storage": disk}, "limits": {"cpu": "8", "memory": "5G"}
    }  # fmt: skip
    assert asked("train", {"limits": {"cpu": "8"}}, {"limits": {"memory": "5G"}}) == {
        "limits": {"cpu": "8", "memory": "5G"}
    }  # fmt: skip
    with pytest.raises(click.ClickException, match="2Gi of load must be more than memory_limit=4GB"):
        asked("load", {"requests": {"cpu": "4"}}, {"limits": {"memory": "2Gi"}})


@pytest.mark.parametrize(
    ("text", "size"),
    [("64k", 64_000), ("1e9", 1e9), ("1.5E3", 1500), ("2E", 2e18), ("1Ei", 2**60), (".5Gi", 2**29), ("512MiB", 2**29),
     ("2 GB", 2e9), ("100m", 0.1), ("7", 7)],
)  # fmt: skip
def test_a_size_is_written_as_kubernetes_or_duckdb_do(text: str, size: float) -> None:
    assert size_of(text) == pytest.approx(size)


@pytest.mark.parametrize("text", ["", "lots", "1.2.3G", "1e", "G", "-1", "1 000"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        size_of(text)


SIZES = st.sampled_from([None, "5G", "6Gi", "16Gi", "64Gi"])


@given(SIZES, SIZES, SIZES)
def test_no_request_exceeds_its_limit(request: str | None, limit: str | None, disk: str | None) -> None:
    assume(not (request and limit) or size_of(request) <= size_of(limit))
    found = asked("load", {"requests": {"memory": request}, "limits": {"memory": limit, "ephemeral-storage": disk}})
    for name, size in found["limits"].items():
        assert size_of(found["requests"].get(name, size)) <= size_of(size)
    assert size_of(found["limits"]["memory"]) > 4_000_000_000
    assert (request or found["requests"].get("memory"), limit or found["limits"]["memory"]) == (
        found["requests"].get("memory"), found["limits"]["memory"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "parameters", "says"),
    [
        (config(resources={"limits": {"memory": "2Gi"}}), {"memory_limit": "4GB"}, "more than memory_limit=4GB"),
        (config(resources={"limits": {"memory": "lots"}}), {"memory_limit": "4GB"}, "lots is not a size"),
        (config(template={"spec": {"backoffLimit": 3}}), {}, "backoffLimit=3: must be 0, or left out"),
        (config(template={"spec": {"parallelism": 2}}), {}, "parallelism=2: must be 1, or left out"),
        (config(template={"spec": {"template": {"spec": {"restartPolicy": "OnFailure"}}}}), {}, "must be Never"),
        (config(template={"spec": []}), {}, "template: spec must be a mapping"),
        (config(env={"API_TOKEN": "planted"}), {}, "env: API_TOKEN looks like a secret"),
        (
            config(template={"spec": {"template": {"spec": {"containers": [
                {"name": "x", "env": [{"name": "DB_PASSWORD", "value": "planted"}]}]}}}}),
            {}, "template.spec.template.spec.containers[0].env[0]: DB_PASSWORD looks like a secret",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(values: dict[str, Any], parameters: dict[str, str], says: str) -> None:
    with pytest.raises(click.ClickException) as error:
        rendered(values, **parameters)
    assert says in error.value.message
    assert "backend_config" in error.value.message
    assert "planted" not in error.value.message
    assert "\n" not in error.value.message


def test_a_password_that_nothing_brings_to_the_job_is_one_line_that_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted")
    with pytest.raises(click.ClickException) as error:
        rendered(config())
    assert error.value.message.endswith(
        "; add MLFLOW_TRACKING_PASSWORD to env_from_secrets, with the entries secret (the name of the Secret) and key "
        "(the key in that Secret)"
    )
    assert "planted" not in json.dumps(rendered(FULL))
    from_all = [{"secretRef": {"name": "mlflow"}}]
    template = {"spec": {"template": {"spec": {"containers": [{"name": "step", "envFrom": from_all}]}}}}
    assert container(rendered(config(template=template)))["envFrom"] == from_all


@pytest.mark.parametrize("entry_point", ["main", "deploy", "approve", "rollback"])
def test_an_entry_point_that_posts_needs_the_address_in_its_job_too(
    entry_point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_URL", "https://hooks.example/planted")
    assert "planted" not in json.dumps(rendered(config(), "train"))
    with pytest.raises(click.ClickException, match=r"NOTIFY_URL is set on this machine, .* could not post") as one:
        rendered(config(), entry_point)
    assert "planted" not in one.value.message
    secret = {"NOTIFY_URL": {"secret": "chat", "key": "url"}}
    assert "planted" not in json.dumps(rendered(config(env_from_secrets=secret), entry_point))
    with pytest.raises(click.ClickException, match="NOTIFY_URL looks like a secret"):
        rendered(config(env={"NOTIFY_URL": "https://hooks.example/planted"}))
