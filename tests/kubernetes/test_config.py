import json
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from purchase_predict.kubernetes.config import ENTRY_POINTS, Config
from tests.conftest import PROJECT
from tests.kubernetes.files import IMAGE, config


def test_json_and_yaml_say_the_same_and_a_template_may_be_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("spec: {template: {spec: {priorityClassName: batch}}}")
    values = config(context="here", steps={"train": {"template": "job.yaml", "patience": 5}}, env={"A": "1"})
    (tmp_path / "k.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "k.json").write_text(json.dumps(values, indent="\t"))
    found = [Config.read(str(tmp_path / name)) for name in ("k.yaml", "k.json")]
    assert found[0].of_step("train") == found[1].of_step("train")
    assert found[0].context == "here"
    of_train = found[0].of_step("train")
    assert (of_train.image, of_train.patience, of_train.env) == (IMAGE, 5, {"A": "1"})
    assert of_train.template["spec"]["template"]["spec"] == {"priorityClassName": "batch"}
    assert found[0].of_step("load").template == {}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (config(image="shop/purchase-predict:latest"), "a tag may point to another image later"),
        ({}, "image=(none): must name the image by its digest"),
        (config(imge="x"), "imge is unknown; allowed: image, namespace, "),
        (config(steps={"train": {"context": "x"}}), "steps.train: context is unknown"),
        (config(deadline="1h"), "deadline: must be a whole number, not '1h'"),
        (config(deadline=0), "deadline=0: must be 1 second or more"),
        (config(resources={"requests": "4"}), "resources.requests: must be a mapping, not '4'"),
        (
            config(template={"spec": {"template": {"spec": {"containers": [{"resources": {"limits": ["4"]}}]}}}}),
            "template: resources.limits: must be a mapping",
        ),
        (config(tolerations={}), "tolerations: must be a list"),
        (config(steps=[]), "steps: must be a mapping"),
        (
            config(steps={"trian": {"deadline": 5, "bogus": 1}}),
            f"backend_config f: steps: trian is unknown; allowed: {', '.join(ENTRY_POINTS)}",
        ),
        (config(steps={1: {}, None: {}, "load": {}}), "steps: 1, None is unknown; allowed: main, load, "),
        (config(steps={"load": {"dedline": 5}}), "f: steps.load: dedline is unknown; allowed: image, namespace, "),
        (config(steps={"load": {2: 5, "x": 1}}), "f: steps.load: 2, x is unknown; allowed: image, "),
        *(
            (config(steps={"train": entry}), f"f: steps.train: must be a mapping, not {entry!r}")
            for entry in ("", 0, False, "deadline")
        ),
        *((config(env=entry), f"f: env: must be a mapping, not {entry!r}") for entry in ("", 0, "A=1")),
        *(
            (config(**{name: [{"name": "DB", "value": "planted"}]}), f"f: {name}: must be a mapping, not a list")
            for name in ("env", "env_from_secrets", "steps")
        ),
        (config(steps={"train": []}), "f: steps.train: must be a mapping, not a list"),
        (config(resources=["planted"]), "resources: must be a mapping, not a list"),
        (config(steps={"train": {"env": []}}), "f: steps.train.env: must be a mapping, not a list"),
        (config(env={"A": b"planted"}), "env.A: must be text, a number, a date, true, false or null"),
        (config(env={1: "x"}), "1 is not a valid name of an environment variable"),
        (config(env={"A": ["planted"]}), "env.A: must be text, a number, a date, true, false or null"),
        (config(env_from_secrets={"A": {"secret": "s", "key": None}}), "env_from_secrets.A: must have two entries, "),
        (config(resources={"request": {"cpu": "4"}}), "resources: request is unknown; allowed: requests, limits, "),
        (config(resources={"limits": []}), "resources.limits: must be a mapping, not a list"),
        (
            config(template={"spec": {"template": {"spec": {"containers": [{"resources": {"limit": {}}}]}}}}),
            "template: resources: limit is unknown; allowed: requests, limits, ",
        ),
        (config(env={"A B": "1"}), "A B is not a valid name of an environment variable"),
        (
            config(env_from_secrets={"A": "x"}),
            "env_from_secrets.A: must have two entries, secret (the name of the Secret) and key (",
        ),
        (config(tracking_uri="https://me:planted@server"), "tracking_uri holds a password"),
        (config(template="missing.yaml"), "missing.yaml: cannot be read"),
        (config(template={"spec": 1}), "template: spec must be a mapping"),
        (config(template={"spec": {"template": "x"}}), "template: template must be a mapping"),
        (
            config(template={"spec": {"template": {"spec": {"containers": {}}}}}),
            "containers must be a list of mappings",
        ),
        (
            config(template={"spec": {"template": {"spec": {"containers": [{"env": {"A": "1"}}]}}}}),
            "env must be a list of mappings",
        ),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_place(values: dict[str, Any], says: str) -> None:
    with pytest.raises(click.ClickException) as error:
        Config.of(values, "backend_config f", Path()).of_step("train")
    assert says in error.value.message
    assert error.value.message.startswith("backend_config ")
    assert "planted" not in error.value.message
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1", "is neither JSON nor YAML"),
        ('{\n\t"image" 1\n}', "is neither JSON nor YAML: Expecting ':' delimiter"),
        ("1", "must be a mapping, not 1"),
        (None, "cannot be read"),
        ("deadline: 2026-13-45", "is neither JSON nor YAML: month must be in 1..12"),
        ("[" * 5000, "is neither JSON nor YAML: maximum recursion depth exceeded"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "k.yaml").write_text(text)
    with pytest.raises(click.ClickException) as error:
        Config.read(str(tmp_path / "k.yaml"))
    assert says in error.value.message
    with pytest.raises(click.ClickException, match=r"backend_config is empty: .* docs/deployment.md has an example"):
        Config.read("")


@pytest.mark.parametrize("text", ["{metadata: {annotations: {since: 2026-05-03}}}", "&here {spec: *here}", "{a: .nan}"])
def test_a_template_with_a_value_that_json_lacks_is_one_line(text: str) -> None:
    values = config(template=yaml.safe_load(text), env={"SINCE": yaml.safe_load("2026-05-03")})
    with pytest.raises(click.ClickException, match=r"train\.template: holds a value that JSON does not have") as error:
        Config.of(values, "backend_config f", Path()).of_step("train")
    assert "\n" not in error.value.message
    assert Config.of(values | {"template": {}}, "f", Path()).of_step("train").env == {"SINCE": "2026-05-03"}


def test_a_step_is_an_entry_point_and_may_have_no_settings() -> None:
    entry_points = yaml.safe_load((PROJECT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    assert sorted(ENTRY_POINTS) == sorted(entry_points)
    steps = {entry_point: None if entry_point == "load" else {"patience": 5} for entry_point in ENTRY_POINTS}
    found = Config.of(config(steps=steps, env=None, resources={"limits": None}), "backend_config f", Path())
    assert [found.of_step(step).patience for step in ("load", "main", "predict")] == [60, 5, 5]
