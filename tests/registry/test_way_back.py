"""The version that a rollback returns to, after any history of promotions, rollbacks, deletions and moves by hand."""

import click
import mlflow
import pytest

from purchase_predict.registry import journal, promotion, versions
from purchase_predict.registry.journal import Author
from purchase_predict.registry.status import status
from purchase_predict.registry.way_back import version_before
from tests.registered import empty_versions
from tests.registry.decisions import Rows, deploy

ME = Author("anna", "0123", "because")
#: Histories of staging, each with the version that the next rollback must return to (empty: none). In a history, `1`
#: promotes version 1, `<` rolls back, `<1` rolls back to version 1, `=1` moves the alias to version 1 by hand, and `-1`
#: deletes version 1.
HISTORIES = {
    "1": "",
    "1 2": "1",
    "1 2 3": "2",
    "1 2 3 <": "1",
    "1 2 3 < <": "",
    "1 2 3 <1": "",
    "1 2 < 3": "1",
    "1 2 3 -2": "1",
    "1 2 3 -2 <": "",
    "1 2 3 4 -2 -3": "1",
    "1 2 3 2": "3",
    "1 2 3 2 <": "1",  # 2 was promoted twice: its tag `previous` names 3, and only the journal knows 1
    "1 2 3 4 2 <": "3",
    "1 2 3 4 2 < <": "1",
    "1 2 3 2 < <": "",
    "1 =3 2": "3",
    "1 =3 2 <": "1",
    "1 2 =3 <": "1",
}


def play(name: str, moves: str) -> None:
    """Makes the moves of a history in a new registered model with 4 versions."""
    client = mlflow.MlflowClient()
    empty_versions(name, 4)
    for move in moves.split():
        promotion.mend(name, "staging", ME)
        holder = versions.champion(name, "staging")
        if move.startswith("<"):
            assert holder
            target = versions.get_version(name, move[1:]) if move[1:] else version_before(holder, "staging")
            assert target
            assert promotion.roll_back(holder, target, "staging", "by anna", ME, blame=True)
        elif move.startswith("-"):
            client.delete_model_version(name, move[1:])
        elif move.startswith("="):
            client.set_registered_model_alias(name, "staging", move[1:])
        else:
            version = versions.get_version(name, move)
            assert version
            assert promotion.promote(version, "staging", holder, ME)
    promotion.mend(name, "staging", ME)


def found(name: str) -> str:
    """The number of the version that a rollback would return to; empty: none."""
    holder = versions.champion(name, "staging")
    assert holder
    try:
        return str(version_before(holder, "staging").version)
    except click.ClickException:
        return ""


@pytest.mark.parametrize(("moves", "expected"), HISTORIES.items())
def test_a_rollback_finds_the_last_holder_that_is_left(moves: str, expected: str, shared_store: str) -> None:
    name = f"history of {moves}".replace("<", "back").replace("=", "hand")
    play(name, moves)
    assert found(name) == expected


@pytest.mark.parametrize("tag", ["journal.staging", "journal.staging.000001"])
def test_a_changed_journal_is_not_followed(tag: str, shared_store: str) -> None:
    name = f"changed {tag}"
    play(name, "1 2 3")
    client = mlflow.MlflowClient()
    client.set_registered_model_tag(name, tag, "3 0123")
    assert found(name) == "2"
    client.delete_model_version(name, "2")
    assert found(name) == "", "the tags know no way past a deleted version"


def test_holders_from_before_the_journal_are_known_by_their_tags(shared_store: str) -> None:
    play("older", "1 2 3")
    client = mlflow.MlflowClient()
    for tag in client.get_registered_model("older").tags:
        client.delete_registered_model_tag("older", tag)
    assert found("older") == "2"
    promotion.mend("older", "staging", ME)
    assert found("older") == "2"
    entries = journal.read(client.get_registered_model("older").tags, "staging")
    assert journal.way_here(entries) == ["3"]


def test_a_holder_that_fails_when_it_is_judged_again_is_not_refused_where_it_holds(shared_store: str) -> None:
    name = "judged again"
    one, two, three = empty_versions(name, 3)
    quality = {"1": 0.7, "2": 0.8, "3": 0.6}
    assert deploy(one, Rows(quality)).promoted
    assert not deploy(one, Rows(quality | {"1": 0.5})).promoted, "it is no better than the baseline on these rows"
    holder = versions.champion(name, "staging")
    assert holder
    assert holder.version == one.version
    assert (holder.tags["gate.staging"], holder.tags["gate"]) == ("passed", "passed")
    assert "beats the baseline" in holder.tags["gate.reason.staging"]
    assert status(name, ["staging"], None, "1", "").refused == {}
    assert deploy(two, Rows(quality)).promoted
    assert found(name) == "1"
    assert not deploy(three, Rows(quality)).promoted
    assert list(status(name, ["staging"], None, "1", "").refused) == ["version 3 for staging"]
    assert not deploy(one, Rows(quality)).promoted, "version 2 is better"
    assert found(name) == "", "it no longer held staging when it was refused"
