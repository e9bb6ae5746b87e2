"""Packs a trained booster as the MLflow model that `purchase_model.py` describes, and reads it back for scoring."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import lightgbm
import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType

from purchase_predict.models import purchase_model
from purchase_predict.schema import BEHAVIOUR

#: All that scoring needs.
_REQUIREMENTS = ("mlflow", "lightgbm", "pandas", "numpy")


def log(
    booster: lightgbm.Booster,
    threshold: float,
    features: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    rows: pd.DataFrame,
    folder: Path,
    correction: Mapping[str, float] | None = None,
) -> str:
    """Logs the model `model` on the active run.

    Args:
        threshold: the probability from which on the model answers "will buy".
        features: the model's columns, in the booster's order.
        categories: the known values of each categorical feature.
        rows: some raw rows, for the input example.
        folder: an empty folder for the files.
        correction: of the booster's probabilities, as `model.calibrated` takes it.

    Returns:
        The digest of what decides its answers: trees, features, categories, threshold and correction.
    """
    files = {"booster": folder / "booster.txt", "spec": folder / "spec.json"}
    booster.save_model(files["booster"])
    spec = {
        "features": list(features),
        "categories": dict(categories),
        "threshold": threshold,
        "calibration": dict(correction) if correction else None,
    }
    files["spec"].write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(purchase_model.__file__).resolve()),
        artifacts={name: str(path) for name, path in files.items()},
        signature=signature(features),
        input_example=_example(rows, features, categories),
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in _REQUIREMENTS],
    )
    # Beside the trees the file lists training parameters, such as the number of threads, that decide nothing.
    trees = files["booster"].read_text(encoding="utf-8").partition("\nparameters:")[0]
    return hashlib.sha256((trees + json.dumps(spec, sort_keys=True)).encode()).hexdigest()


@dataclass(frozen=True)
class Packaged:
    """A packaged model that was loaded: the raw columns that it looks at, and what it answers to rows of them."""

    columns: list[str]
    answer: Callable[[pd.DataFrame], pd.DataFrame]


def load(uri: str, checked: bool = True) -> Packaged:
    """The model at `uri`, as its users load it.

    Args:
        checked: whether each frame is checked against the signature. Rows of our own tables need no check, and may come
            with categorical columns, which are faster.

    Raises:
        click.ClickException: it cannot be loaded, or, from `answer`, it cannot answer.
    """
    with _one_line(f"{uri} cannot be loaded"):
        loaded = mlflow.pyfunc.load_model(uri)
        columns = loaded.metadata.get_input_schema().input_names()
        inner = None if checked else loaded.unwrap_python_model()

    def answer(frame: pd.DataFrame) -> pd.DataFrame:
        with _one_line(f"{uri} cannot answer"):
            return loaded.predict(frame) if inner is None else inner.predict(None, frame)

    return Packaged(columns, answer)


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a damaged file makes the libraries raise
        said = (str(error).splitlines() or [""])[0]
        raise click.ClickException(f"{what}: {said or type(error).__name__}") from error


def signature(features: Sequence[str]) -> ModelSignature:
    """Raw columns in, `probability` and `will_buy` out.

    Columns are declared as any type, and the model checks them itself: MLflow would refuse the ints that a JSON client
    sends for whole doubles, and a text column of nothing but nulls, which pandas reads as numbers.
    """
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(AnyType(), name, required=name not in BEHAVIOUR) for name in features
    ]
    return ModelSignature(
        inputs=Schema(columns),
        outputs=Schema([ColSpec("double", "probability"), ColSpec("long", "will_buy")]),
        # Negative stands for the model's own: a parameter cannot default to null.
        params=ParamSchema([ParamSpec("threshold", DataType.double, -1.0)]),
    )


def _example(rows: pd.DataFrame, features: Sequence[str], categories: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    example = rows[list(features)].head(3)
    return example.astype({name: object if name in categories else float for name in features})
