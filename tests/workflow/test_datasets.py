import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import mlflow
import pytest

from purchase_predict.workflow import datasets


@pytest.mark.parametrize(
    "name", ["sample", "gs://shop/clicks", "/data/clicks/*.csv", "runs:/abc/dataset/train.parquet"]
)
def test_the_dataset_column_names_source_digest_and_rows(name: str, store: str) -> None:
    mlflow.set_experiment("tests")
    with mlflow.start_run() as run:
        datasets.log_input(name, "0123456789abcdef" * 4, 125_872, "training")
    (found,) = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    assert found.dataset.name == name
    assert found.dataset.digest == ("0123456789abcdef" * 4)[:36]
    assert json.loads(found.dataset.profile) == {"num_rows": 125_872}
    assert name in found.dataset.source
    assert [tag.value for tag in found.tags if tag.key == "mlflow.data.context"] == ["training"]


def test_runs_that_read_the_same_table_at_the_same_time_all_record_it(store: str) -> None:
    mlflow.set_experiment("tests")
    at_once, rounds = 6, 5
    with mlflow.start_run() as first:
        experiment = first.info.experiment_id
    client = mlflow.MlflowClient()
    for number in range(rounds):
        runs = [client.create_run(experiment).info.run_id for _ in range(at_once)]
        together = Barrier(at_once)

        def read(run_id: str, name: str = f"/data/{number}", together: Barrier = together) -> None:
            with mlflow.start_run(run_id):
                together.wait()
                datasets.log_input(name, "0123456789abcdef" * 4, 1, "training")

        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(read, runs))
        assert all(len(client.get_run(run_id).inputs.dataset_inputs) == 1 for run_id in runs)
