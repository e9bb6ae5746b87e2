import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pickle
import py_compile
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from purchase_predict.models import packaging
from purchase_predict.schema import BEHAVIOUR, CATEGORICAL, FEATURES
from purchase_predict.workflow import artifacts
from purchase_predict.workflow.completed import inputs_of
from tests import registered
from tests.registered import Trained, carts

ALL = [*FEATURES, *BEHAVIOUR]


@pytest.fixture(scope="module")
def trained(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    with registered.store_for_many(empty_store, tmp_path_factory.mktemp("packaging")):
        dataset = registered.process(carts(2000), tmp_path_factory.mktemp("data"))
        yield registered.train(dataset, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(trained: Trained) -> mlflow.pyfunc.PyFuncModel:
    with packaging.no_byte_code():
        return mlflow.pyfunc.load_model(trained.uri)


@pytest.fixture(scope="module")
def files(trained: Trained) -> Path:
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=trained.uri))


def test_the_correction_is_part_of_the_model_and_of_its_digest(trained: Trained, tmp_path: Path) -> None:
    with packaging.no_byte_code():
        plain = mlflow.pyfunc.load_model(trained.uri).unwrap_python_model()
    features, categories = plain.spec["features"], plain.spec["categories"]
    raw = carts(200)
    with mlflow.start_run() as run:
        digest = packaging.log(
            plain.booster, 0.5, features, categories, raw, tmp_path, {"slope": 0.5, "intercept": 1.0}
        )
    corrected = packaging.load(f"runs:/{run.info.run_id}/model")
    assert digest != trained.digest
    before, after = (packaging.load(trained.uri).answer(raw), corrected.answer(raw))
    assert (after["probability"] > before["probability"]).mean() > 0.5
    assert (np.diff(after["probability"].to_numpy()[np.argsort(before["probability"])]) >= 0).all()


def test_no_file_of_it_is_a_pickle(files: Path) -> None:
    names = {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()}
    assert {"artifacts/booster.txt", "artifacts/spec.json", "purchase_model.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib", ".cloudpickle"))]
    for path in files.rglob("*"):
        if path.is_file():
            path.read_text(encoding="utf-8")  # fails if the file is not text


# ---- models of another form --------------------------------------------------------------------------------------


class Planted:
    """An object that creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def altered(files: Path, folder: Path, **flavor: object) -> str:
    """A copy of the model with other entries in the file MLmodel."""
    shutil.copytree(files, folder)
    described = yaml.safe_load((folder / "MLmodel").read_text())
    described["flavors"]["python_function"] |= flavor
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    return str(folder)


def with_trap(files: Path, folder: Path, trap: Path, **flavor: object) -> str:
    """A copy of the model with other entries in MLmodel, and with code and a pickle that create the file `trap`."""
    uri = altered(files, folder, **flavor)
    code = f"from pathlib import Path\nPath({str(trap)!r}).touch()\n"
    for name in ("purchase_model.py", "other.py", "code/planted.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    (folder / "planted.pkl").write_bytes(pickle.dumps(Planted(trap)))
    shutil.copytree(files, folder / "inner")
    (folder / "inner/purchase_model.py").write_text(code)
    return uri


@pytest.mark.parametrize(
    ("flavor", "named"),
    [
        ({"python_model": "planted.pkl", "model_code_path": None}, "python_model"),
        ({"python_model": "planted.pkl"}, "python_model"),
        ({"code": "code", "loader_module": "planted"}, "code"),
        ({"code": "code"}, "code"),
        ({"data": "inner"}, "data"),
        ({"loader_module": "mlflow.sklearn"}, "loader_module mlflow.sklearn"),
        ({"loader_module": "mlflow.pyfunc.model"}, "loader_module mlflow.pyfunc.model"),
        ({"model_code_path": "/home/someone/other.py"}, "model_code_path /home/someone/other.py"),
        ({"model_code_path": "/home/someone/purchase_model.py"}, "model_code_path /home/someone/purchase_model.py"),
        ({"artifacts": {}}, "artifacts None"),
        ({"artifacts": {"booster": {"path": "planted.pkl"}}}, "artifacts booster"),
    ],
)
def test_a_model_of_another_form_is_refused_before_anything_of_it_runs(
    files: Path, tmp_path: Path, flavor: dict[str, object], named: str
) -> None:
    trap = tmp_path / "ran"
    uri = with_trap(files, tmp_path / "model", trap, **flavor)
    with pytest.raises(click.ClickException) as refused:
        packaging.load(uri)
    assert refused.value.message == (
        f"{uri} cannot be loaded: it was not packaged by this workflow (its MLmodel has {named}), so none of its code "
        "was run; use a model that the step train made"
    )
    assert not trap.exists()


def test_a_model_without_a_python_function_or_mlmodel_is_refused(files: Path, tmp_path: Path) -> None:
    uri = altered(files, tmp_path / "model")
    described = yaml.safe_load((tmp_path / "model/MLmodel").read_text())
    described["flavors"] = {"lightgbm": {"data": "artifacts/booster.txt"}}
    (tmp_path / "model/MLmodel").write_text(yaml.safe_dump(described))
    with pytest.raises(click.ClickException, match="was not packaged by this workflow"):
        packaging.load(uri)
    for text in ("- a list", "{", ""):
        (tmp_path / "model/MLmodel").write_text(text)
        with pytest.raises(click.ClickException, match=r"^.* cannot be loaded: .*$"):
            packaging.load(uri)
    (tmp_path / "model/MLmodel").unlink()
    with pytest.raises(click.ClickException, match=r"^.* cannot be loaded: .*$"):
        packaging.load(uri)


def test_a_model_of_an_early_version_of_the_project_is_loaded(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files, tmp_path / "early")
    (tmp_path / "early/purchase_model.py").rename(tmp_path / "early/model.py")
    uri = altered(tmp_path / "early", tmp_path / "model", model_code_path="/opt/purchase_predict/model.py")
    raw = carts(20)
    pd.testing.assert_frame_equal(packaging.load(uri).answer(raw), packaging.load(str(files)).answer(raw))


# ---- requirements, predictions and digest ------------------------------------------------------------------------


def test_it_asks_only_for_what_scoring_needs(files: Path) -> None:
    wanted = (files / "requirements.txt").read_text().split()
    assert sorted(line.partition("==")[0] for line in wanted) == ["lightgbm", "mlflow", "numpy", "pandas"]
    assert all("==" in line for line in wanted)


def test_the_signature_and_the_example_say_what_goes_in_and_comes_out(loaded: mlflow.pyfunc.PyFuncModel) -> None:
    signature = loaded.metadata.signature
    assert signature.outputs.input_names() == ["probability", "will_buy", "missing"]
    assert list(signature.inputs.required_input_names()) == list(FEATURES)
    assert [spec.name for spec in signature.params] == ["threshold"]
    example = loaded.input_example
    answered = loaded.predict(example)
    assert len(answered) == len(example)


ROW = {name: None if name in CATEGORICAL else 1.0 for name in FEATURES} | {"brand": "acme", "price": 20.0}


@pytest.mark.parametrize(
    "changed",
    [
        {"price": 20},
        {"price": "20"},
        {"price": np.int32(20)},
        {"num_views_session": 1, "hour": 1, "product_id": 1},
        dict.fromkeys(BEHAVIOUR),
        {"colour": "red"},
    ],
)
def test_the_same_row_in_another_form_is_answered_alike(
    loaded: mlflow.pyfunc.PyFuncModel, changed: dict[str, object]
) -> None:
    plain, other = loaded.predict(pd.DataFrame([ROW])), loaded.predict(pd.DataFrame([ROW | changed]))
    assert plain.to_dict() == other.to_dict()


@pytest.mark.parametrize("nothing", [None, np.nan])
def test_a_column_of_nothing_but_nulls_is_answered(loaded: mlflow.pyfunc.PyFuncModel, nothing: object) -> None:
    answered = loaded.predict(pd.DataFrame([dict.fromkeys(FEATURES, nothing)] * 3))
    assert answered["probability"].between(0, 1).all()


def test_no_rows_are_answered_with_none(loaded: mlflow.pyfunc.PyFuncModel) -> None:
    assert len(loaded.predict(carts(10).head(0))) == 0


def test_a_missing_required_column_is_named(loaded: mlflow.pyfunc.PyFuncModel) -> None:
    with pytest.raises(mlflow.exceptions.MlflowException, match="price"):
        loaded.predict(pd.DataFrame([ROW]).drop(columns="price"))


def test_categorical_columns_are_answered_as_text_is(trained: Trained) -> None:
    frame = carts(200, seed=3)[list(FEATURES)]
    fast = packaging.load(trained.uri).answer(frame.astype(dict.fromkeys(CATEGORICAL, "category")))
    pd.testing.assert_frame_equal(fast, packaging.load(trained.uri).answer(frame))


def test_loading_by_version_changes_neither_model_nor_digest(trained: Trained) -> None:
    before = mlflow.get_run(trained.run_id).outputs.model_outputs[0].model_id
    location = Path(mlflow.get_logged_model(before).artifact_location.removeprefix("file://"))

    def content() -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in location.rglob("*")
            # MLflow writes this file when a model is loaded by version
            if path.is_file() and path.name != "registered_model_meta"
        }

    earlier = content()
    mlflow.register_model(trained.uri, "by-version")
    packaging.load("models:/by-version/1")
    assert content() == earlier


def test_the_digest_is_that_of_the_answers(trained: Trained, tmp_path: Path) -> None:
    dataset = inputs_of(mlflow.get_run(trained.run_id))["dataset"]
    for name in ("same", "other"):
        (tmp_path / name).mkdir()
    assert registered.train(dataset, tmp_path / "same").digest == trained.digest
    assert registered.train(dataset, tmp_path / "other", rounds=29).digest != trained.digest


@pytest.fixture
def planted(trained: Trained) -> Iterator[Path]:
    """Byte code beside the model's code. Python runs it without checking the source. Its probabilities are 0.125."""
    model = mlflow.get_logged_model(mlflow.get_run(trained.run_id).outputs.model_outputs[0].model_id)
    code = Path(model.artifact_location.removeprefix("file://")) / "purchase_model.py"
    source = code.read_text(encoding="utf-8")
    other = source.replace('"probability": probability,', '"probability": probability * 0 + 0.125,')
    assert other != source
    written, target = code.with_name("other.py"), Path(importlib.util.cache_from_source(str(code)))
    written.write_text(other, encoding="utf-8")
    target.parent.mkdir()
    py_compile.compile(str(written), str(target), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    written.unlink()
    yield target
    target.unlink(missing_ok=True)
    target.parent.rmdir()


def test_byte_code_among_the_artifacts_is_not_run(trained: Trained, planted: Path) -> None:
    raw, before = carts(50), planted.read_bytes()
    record = artifacts.checksums_below(mlflow.get_run(trained.run_id), "model")
    assert len(record) > 5
    assert set(mlflow.pyfunc.load_model(trained.uri).predict(raw)["probability"]) == {0.125}  # Python does run it
    model_id = mlflow.get_run(trained.run_id).outputs.model_outputs[0].model_id
    for uri in (trained.uri, f"models:/{model_id}", str(planted.parent.parent)):
        for checksums in (record, {}):
            assert packaging.load(uri, checksums).answer(raw)["probability"].nunique() > 10, uri
    assert planted.read_bytes() == before  # loading changes nothing among the artifacts


def test_code_that_is_byte_code_alone_is_not_loaded(trained: Trained, planted: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(planted.parent.parent, tmp_path / "model"))
    shutil.copy(planted, copy / "purchase_model.pyc")
    (copy / "MLmodel").write_text((copy / "MLmodel").read_text().replace("purchase_model.py", "purchase_model.pyc"))
    assert set(mlflow.pyfunc.load_model(str(copy)).predict(carts(50))["probability"]) == {0.125}
    with pytest.raises(click.ClickException, match="cannot be loaded: "):
        packaging.load(str(copy))


def environment_of(requirements: list[str], folder: Path) -> Path:
    """Makes a virtual environment with only these requirements and their dependencies. Returns its `python`.

    The packages are links to the installed ones, because downloading them again takes minutes. A folder that holds
    files of these packages only is linked as a whole. The link then includes the byte code, and Python does not have to
    compile 2,000 modules again.
    """
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    waiting, done = [Requirement(line) for line in requirements], {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in done:
            continue
        done[name] = distribution = importlib.metadata.distribution(name)
        assert requirement.specifier.contains(distribution.version, prereleases=True)
        extras = requirement.extras or {""}
        waiting += [
            wanted
            for wanted in map(Requirement, distribution.requires or [])
            if not wanted.marker or any(wanted.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    owners = importlib.metadata.packages_distributions()
    for distribution in done.values():
        for file in distribution.files or []:
            if ".." in file.parts or "__pycache__" in file.parts:
                continue
            whole = {canonicalize_name(owner) for owner in owners.get(file.parts[0], ["?"])} <= set(done)
            place = Path(file.parts[0]) if whole else Path(file)
            (site / place).parent.mkdir(parents=True, exist_ok=True)
            if not (site / place).is_symlink():  # mlflow and mlflow-skinny share a folder
                (site / place).symlink_to(distribution.locate_file(place))
    assert "hyperopt" not in done
    assert "duckdb" not in done
    return folder / "bin" / "python"


_ALONE = """
import json, sys
import mlflow, pandas as pd
loaded = mlflow.pyfunc.load_model(sys.argv[1])
assert "purchase_predict" not in sys.modules
print(json.dumps(loaded.predict(pd.read_json(sys.argv[2], orient="records", dtype=False))["probability"].tolist()))
"""


def test_a_clean_environment_with_its_requirements_alone_loads_and_scores(
    files: Path, loaded: mlflow.pyfunc.PyFuncModel, tmp_path: Path
) -> None:
    frame = carts(20, seed=4)[list(FEATURES)]
    frame.to_json(tmp_path / "rows.json", orient="records", double_precision=15)
    python = environment_of((files / "requirements.txt").read_text().split(), tmp_path / "env")
    done = subprocess.run(
        [python, "-c", _ALONE, files, tmp_path / "rows.json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    assert sys.prefix not in done.stderr
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), loaded.predict(frame)["probability"])
