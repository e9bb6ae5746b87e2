import json

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict.parameters import PARAMETERS
from purchase_predict.workflow.completed import KEY_PARTS
from purchase_predict.workflow.key import key_of, key_parts, search_key_of
from purchase_predict.workflow.plan import Plan
from purchase_predict.workflow.source import source_closure

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.randoms())
def test_the_key_does_not_depend_on_the_order_of_its_parts(parts: dict[str, object], random: object) -> None:
    items = list(parts.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert key_of(dict(items)) == key_of(parts)


@given(st.dictionaries(st.text(), json_values, min_size=1, max_size=5), st.data())
def test_the_key_changes_with_any_part(parts: dict[str, object], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(parts)))
    other = data.draw(json_values.filter(lambda value: json.dumps(value) != json.dumps(parts[name])))
    assert key_of({**parts, name: other}) != key_of(parts)


def test_the_key_is_of_the_content_of_inputs_not_of_their_place() -> None:
    one = key_parts("train", {"dataset": "runs:/a/dataset", "seed": 1}, {"dataset": "digest"})
    two = key_parts("train", {"dataset": "runs:/b/dataset", "seed": 1}, {"dataset": "digest"})
    assert key_of(one) == key_of(two)
    assert key_of(one) != key_of(key_parts("train", {"dataset": "runs:/a/dataset", "seed": 1}, {"dataset": "other"}))


OLD = {
    "format": 2,
    "entry_point": "train",
    "parameters": {"seed": 1, "max_evals": 5},
    "inputs": {"dataset": "a"},
    "source": {"steps/train.py": "x", "purchase_predict/report/layout.css": "x"},
    "environment": {"lightgbm": "4.6.0"},
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parameters": {"seed": 2, "max_evals": 5}}, "seed: 1 -> 2"),
        ({"inputs": {"dataset": "b"}}, "content of dataset changed"),
        ({"source": {**OLD["source"], "steps/train.py": "y"}}, "steps/train.py changed"),  # type: ignore[dict-item]
        ({"environment": {"lightgbm": "4.7.0"}}, "lightgbm 4.6.0 -> 4.7.0"),
        ({"format": 3, "inputs": {"dataset": "b"}}, "key format changed"),
        ({}, "no completed run left"),
    ],
)
def test_what_differs_from_the_newest_run_is_named(store: str, change: dict[str, object], reason: str) -> None:
    client = mlflow.MlflowClient()
    run_id = client.create_run("1", tags={KEY_PARTS: json.dumps(OLD)}).info.run_id
    plan = Plan("train", {}, {**OLD, **change})
    assert plan.differs_from(client.get_run(run_id)) == reason
    assert plan.differs_from(None) == "no completed run yet"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"parameters": {"seed": 1, "max_evals": 20}}, True),
        ({"source": {**OLD["source"], "purchase_predict/report/layout.css": "y"}}, True),  # type: ignore[dict-item]
        ({"parameters": {"seed": 1, "max_evals": 5, "backtest": False}}, True),
        ({"source": {**OLD["source"], "purchase_predict/evaluation/backtest.py": "y"}}, True),  # type: ignore[dict-item]
        ({"parameters": {"seed": 1, "max_evals": 5, "margin": 12.0, "code_cost": 3.0}}, True),
        ({"source": {**OLD["source"], "purchase_predict/evaluation/promo_codes.py": "y"}}, True),  # type: ignore[dict-item]
        ({"parameters": {"seed": 2, "max_evals": 5}}, False),
        ({"source": {**OLD["source"], "steps/train.py": "y"}}, False),  # type: ignore[dict-item]
        ({"inputs": {"dataset": "b"}}, False),
    ],
)
def test_a_longer_search_or_another_report_takes_the_same_trials_over(change: dict[str, object], same: bool) -> None:
    assert (search_key_of({**OLD, **change}) == search_key_of(OLD)) == same


def test_the_looks_of_a_page_run_no_decision_again() -> None:
    looks = ("purchase_predict/report/layout.css", "purchase_predict/report/promotion_page.html.jinja")
    assert [name for name in looks if name not in source_closure("deploy")] == []
    counted = key_parts("deploy", {}, {})["source"]
    assert [name for name in looks if name in counted] == []
    assert "purchase_predict/registry/gate.py" in counted
    assert looks[0] in key_parts("train", {}, {})["source"]


def test_only_what_can_change_a_result_is_in_the_key() -> None:
    in_key = {name for name, parameter in PARAMETERS.items() if parameter.in_key}
    for name in ("source", "data", "dataset", "model", "engine", "memory_limit", "gcp_project", "reuse"):
        assert name not in in_key
    for name in (
        "seed",
        "backtest",
        "metric",
        "test_ratio",
        "max_evals",
        "max_reject_ratio",
        "env",
        "registry_name",
        "margin",
    ):
        assert name in in_key
