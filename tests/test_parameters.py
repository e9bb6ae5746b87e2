import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict import parameters
from purchase_predict.parameters import STEPS, resolve, typed


@given(st.integers(0, 2**31 - 1))
def test_a_number_is_the_same_however_it_is_written(number: int) -> None:
    values = [typed("train", "seed", text) for text in (number, float(number), str(number), f"{number}.0")]
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
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(name: str, value: str) -> None:
    with pytest.raises(click.ClickException) as caught:
        typed("main", name, value)
    assert caught.value.message.startswith(f"{name}={value}: must ")
    assert "\n" not in caught.value.message


def test_defaults_fill_what_is_not_given() -> None:
    values = resolve("main", {"max_evals": "3"})
    assert values["max_evals"] == 3
    assert values["metric"] == "roc_auc"
    assert set(values) == set(parameters.declared("main"))


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
