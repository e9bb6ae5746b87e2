"""Checks that docs/upstream.md is still true about MLflow and the Kubernetes client."""

import re
from pathlib import Path

import pytest
from mlflow.projects._project_spec import EntryPoint

from purchase_predict.kubernetes.manifest import words
from tests.conftest import PROJECT

mlflow_kubernetes = pytest.importorskip("mlflow.projects.kubernetes", exc_type=ImportError)
client = pytest.importorskip("kubernetes.client")
TYPED = "two words, a quote's end, $(touch pwned) and *"


def test_mlflow_quotes_words_that_no_shell_reads_and_we_do_not() -> None:
    entry_point = EntryPoint("main", {"name": "string"}, "python main.py --name={name}")
    command = entry_point.compute_command({"name": "two words"}, None)
    assert mlflow_kubernetes._get_run_command([command]) == ["python", "main.py", "'--name=two words'"]
    assert words(entry_point.command, {"name": TYPED}) == ["python", "main.py", f"--name={TYPED}"]


def test_mlflow_passes_pretty_as_a_bool_which_client_37_refuses() -> None:
    source = Path(mlflow_kubernetes.__file__).read_text(encoding="utf-8")
    assert len(re.findall(r"pretty=True", source)) == 3
    calls = (PROJECT / "purchase_predict/kubernetes/cluster.py").read_text()
    assert "pretty" not in calls
    assert "BatchV1Api" not in calls
    if not hasattr(client.V1Job, "model_fields"):
        pytest.skip("this client does not check types; 37 does")
    api = client.BatchV1Api(client.ApiClient(client.Configuration(host="http://127.0.0.1:1")))
    with pytest.raises(ValueError, match="Input should be a valid string"):
        api.create_namespaced_job(namespace="default", body={"spec": {"template": {}}}, pretty=True)
