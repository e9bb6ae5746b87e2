"""Describes the table that a run read, for MLflow's Dataset column: its name, digest and number of rows."""

import json
import warnings
from collections.abc import Mapping, Sequence

import mlflow
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.exceptions import MlflowException

from purchase_predict.workflow.collisions import through_collisions

#: MLflow's limits for a dataset's name and digest, in characters.
_NAME_LENGTH, _DIGEST_LENGTH = 500, 36


class DescribedTable(MetaDataset):
    """A table as MLflow records it: source, name, digest and number of rows, but not the rows themselves."""

    def __init__(self, source: DatasetSource, name: str, digest: str, rows: int) -> None:
        self.rows = rows
        super().__init__(source, name, digest)

    @property
    def profile(self) -> dict[str, int]:
        """The number of rows."""
        return {"num_rows": self.rows}

    def to_dict(self) -> dict[str, str]:
        """MLflow's description of a dataset, with the number of rows."""
        return super().to_dict() | {"profile": json.dumps(self.profile)}


def log_input(name: str, digest: str, rows: int, context: str) -> DescribedTable:
    """Records on the active run that it read a table, and returns the description of the table.

    Args:
        name: where the table is: a source, or `runs:/<run id>/<path>`.
        digest: SHA-256 of the table's content, hexadecimal; only the first 36 digits are recorded.
        rows: the number of rows.
        context: what the table was read for, such as `training`.
    """
    try:
        with warnings.catch_warnings():
            # MLflow warns that several kinds of source fit a local folder. Each of them would name the same folder.
            warnings.simplefilter("ignore", UserWarning)
            source = resolve_dataset_source(name)
    except MlflowException:
        source = CodeDatasetSource({"source": name})  # the built-in sample has no address
    table = DescribedTable(source, name[-_NAME_LENGTH:], digest[:_DIGEST_LENGTH], rows)
    # MLflow keeps one record of a dataset per experiment, so runs that read the same table at once collide.
    through_collisions(lambda: mlflow.log_input(table, context=context))
    return table


def log_sides(dataset: str, digest: str, rows: Mapping[str, int]) -> dict[str, DescribedTable]:
    """Records on the active run that it read the train and the test set of a dataset; returns their descriptions.

    Args:
        dataset: `runs:/<run id>/dataset` of a process run.
        digest: the digest of the dataset's content.
        rows: the number of rows of `train` and of `test`.
    """
    contexts = {"train": "training", "test": "testing"}
    return {
        side: log_input(f"{dataset}/{side}.parquet", digest, rows[side], context) for side, context in contexts.items()
    }


def log_metrics(
    metrics: Mapping[str, float], series: Sequence[Mapping[str, float]], sides: Mapping[str, DescribedTable]
) -> None:
    """Logs metrics on the active run. Each of `metrics` is logged with its dataset: the training set or the test set.

    Metrics named `test_*` and `baseline_*` belong to the test set, all others to the training set. The page of a
    logged model lists the datasets to which the model's metrics belong.

    Args:
        metrics: the metrics by name.
        series: further metrics by name, a mapping for each of MLflow's metric steps 0, 1, ...; they are logged without
            a dataset.
        sides: the descriptions that `log_sides` returned.
    """
    of_test = {name: value for name, value in metrics.items() if name.startswith(("test_", "baseline_"))}
    of_train = {name: value for name, value in metrics.items() if name not in of_test}
    mlflow.log_metrics(of_test, dataset=sides["test"])
    mlflow.log_metrics(of_train, dataset=sides["train"])
    for number, at_step in enumerate(series):
        mlflow.log_metrics(dict(at_step), step=number)
