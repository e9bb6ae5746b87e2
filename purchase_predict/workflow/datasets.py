"""What a run was made from, for MLflow's Dataset column: name, digest and row count; no row is looked at."""

import json
import warnings

import mlflow
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.exceptions import MlflowException

from purchase_predict.workflow.collisions import through_collisions

#: What MLflow keeps of a name and of a digest.
_NAME, _DIGEST = 500, 36


class Table(MetaDataset):
    """A table that is described, not held."""

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


def log_input(name: str, digest: str, rows: int, context: str) -> None:
    """Records on the active run that it read this table.

    Args:
        name: where the table is: a source, or `runs:/<run id>/<path>`.
        digest: SHA-256 of its content, hexadecimal; MLflow keeps the first 36 digits.
        rows: how many rows it has.
        context: what it was read for, as `training`.
    """
    try:
        with warnings.catch_warnings():
            # A local folder can be "interpreted in multiple ways", which are one and the same.
            warnings.simplefilter("ignore", UserWarning)
            source = resolve_dataset_source(name)
    except MlflowException:
        source = CodeDatasetSource({"source": name})  # the built-in sample is at no address
    table = Table(source, name[-_NAME:], digest[:_DIGEST], rows)
    # Runs that read the same table at the same time: MLflow keeps one record of it for an experiment.
    through_collisions(lambda: mlflow.log_input(table, context=context))
