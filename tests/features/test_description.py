"""dataset.json: reading returns what was written; for a file of another version, a one-line error names the key."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from purchase_predict.features.description import BaseRate, Description, Rows, Users

EXPECTED = Path(__file__).parent / "expected"


def description() -> Description:
    return Description(
        split="time",
        test_ratio=0.25,
        cut="2019-10-24 00:00:00",
        rows=Rows(read=2010, repeated=10, train=1500, test=500),
        users=Users(train=600, test=200),
        base_rate=BaseRate(train=0.5, test=0.1),
        features=["price", "brand"],
        categories={"brand": ["acme", "naïve"]},
        profile={"price": {"edges": [0.1, 2], "shares": [0.5, 0.5, 0.0, 0.0]}},
    )


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    for one in (description(), replace(description(), cut=None, split="user", events={"events": 9})):
        one.write(tmp_path)
        assert Description.read(tmp_path) == Description.read(tmp_path / "dataset.json") == one


@pytest.mark.parametrize("name", ["dataset_by_time.json", "dataset_by_user.json"])
def test_a_file_that_is_read_and_written_keeps_its_bytes(name: str, tmp_path: Path) -> None:
    Description.read(EXPECTED / name).write(tmp_path)
    assert (tmp_path / "dataset.json").read_bytes() == (EXPECTED / name).read_bytes()


def without(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: part for key, part in value.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: without(value, "profile"), "key profile is missing"),
        (lambda value: value | {"base_rate": without(value["base_rate"], "train")}, "key base_rate.train is missing"),
        (lambda value: value | {"weather": 1}, "key weather is unknown"),
        (lambda value: value | {"rows": value["rows"] | {"lost": 1}}, "key rows.lost is unknown"),
        (lambda value: value | {"users": 3}, "users must be a JSON object"),
        (lambda value: [value], "the whole file must be a JSON object"),
    ],
)
def test_a_file_of_another_version_is_one_line_that_names_file_and_key(
    change: Any, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps(change(description().as_json())))
    with pytest.raises(click.ClickException) as refused:
        Description.read(tmp_path)
    assert refused.value.message.startswith(f"{file}: {message}")
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_a_file_that_is_not_json_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(click.ClickException, match=r"dataset\.json is not JSON: ") as refused:
        Description.read(tmp_path)
    assert "\n" not in refused.value.message
