"""The calls to the API: authentication, retries, and when a call is given up."""

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import yaml

from purchase_predict.kubernetes.cluster import Away, Cluster, Refused
from purchase_predict.kubernetes.config import Config
from purchase_predict.kubernetes.manifest import manifest
from purchase_predict.kubernetes.others import Others
from tests.kubernetes import standin
from tests.kubernetes.files import config, work

pytest.importorskip("kubernetes")


@pytest.fixture
def manifest_() -> dict[str, Any]:
    return manifest(work(), Config.of(config(), "f", Path()).of_step("load"), "f")


def test_a_job_is_created_once_even_if_the_answer_is_lost(
    kubeconfig: Path, empty_cluster: standin.Cluster, manifest_: dict[str, Any]
) -> None:
    cluster, name = Cluster.connect(), manifest_["metadata"]["name"]
    cluster.create(manifest_)
    cluster.create(manifest_)
    assert list(empty_cluster.jobs) == [name]
    cluster.delete("ml", name)
    cluster.delete("ml", "unknown")
    deadline = time.monotonic() + 20
    while cluster.job("ml", name):
        assert time.monotonic() < deadline


def test_an_api_that_restarts_is_asked_again_and_one_that_is_gone_is_given_up(
    kubeconfig: Path, empty_cluster: standin.Cluster, manifest_: dict[str, Any]
) -> None:
    empty_cluster.outages = 3
    Cluster.connect(patience=20).create(manifest_)
    assert empty_cluster.outages == 0
    empty_cluster.outages = 1000
    started = time.monotonic()
    with pytest.raises(Away, match=r"cluster http://127.0.0.1:\d+: no answer for 1 s \(503 Service Unavailable\)"):
        Cluster.connect(patience=1).job("ml", "x")
    assert 900 < empty_cluster.outages < 1000  # few attempts, because the pauses double
    assert time.monotonic() - started < 10
    # With a patience of 0, as for checks of other workflows' Jobs, a call is not retried.
    empty_cluster.outages = 5
    assert Others(lambda: Cluster.connect(patience=0)).lives("ml/x") is None
    assert empty_cluster.outages == 4


def test_a_watch_ends_with_the_first_change(
    kubeconfig: Path, empty_cluster: standin.Cluster, manifest_: dict[str, Any]
) -> None:
    cluster, name = Cluster.connect(), manifest_["metadata"]["name"]
    cluster.create(manifest_)
    version = (cluster.job("ml", name) or {})["metadata"]["resourceVersion"]
    started = time.monotonic()
    threading.Timer(0.5, empty_cluster.fail, [name]).start()
    cluster.wait_for_change("ml", name, version, 60)
    assert time.monotonic() - started < 30


def test_a_progress_bar_in_a_log_is_one_line(kubeconfig: Path, empty_cluster: standin.Cluster) -> None:
    lines = [("2026-11-29T10:00:00.1Z", "50 %\r100 %\rdone"), ("2026-11-29T10:00:00.2Z", "next")]
    ended = SimpleNamespace(lines=lines, code=0, changed=threading.Condition(), kill=lambda: None)
    empty_cluster.containers["pod"] = ended  # type: ignore[assignment]
    assert list(Cluster.connect().log("ml", "pod", "step", "")) == lines
    assert list(Cluster.connect().log("ml", "pod", "step", lines[0][0])) == lines[1:]


#: Source code of a credential plugin, as cloud providers have them. It prints the token that is in the file beside it.
#: This token has expired already, so the client runs the plugin again for each call.
PLUGIN = """
import json, pathlib
token = pathlib.Path(__file__).with_suffix(".token").read_text()
status = {"token": token, "expirationTimestamp": "2000-01-01T00:00:00Z"}
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}))
"""


def test_a_token_that_has_run_out_is_renewed(kubeconfig: Path, tmp_path: Path) -> None:
    plugin, token = tmp_path / "plugin.py", tmp_path / "plugin.token"
    plugin.write_text(PLUGIN)
    token.write_text(standin.TOKEN)
    values = yaml.safe_load(kubeconfig.read_text())
    exec_ = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": [str(plugin)]}
    values["users"][0]["user"] = {"exec": exec_ | {"interactiveMode": "Never"}}
    kubeconfig.write_text(yaml.safe_dump(values))
    cluster = Cluster.connect()
    assert cluster.job("ml", "x") is None
    token.write_text("another")
    with pytest.raises(Refused, match="Unauthorized: sign in to the cluster again"):
        cluster.job("ml", "x")


def test_netrc_does_not_replace_who_we_are(kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("default login me password planted\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert Cluster.connect().job("ml", "x") is None


def test_without_a_cluster_one_line_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for context in ("", "elsewhere"):
        with pytest.raises(click.ClickException, match=r"^no cluster is configured: .*; set KUBECONFIG, or context"):
            Cluster.connect(context)


def test_without_the_client_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(click.ClickException, match="pip install kubernetes=="):
        Cluster.connect()
