"""A secret's value is refused wherever it stands in `backend_config`, so that no Job contains it."""

from pathlib import Path
from typing import Any

import click
import pytest

from purchase_predict.kubernetes.config import Config
from tests.kubernetes.files import config


def in_template(**pod: Any) -> dict[str, Any]:
    return config(template={"spec": {"template": {"spec": pod}}})


def variable(name: str, value: str) -> dict[str, Any]:
    return {"name": "x", "env": [{"name": name, "value": value}]}


def read(values: dict[str, Any]) -> None:
    Config.of(values, "backend_config f", Path()).of_step("train")


URI = "postgresql://me:planted@db/shop"
PROBE = {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": "Bearer planted"}]}}
TOKEN = {"httpGet": {"httpHeaders": [{"name": "X-Api-Key", "value": "planted"}]}}


@pytest.mark.parametrize(
    ("values", "place"),
    [
        (config(env={"DATABASE": URI}), "env: DATABASE"),
        (config(env={"DATABASE": "postgresql://me:pl$anted@db/shop"}), "env: DATABASE"),
        (config(env={"OPTIONS": "-Djavax.net.ssl.trustStorePassword=planted"}), "env: OPTIONS"),
        (config(env={"STORE": "https://store.example/c?sig=planted"}), "env: STORE"),
        (in_template(containers=[variable("DATABASE", URI)]), "spec.template.spec.containers[0].env[0]: DATABASE"),
        (in_template(containers=[{}, variable("DB_PASSWORD", "planted")]), "containers[1].env[0]: DB_PASSWORD"),
        (in_template(initContainers=[variable("DB_PASSWORD", "planted")]), "initContainers[0].env[0]: DB_PASSWORD"),
        (in_template(initContainers=[variable("DATABASE", URI)]), "initContainers[0].env[0]: DATABASE"),
        (in_template(containers=[{}, {"args": ["--db", URI]}]), "containers[1].args[1]: its text"),
        (in_template(containers=[{}, {"command": ["x", "--password=planted"]}]), "containers[1].command[1]: its text"),
        (in_template(containers=[{}, {"livenessProbe": PROBE}]), "httpHeaders[0]: Authorization"),
        (in_template(containers=[{}, {"livenessProbe": TOKEN}]), "httpHeaders[0]: X-Api-Key"),
        (config(template={"metadata": {"annotations": {"db": URI}}}), "template.metadata.annotations.db: its text"),
    ],
)
def test_a_value_that_would_be_masked_in_a_log_is_refused(values: dict[str, Any], place: str) -> None:
    with pytest.raises(click.ClickException) as error:
        read(values)
    assert f"{place} looks like a secret, " in error.value.message
    assert "planted" not in error.value.message
    assert "pl$anted" not in error.value.message


@pytest.mark.parametrize("name", ["AWS_WEB_IDENTITY_TOKEN_FILE", "PGPASSFILE", "GOOGLE_APPLICATION_CREDENTIALS"])
def test_the_path_of_a_file_with_a_secret_is_allowed(name: str) -> None:
    read(in_template(containers=[variable(name, "/var/run/secrets/token")]))
    with pytest.raises(click.ClickException, match=f"{name} looks like a secret"):
        read(in_template(containers=[variable(name, URI)]))


@pytest.mark.parametrize("name", ["TOKEN_FILE", "DB_PASSWORD_FILE", "PGPASSFILE", "AUTH_PROFILE", "API_KEY_XPATH"])
def test_a_name_of_a_file_does_not_allow_a_secret_itself(name: str) -> None:
    for value in ("hunter2", "db:5432:shop:me:hunter2"):
        with pytest.raises(click.ClickException, match=f"{name} looks like a secret"):
            read(in_template(containers=[variable(name, value)]))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://$(DB_USER):$(DB_PASSWORD)@db/shop",
        "postgresql://me:$(DB_PASSWORD)@db/shop",
        "password=$(DB_PASSWORD)",
        "Bearer $(DB_PASSWORD)",
        "http://storage:9000",
        "abfss://container@account.dfs.core.windows.net/clicks",
        "localhost:5000/proxy:1@sha256:" + "a" * 64,
        "--token-file=/var/run/secrets/token",
        "/var/run/secrets/kubernetes.io/serviceaccount/token",
    ],
)
def test_a_reference_to_a_secret_and_what_only_names_one_are_allowed(text: str) -> None:
    read(in_template(containers=[variable("DATABASE", text)], initContainers=[{"args": [text], "image": text}]))


@pytest.mark.parametrize(
    "text",
    [
        "TOKEN=$(cat /run/token) exec proxy",
        'export PGPASSWORD="${DB_PASSWORD}"; psql',
        'curl -H "Authorization: Bearer $TOKEN" http://proxy/quit',
        "postgresql://{{ .Data.username }}:{{ .Data.password }}@db:5432",
    ],
)
def test_a_script_or_an_annotation_may_refer_to_a_secret(text: str) -> None:
    read(in_template(containers=[{}, {"command": ["sh", "-c", text]}], volumes=[{"secret": {"secretName": "x"}}]))
    read(config(template={"metadata": {"annotations": {"inject": text}}}))
