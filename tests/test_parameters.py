from contextlib import suppress
from pathlib import Path

import click
import duckdb
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from main import main
from purchase_predict import database, parameters
from purchase_predict.errors import printable
from purchase_predict.parameters import PARAMETERS, STEPS, Engine, resolve, typed, written
from purchase_predict.settings import PROJECT


@given(st.integers(0, 2**31 - 1))
def test_a_number_is_the_same_however_it_is_written(number: int) -> None:
    values = [typed("seed", text) for text in (number, float(number), str(number), f"{number}.0")]
    assert values == [number] * 4
    assert {type(value) for value in values} == {int}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("test_ratio", "1.5"),
        ("test_ratio", "0"),
        ("test_ratio", "nan"),
        ("max_evals", "0"),
        ("max_evals", "2.5"),
        ("max_evals", "many"),
        ("metric", "auc"),
        ("env", "prod"),
        ("force", "everything"),
        ("reuse", "yes"),
        ("seed", "-1"),
        ("tolerance", "-0.1"),
        ("max_reject_ratio", "2"),
        ("registry_name", " "),
        ("registry_name", "a/b"),
        ("source", ""),
        ("parallelism", "1e9.5"),
        ("max_minutes", "inf"),
        ("engine", "duck"),
        ("dry_run", "1"),
        *(("memory_limit", size) for size in ("2", "0GB", "000.00 MiB", "99999999999999999999TB", "-1GB", "GB")),
        ("memory_limit", "\uff12GB"),
        ("version", "two"),
        ("margin", "0"),
        ("margin", "twelve"),
        ("code_cost", "-1"),
        ("output", "gs://bucket/scored.csv"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(name: str, value: str) -> None:
    with pytest.raises(click.ClickException) as caught:
        typed(name, value)
    assert caught.value.message.startswith(f"{name}={value}: must ")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("size", ["1KB", "16777216KB", "0.5 GiB", "2GB", "010.50MB", "999999999.9GiB", "999999.9TiB"])
def test_every_size_that_is_taken_is_one_that_duckdb_takes(size: str, tmp_path: Path) -> None:
    assert typed("memory_limit", size) == size
    with suppress(duckdb.OutOfMemoryException):  # the limit is valid but may be too small; commands then print one line
        database.connect(tmp_path, size).close()


def test_defaults_fill_what_is_not_given() -> None:
    values = resolve("main", {"max_evals": "3"})
    assert values["max_evals"] == 3
    assert values["metric"] == "roc_auc"
    assert set(values) == set(parameters.declared("main"))


@pytest.mark.parametrize("entry_point", ["main", "train"])
def test_the_money_of_codes_is_given_as_a_whole_or_not_at_all(entry_point: str) -> None:
    assert resolve(entry_point, {"margin": "12", "code_cost": "3"})["code_cost"] == 3
    assert resolve(entry_point, {})["margin"] is None
    for margin, code_cost in ((3, 5), (3, 3)):
        with pytest.raises(click.ClickException, match=f"margin=3 code_cost={code_cost}: .* must be less than margin"):
            resolve(entry_point, {"margin": margin, "code_cost": code_cost})
    with pytest.raises(click.ClickException, match="give both, or neither"):
        resolve(entry_point, {"margin": 12})


@pytest.mark.parametrize("entry_point", ["main", "load"])
def test_what_spark_alone_reads_is_refused_without_it(entry_point: str) -> None:
    source = "hdfs://names:8020/clicks"
    assert resolve(entry_point, {"source": source, "engine": "spark"})["source"] == source
    for values in ({"source": source}, {"source": source, "engine": "duckdb"}):
        with pytest.raises(
            click.ClickException, match=r"source hdfs://names:8020/clicks: only engine=spark can read this address"
        ):
            resolve(entry_point, values)


@pytest.mark.parametrize(
    ("entry_point", "name", "uri", "shown"),
    [
        ("load", "source", "s3a://AKIA:s3cr3t@bucket/clicks", "s3a://bucket/clicks"),
        ("main", "source", "https://shop.example/clicks.csv?token=s3cr3t", "https://shop.example/clicks.csv?token=***"),
        ("predict", "input", "gs://s3cr3t@bucket/x", "gs://bucket/x"),
        ("predict", "history", "simplecache::s3://me:s3cr3t@bucket/x", "simplecache::s3://bucket/x"),
        ("serve", "state", "redis://:s3cr3t@host:6379/0", "redis://host:6379/0"),
        ("serve", "warm", "wasbs://raw@shop.example/x?sig=s3cr3t", "wasbs://raw@shop.example/x?sig=***"),
    ],
)
def test_an_address_with_a_secret_is_refused_without_showing_it(
    entry_point: str, name: str, uri: str, shown: str
) -> None:
    with pytest.raises(click.ClickException) as refused:
        parameters.resolve(entry_point, {name: uri})
    assert refused.value.message.startswith(f"{name}: the address {shown} holds a password, key or token")
    assert "s3cr3t" not in refused.value.message


def test_a_path_that_cannot_be_known_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for value in ("~nobody-of-this-name/x.csv", str(tmp_path / "a/x.csv")):
        with pytest.raises(
            click.ClickException, match=r"^output=.*: cannot be resolved to a path on this machine: "
        ) as refused:
            parameters.local_path("output", value)
        assert "\n" not in refused.value.message
    assert parameters.local_path("output", f"{tmp_path}/new/../x.csv") == tmp_path / "x.csv"


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(click.ClickException, match="load has no parameter evals"):
        resolve("load", {"evals": 1})


@pytest.mark.parametrize("step", STEPS)
def test_a_default_satisfies_its_own_rule(step: str) -> None:
    resolve(step, {})


@pytest.mark.parametrize("step", STEPS)
def test_main_and_the_steps_agree_on_what_they_share(step: str) -> None:
    main = parameters.declared("main")
    for name, declaration in parameters.declared(step).items():
        if name in main:
            assert (declaration["type"], declaration["default"]) == (main[name]["type"], main[name]["default"]), name


@pytest.mark.parametrize(
    ("name", "texts", "value"),
    [
        ("reuse", ["true", "True", True], True),
        ("dry_run", ["false", "False", False], False),
        ("max_evals", ["20", "20.0", "20.", 20, 20.0], 20),
        ("tolerance", ["0", "0.0", 0, 0.0, "-0"], 0.0),
        ("test_ratio", ["0.3", ".3", "3e-1"], 0.3),
        ("engine", ["spark"], Engine.SPARK),
        ("env", [""], ""),
        ("margin", ["", None], None),
        ("code_cost", ["3", "3.0", 3], 3.0),
        ("memory_limit", ["2GB", "2GB"], "2GB"),
        ("memory_limit", [""], ""),
    ],
)
def test_steps_get_values_of_the_parameters_type(name: str, texts: list[object], value: object) -> None:
    for text in texts:
        found = typed(name, text)
        assert found == value
        assert type(found) is type(value)
        assert typed(name, written(found)) == value  # as main hands it to a step


def test_every_declared_parameter_is_in_the_table_and_no_other() -> None:
    entry_points = yaml.safe_load((PROJECT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    assert {name for entry in entry_points.values() for name in entry["parameters"]} == set(PARAMETERS)


def test_the_help_shows_choices_ranges_and_defaults() -> None:
    shown = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    for text in (
        "--metric [roc_auc|average_precision|log_loss|f1]",
        "[default: 20; x>=1]",
        "[default: 0.3; 0<x<1]",
        "--engine [duckdb|spark]",
        "--reuse [true|false]",
        "--force [load|process|train|deploy]",
    ):
        assert text in shown


@pytest.mark.parametrize(
    ("given", "on_kubernetes"),
    [
        ("local", ()),
        ("", ()),
        ("kubernetes", STEPS),
        ("train:kubernetes", ("train",)),
        ("load:kubernetes, deploy:kubernetes,train:local", ("load", "deploy")),
    ],
)
def test_backend_is_one_for_all_steps_or_a_list(given: str, on_kubernetes: tuple[str, ...]) -> None:
    found = typed("backend", given)
    assert tuple(found) == STEPS
    assert tuple(step for step, backend in found.items() if backend == "kubernetes") == on_kubernetes


@pytest.mark.parametrize("given", ["docker", "main:kubernetes", "train:", "train:kubernetes,local", "kubernetes,train"])
def test_a_wrong_backend_is_one_line(given: str) -> None:
    with pytest.raises(click.ClickException, match=r"^backend=.*must be one of local, kubernetes, or a list such as"):
        typed("backend", given)


@pytest.mark.parametrize("name", ["source", "gcp_project", "memory_limit", "backend_config"])
def test_a_value_that_is_not_utf_8_is_one_line_about_the_parameter(name: str) -> None:
    value = b"/tmp/caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(click.ClickException) as refused:
        resolve("main", {name: value})
    assert printable(refused.value.message).startswith(f"{name}=/tmp/caf\\udce9: must be UTF-8 text")
    assert resolve("main", {"source": "/tmp/café"})["source"] == "/tmp/café"
