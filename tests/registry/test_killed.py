"""A promotion or rollback is killed before one of its writes, each write in turn.

After `mend`, the move is either complete or has left no trace.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click
import mlflow
import pytest
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.registry import journal, promotion, stages, versions
from purchase_predict.registry.journal import Author
from purchase_predict.registry.status import status as status_of
from steps import rollback as rollback_step
from tests.registered import empty_versions, invoke
from tests.registry.decisions import ALIAS, Rows, deploy

ENV = "staging"
ANNA, OTHER = Author("anna", "0123", "because"), Author("bert", "4567")
#: The methods of MLflow's client that write.
WRITES = [
    name
    for name in dir(mlflow.MlflowClient)
    if not name.startswith(("_", "get_", "search_", "list_", "download_"))
    and callable(getattr(mlflow.MlflowClient, name))
]


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_before(number: int) -> Iterator[list[str]]:
    """Ends the block before its write with this number, as if the process were killed there; the first is 1.

    Yields the names of the writes that were made.
    """
    made: list[str] = []

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(*given: Any, **named: Any) -> Any:
            if len(made) + 1 == number:
                raise Killed
            made.append(original.__name__)
            return original(*given, **named)

        return write

    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        for name in WRITES:
            patch.setattr(mlflow.MlflowClient, name, wrapped(getattr(mlflow.MlflowClient, name)))
        yield made


def now(version: ModelVersion) -> ModelVersion:
    """The version as the registry has it now."""
    found = versions.get_version(version.name, version.version)
    assert found
    return found


def promote(version: ModelVersion) -> None:
    assert promotion.promote(now(version), ENV, versions.champion(version.name, ENV), ANNA)


def roll_back(target: ModelVersion, blame: bool = True) -> None:
    holder = versions.champion(target.name, ENV)
    assert holder
    assert promotion.roll_back(holder, now(target), ENV, f"to {target.version} by anna: because", ANNA, blame=blame)


def tagged(version: ModelVersion, *tags: str) -> None:
    for tag in tags:
        mlflow.MlflowClient().set_model_version_tag(version.name, version.version, tag, "by bert")


#: Tags that a move of staging removes from the new holder.
REMOVED = ("waits.staging", "rolled_back.staging")
#: A tag that the new holder keeps.
KEPT = "rolled_back.production"


def first(name: str) -> Callable[[], None]:
    (one,) = empty_versions(name, 1)
    return lambda: promote(one)


def once_rolled_back(name: str) -> Callable[[], None]:
    one, two = empty_versions(name, 2)
    promote(one)
    tagged(two, "previous.staging", KEPT, *REMOVED)
    return lambda: promote(two)


def the_holder(name: str) -> Callable[[], None]:
    (one,) = empty_versions(name, 1)
    promote(one)
    tagged(one, KEPT, *REMOVED)
    return lambda: promote(one)


def back(name: str) -> Callable[[], None]:
    one, two = empty_versions(name, 2)
    for version in (one, two):
        promote(version)
    return lambda: roll_back(one)


def back_to_one_that_was_rolled_back(name: str) -> Callable[[], None]:
    one, two = empty_versions(name, 2)
    promote(two)
    tagged(one, "moved_by_hand.staging", KEPT, *REMOVED)
    return lambda: roll_back(one)


def forward(name: str) -> Callable[[], None]:
    one, two = empty_versions(name, 2)
    promote(one)
    tagged(two, KEPT, *REMOVED)
    return lambda: roll_back(two, blame=False)


def moved_by_hand_before(name: str) -> Callable[[], None]:
    one, two, three = empty_versions(name, 3)
    promote(one)
    mlflow.MlflowClient().set_registered_model_alias(name, ENV, two.version)
    stages.settle_stages(name)
    return lambda: promote(three)


#: Each function prepares a registered model of the given name, and returns the move of staging to be killed.
SCENARIOS = [
    first,
    once_rolled_back,
    the_holder,
    back,
    back_to_one_that_was_rolled_back,
    forward,
    moved_by_hand_before,
]


def state(name: str) -> dict[str, Any]:
    """The aliases, tags, versions and journal entries of a registered model, for a comparison with another model.

    A journal entry is reduced to its action, holder, previous holder and author. For an entry "found", the author is
    left out, too, because either the move itself or `mend` may write it.
    """
    model = mlflow.MlflowClient().get_registered_model(name)
    assert journal.problem(model.tags, ENV) is None
    return {
        "aliases": {alias: str(number) for alias, number in model.aliases.items()},
        "tags": {tag: value for tag, value in model.tags.items() if not tag.startswith("journal.")},
        "versions": {str(found.version): (found.tags, found.current_stage) for found in versions.versions(name)},
        "journal": [
            (entry.action, entry.version, entry.previous, entry.by if entry.action != journal.FOUND else "")
            for entry in journal.read(model.tags, ENV)
        ],
    }


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_move_that_is_killed_before_any_write_has_happened_or_has_not(
    scenario: Callable[[str], Callable[[], None]], shared_store: str
) -> None:
    name = scenario.__name__
    act = scenario(name)
    with killed_before(1):
        act()
    promotion.mend(name, ENV, OTHER)
    before = state(name)
    act()
    after = state(name)
    assert f"{promotion.MOVING}." not in str(after)
    assert (KEPT in str(after)) == (KEPT in str(before))
    assert not [tag for tag in REMOVED if f"'{tag}'" in str(after["versions"][after["aliases"][ENV]])]
    for number in itertools.count(1):
        killed = f"{name}-{number}"
        act = scenario(killed)
        with killed_before(number) as made:
            act()
        if len(made) < number - 1:  # the move has been killed before each of its writes
            break
        promotion.mend(killed, ENV, OTHER)
        found = state(killed)
        # `mend` drops a move whose alias has not moved. But if the version already holds the environment, `mend` takes
        # the alias for moved, and completes the move.
        assert found == after if ALIAS in made else found in (before, after), made
    assert number > 4


def test_mending_may_be_killed_too(shared_store: str) -> None:
    name = "mending"
    back(name)()
    after = state(name)
    for number in itertools.count(1):
        killed = f"{name}-{number}"
        act = back(killed)
        with killed_before(3) as made:
            act()
        assert made[-1] == ALIAS
        with killed_before(number) as made:
            promotion.mend(killed, ENV, OTHER)
        if len(made) < number - 1:
            break
        promotion.mend(killed, ENV, OTHER)
        assert state(killed) == after, made
    assert number > 4


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_next_deploy_mends(number: int, shared_store: str) -> None:
    name = f"next-deploy-{number}"
    made = empty_versions(name, 3)
    rows = Rows({"1": 0.6, "2": 0.65, "3": 0.7})
    promote(made[0])
    with killed_before(number) as written:
        promote(made[1])
    deploy(made[2], rows)
    tags = {str(version.version): version.tags for version in versions.versions(name)}
    assert tags["3"]["previous.staging"] == ("2" if ALIAS in written else "1")
    assert tags["2"].get("previous.staging") == ("1" if ALIAS in written else None)
    assert not [tag for found in tags.values() for tag in found if tag.startswith(("moving.", "rolled_back."))]


@pytest.mark.parametrize("number", [3, 4, 5])
def test_the_next_rollback_mends_and_goes_back(number: int, shared_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback_step.packaging, "load", lambda *_: None)
    name = f"next-rollback-{number}"
    one, two = empty_versions(name, 2)
    promote(one)
    with killed_before(number) as written:
        promote(two)
    assert ALIAS in written
    result = invoke(rollback_step.rollback, registry_name=name, env=ENV)
    assert result.exit_code == 0, result.output
    holder = versions.champion(name, ENV)
    assert holder
    assert (int(holder.version), list(promotion.rolled_back(now(two)))) == (1, ["rolled_back.staging"])


def test_status_never_says_that_a_holder_was_rolled_back(shared_store: str) -> None:
    name = "status-of-a-killed-promotion"
    act = back(name)
    act()
    (_, two) = sorted(versions.versions(name), key=lambda version: int(version.version))
    lines = status_of(name, [ENV], None, "1", "").lines()
    assert [line for line in lines if line.startswith("rolled back: version 2, to 1 by anna")]
    with killed_before(3) as made:
        promote(two)
    assert made[-1] == ALIAS
    assert not [line for line in status_of(name, [ENV], None, "1", "").lines() if line.startswith("rolled back")]


def test_a_rolled_back_tag_of_an_earlier_version_of_the_project_is_mended(shared_store: str) -> None:
    (one,) = empty_versions("earlier", 1)
    promote(one)
    tagged(one, "rolled_back.staging")
    promotion.mend("earlier", ENV, OTHER)
    assert not promotion.rolled_back(now(one))


#: The move of a promotion without an earlier holder, as it is stored (as JSON) in the tag `moving.<env>`.
MOVE = {"action": "promoted", "before": "", "author": {"by": "anna", "run_id": "0123", "reason": ""}, "by_hand": ""}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "no JSON", '{"author": 1}', '{"author": {}, "other": 1}', "[" * 4900),
        *(json.dumps(MOVE | change) for change in ({"action": "moved"}, {"before": 1}, {"by_hand": None})),
        json.dumps(MOVE | {"author": {"by": ["anna"], "run_id": "0123"}}),
    ],
)
def test_a_move_that_cannot_be_read_stops_in_one_line(text: str, shared_store: str) -> None:
    name = "unreadable"
    if not mlflow.search_registered_models(filter_string=f"name = '{name}'"):
        empty_versions(name, 1)
    mlflow.MlflowClient().set_model_version_tag(name, "1", f"{promotion.MOVING}.{ENV}", text)
    with pytest.raises(click.ClickException) as caught:
        promotion.mend(name, ENV, OTHER)
    assert caught.value.message == (
        "unreadable version 1: its tag moving.staging was changed and cannot be read: delete the tag"
    )


def test_a_long_reason_fits(shared_store: str) -> None:
    one, two = empty_versions("long", 2)
    promote(one)
    author = Author("anna", "0123", "ü" * 200_000)
    assert promotion.promote(now(two), ENV, one, author)
    assert promotion.roll_back(now(two), now(one), ENV, "ü" * 200_000, author, blame=True)
    assert len(now(one).tags[f"{promotion.BY_HAND}.{ENV}"]) == 5000


def test_a_version_that_was_rolled_back_meanwhile_is_not_promoted(shared_store: str) -> None:
    one, two = empty_versions("meanwhile", 2)
    promote(one)
    judged = now(two)
    tagged(two, "rolled_back.production")
    assert not promotion.promote(judged, ENV, one, ANNA)
    holder = versions.champion("meanwhile", ENV)
    assert holder
    assert int(holder.version) == 1
    assert promotion.rolled_back(now(two)) == {"rolled_back.production": "by bert"}
    assert f"{promotion.MOVING}.{ENV}" not in now(two).tags
