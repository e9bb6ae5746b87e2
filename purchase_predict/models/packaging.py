"""Logs a trained booster as an MLflow model (`purchase_model.py`), and loads such a model for scoring."""

import hashlib
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import click
import lightgbm
import mlflow
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType

from purchase_predict.checksums import Damaged, difference, is_byte_code
from purchase_predict.models import purchase_model
from purchase_predict.progress import phase
from purchase_predict.schema import OPTIONAL, SHOP_MIXING

Result = TypeVar("Result")

#: The packages that the logged model needs for scoring, pinned to the versions installed here.
REQUIREMENTS = ("mlflow", "lightgbm", "pandas", "numpy")

#: The file MLmodel of a packaged model must name this loader: MLflow's loader of models from code.
_LOADER = "mlflow.pyfunc.loaders.code_model"
#: The code path in MLmodel must end in one of these. The second is from early versions of this project.
_CODE_PATHS = ("/purchase_predict/models/purchase_model.py", "/purchase_predict/model.py")
#: The artifacts that MLmodel must list, and those that it may list.
_ARTIFACTS, _OPTIONAL_ARTIFACTS = {"booster", "spec"}, {"shop"}
#: Entries of MLmodel that would make MLflow load a pickle, further code, or another MLmodel file in a subfolder.
_FORBIDDEN = ("python_model", "code", "data")


def log(
    booster: lightgbm.Booster,
    threshold: float,
    features: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    rows: pd.DataFrame,
    folder: Path,
    correction: Mapping[str, float] | None = None,
    shop: Path | None = None,
) -> str:
    """Logs the model on the active run, under the name `model`.

    Args:
        booster: the trained model.
        threshold: decision threshold of "will buy" (inclusive), a probability.
        features: the model's columns, in the booster's order.
        categories: the known values of each categorical feature.
        rows: raw rows; the first 3 become the input example.
        folder: an empty folder for the files to log.
        correction: Platt scaling of the booster's probabilities, as `purchase_model.calibrated` takes it.
        shop: the Parquet file with the product counters at the end of the events; None: the model was not trained on
            events.

    Returns:
        The digest of everything that determines a prediction: trees, features, categories, threshold, correction and
        product counters.
    """
    files = {"booster": folder / "booster.txt", "spec": folder / "spec.json"}
    booster.save_model(files["booster"])
    spec = {
        "features": list(features),
        "categories": dict(categories),
        "threshold": threshold,
        "calibration": dict(correction) if correction else None,
    }
    known = b""
    if shop:
        files["shop"] = shop
        spec["shop"] = SHOP_MIXING
        known = pd.read_parquet(shop).to_numpy().tobytes()
    files["spec"].write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    with no_byte_code(), phase("packaging the model"):
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(purchase_model.__file__).resolve()),
            artifacts={name: str(path) for name, path in files.items()},
            signature=signature(features),
            input_example=_example(rows, features, categories),
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
        )
    # After the trees, the file of a single fit lists training parameters, such as the number of threads. No prediction
    # depends on them. The file of an ensemble of several fits has no such list.
    trees = files["booster"].read_text(encoding="utf-8").partition("\nparameters:")[0]
    return hashlib.sha256((trees + json.dumps(spec, sort_keys=True)).encode() + known).hexdigest()


@dataclass(frozen=True)
class Packaged:
    """A loaded model.

    Attributes:
        columns: the raw columns that the model uses.
        answer: `answer(rows, as_is=False)` scores rows as `PurchaseModel.predict` does, but without the column
            `missing` and without MLflow's check of the rows against the signature. Rows of our own tables need no
            check. Without the check, text columns may be of pandas' categorical type, which is faster.
        counters: the product counters at the end of the model's events; None: the model was not trained on events.
        loaded: the model as MLflow loads it.
        threshold: the lowest probability at which `will_buy` is 1; None: not known.
    """

    columns: list[str]
    answer: Callable[..., pd.DataFrame]
    counters: pd.DataFrame | None = None
    loaded: PyFuncModel | None = None
    threshold: float | None = None


def load(uri: str, files: Mapping[str, str] | None = None) -> Packaged:
    """Loads the model at `uri`, if it has the form that `log` makes. Any other model is refused before its code runs.

    Args:
        uri: any model URI of MLflow.
        files: the expected checksum of each of the model's files, by its path.

    Raises:
        Damaged: a file is missing, is not what was logged, or was added.
        click.ClickException: the model has another form, or cannot be loaded. `answer` raises it if the model
            cannot score the rows.
    """
    packaged = _call_foreign_code(f"{uri} cannot be loaded", lambda: _load(uri, files or {}))

    def answer(frame: pd.DataFrame, as_is: bool = False) -> pd.DataFrame:
        return _call_foreign_code(f"{uri} cannot score the rows", lambda: packaged.answer(frame, as_is))

    return replace(packaged, answer=answer)


def _load(uri: str, files: Mapping[str, str]) -> Packaged:
    # Checks and loads the same copy, so that no file can change in between.
    with tempfile.TemporaryDirectory(prefix="purchase-predict-") as folder, no_byte_code():
        place = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
        if wrong := difference(place, files, "logged"):
            raise Damaged(f"{uri}: {wrong}; deploy the model again, or roll back to another version")
        _refuse_foreign(place)
        _remove_byte_code(place)
        loaded = mlflow.pyfunc.load_model(str(place))
    columns = loaded.metadata.get_input_schema().input_names()
    model = loaded.unwrap_python_model()

    def answer(frame: pd.DataFrame, as_is: bool = False) -> pd.DataFrame:
        answered: pd.DataFrame = model.predict(None, frame, {"as_is": as_is, "missing": False})
        return answered

    threshold = getattr(model, "spec", {}).get("threshold")
    return Packaged(columns, answer, getattr(model, "counters", None), loaded, threshold)


def _refuse_foreign(place: Path) -> None:
    """Refuses a model that is not of the form that `log` makes, because loading it could run a pickle or other code.

    Only the file MLmodel is read. It shows the form of a model, not who made it. So a model of this form passes, and
    loading then runs its own code, whoever wrote that code.

    Raises:
        click.ClickException: the model has another form.
    """
    flavor = Model.load(str(place)).flavors.get(mlflow.pyfunc.FLAVOR_NAME, {})
    loader, code = flavor.get("loader_module"), str(flavor.get("model_code_path"))
    artifacts = set(flavor.get("artifacts") or {})
    wrong = [name for name in _FORBIDDEN if flavor.get(name)]
    if loader != _LOADER:
        wrong.append(f"loader_module {loader}")
    if not code.endswith(_CODE_PATHS):
        wrong.append(f"model_code_path {code}")
    if not _ARTIFACTS <= artifacts <= _ARTIFACTS | _OPTIONAL_ARTIFACTS:
        wrong.append(f"artifacts {', '.join(sorted(artifacts)) or None}")
    if wrong:
        raise click.ClickException(
            f"it was not packaged by this workflow (its MLmodel has {wrong[0]}), so none of its code was run; use a "
            "model that the step train made"
        )


def _remove_byte_code(place: Path) -> None:
    """Removes byte code from a model's copy, so that Python runs the checked source.

    The check of a model's files ignores byte code, which may have been added later. Python runs byte code that is
    marked as unchecked even if it does not belong to the source.
    """
    for file in place.rglob("*"):
        if is_byte_code(file.name):
            file.unlink()


@contextmanager
def no_byte_code() -> Iterator[None]:
    """Stops Python from writing byte code: loading a model from a local store would add it to the model's files."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _call_foreign_code(problem: str, call: Callable[[], Result]) -> Result:
    """Calls MLflow or a model, and turns any exception, such as from a damaged model, into one line for the user.

    Args:
        problem: what the user reads before the first line of the exception.
        call: the call to make.

    Raises:
        Damaged: raised by `call`.
        click.ClickException: `call` raised any other exception.
    """
    try:
        return call()
    except Damaged:
        raise
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise click.ClickException(f"{problem}: {first_line or type(error).__name__}") from error


def signature(features: Sequence[str]) -> ModelSignature:
    """The model's signature: raw columns as input; `probability`, `will_buy` and `missing` as output.

    Input columns are declared as any type, and the model checks them itself. MLflow's own check is too strict. It
    refuses integers, which JSON clients send for whole doubles. It also refuses text columns with nulls only, which
    pandas reads as numbers.
    """
    columns: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), name, required=name not in OPTIONAL) for name in features]
    return ModelSignature(
        inputs=Schema(columns),
        outputs=Schema([ColSpec("double", "probability"), ColSpec("long", "will_buy"), ColSpec("string", "missing")]),
        # A negative threshold means the model's own, because a parameter cannot default to null.
        params=ParamSchema([ParamSpec("threshold", DataType.double, -1.0)]),
    )


def _example(rows: pd.DataFrame, features: Sequence[str], categories: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    example = rows[list(features)].head(3)
    return example.astype({name: object if name in categories else float for name in features})
