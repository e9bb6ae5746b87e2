import json

import mlflow
import pytest

from purchase_predict import lineage


@pytest.mark.parametrize(
    "name", ["sample", "gs://shop/clicks", "/data/clicks/*.csv", "runs:/abc/dataset/train.parquet"]
)
def test_the_dataset_column_names_source_digest_and_rows(name: str, store: str) -> None:
    mlflow.set_experiment("tests")
    with mlflow.start_run() as run:
        lineage.log_input(name, "0123456789abcdef" * 4, 125_872, "training")
    (found,) = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    assert found.dataset.name == name
    assert found.dataset.digest == ("0123456789abcdef" * 4)[:36]
    assert json.loads(found.dataset.profile) == {"num_rows": 125_872}
    assert name in found.dataset.source
    assert [tag.value for tag in found.tags if tag.key == "mlflow.data.context"] == ["training"]
