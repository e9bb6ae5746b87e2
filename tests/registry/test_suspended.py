"""A deploy or rollback is suspended for so long that another deploy takes it for dead and decides meanwhile.

It is suspended before one of its calls of MLflow (`SLEEPY`), each call in turn.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
import pytest
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.registry import claim, journal, promotion, stages, versions
from purchase_predict.registry.journal import Author
from purchase_predict.workflow import lease
from steps import rollback as rollback_step
from tests.registered import empty_versions, invoke
from tests.registry.decisions import ALIAS, Rows, check, deploy

QUALITY = {"1": 0.6, "2": 0.65, "3": 0.7}
ME = Author("anna", "0123")
#: The calls before which a process is suspended. Of several calls of the same method in a row, only the first counts.
#: Calls that move the alias or write to the journal are not among them: MLflow has no conditional write, so nothing can
#: protect a process that is suspended between its last check and such a call.
SLEEPY = ("get_registered_model", "get_model_version", "search_model_versions", "set_model_version_tag")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(lease, "_LEASE_SECONDS", 3600)


@contextmanager
def suspended_before(number: int, meanwhile: Callable[[], None]) -> Iterator[list[str]]:
    """Calls `meanwhile` once, before the call with this number; the first is 1.

    If that call moves the alias, `meanwhile` is called before the next call instead. Yields the names of the calls.
    """
    made: list[str] = []
    mine = threading.current_thread()  # the heartbeat's thread calls MLflow, too
    waiting, inside = [meanwhile], False  # some methods of the client call others, which are not counted

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal inside
            if inside or threading.current_thread() is not mine:
                return original(*given, **named)
            inside = True
            try:
                if made[-1:] != [original.__name__]:
                    made.append(original.__name__)
                    if len(made) >= number and original.__name__ != ALIAS and waiting:
                        waiting.pop()()
                return original(*given, **named)
            finally:
                inside = False

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in [*SLEEPY, ALIAS]:
            patch.setattr(mlflow.MlflowClient, name, wrapped(getattr(mlflow.MlflowClient, name)))
        yield made


def close_claimants(name: str) -> None:
    """Closes the runs that have a claim on staging, as any run of the workflow closes runs that it takes for dead."""
    for tag in mlflow.MlflowClient().get_registered_model(name).tags:
        if tag.startswith("claim.staging."):
            mlflow.MlflowClient().set_terminated(tag.removeprefix("claim.staging."), "KILLED")


def test_a_deploy_that_was_taken_for_dead_is_judged_again(shared_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in itertools.count(1):
        name, moves = f"deploy-{number}", list[tuple[str, str, bool]]()

        def recorded(version: ModelVersion, env: str, moves: list[tuple[str, str, bool]] = moves) -> None:
            moves.append((moves[-1][1] if moves else "", str(version.version), False))
            stages.move_alias(version, env)

        first, second, third = empty_versions(name, 3)
        monkeypatch.setattr(promotion, "move_alias", recorded)
        assert promotion.promote(first, "staging", None, ME)

        def meanwhile(name: str = name, third: ModelVersion = third) -> None:
            close_claimants(name)
            assert deploy(third, Rows(QUALITY)).promoted

        with suspended_before(number, meanwhile) as made:
            judgement = deploy(second, Rows(QUALITY))
        if len(made) < number:  # the deploy has been suspended before each of its calls
            break
        assert versions.champion_number(name, "staging") == "3"
        assert judgement.promoted == (("1", "2", False) in moves)
        promotion.mend(name, "staging", ME)
        check(name, moves, QUALITY)
        assert not [tag for version in versions.versions(name) for tag in version.tags if tag.startswith("moving.")]
    assert ALIAS in made


def test_a_deploy_decides_while_its_run_is_open(shared_store: str) -> None:
    """A deploy that judges again must open its run again if it was closed: others remove the claim of a closed run."""
    name, statuses = "open", list[str]()
    first, second, third = empty_versions(name, 3)
    deploy(first, Rows(QUALITY))

    def pause() -> None:
        claims = [tag for tag in mlflow.MlflowClient().get_registered_model(name).tags if tag.startswith("claim.")]
        (run_id,) = (tag.rpartition(".")[2] for tag in claims)
        statuses.append(mlflow.get_run(run_id).info.status)
        if len(statuses) == 2:  # the first pause is in `scores`, the second in `compare`
            close_claimants(name)
            deploy(third, Rows(QUALITY))

    assert not deploy(second, Rows(QUALITY, pause)).promoted
    assert statuses
    assert set(statuses) == {"RUNNING"}


def test_a_rollback_that_was_taken_for_dead_ends_in_one_line(
    shared_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback_step.packaging, "load", lambda *_: None)
    outcomes = set[int]()
    for number in itertools.count(1):
        name, moves = f"rollback-{number}", list[str]()
        first, second, third = empty_versions(name, 3)
        assert promotion.promote(first, "staging", None, ME)
        assert promotion.promote(second, "staging", first, ME)

        def meanwhile(name: str = name, third: ModelVersion = third, moves: list[str] = moves) -> None:
            close_claimants(name)
            moves.append(versions.champion_number(name, "staging"))
            assert deploy(third, Rows(QUALITY)).promoted

        with suspended_before(number, meanwhile):
            result = invoke(rollback_step.rollback, registry_name=name, env="staging", version="1")
        if not moves:  # the rollback has been suspended before each of its calls
            break
        promotion.mend(name, "staging", ME)
        tags = mlflow.MlflowClient().get_registered_model(name).tags
        assert journal.problem(tags, "staging") is None
        held = [entry.version for entry in journal.read(tags, "staging")]
        outcomes.add(result.exit_code)
        if result.exit_code:
            assert len(result.stderr.splitlines()) == 1
            assert "another run or person has meanwhile moved staging of" in result.stderr
            assert held == ["1", "2", "3"]
        else:  # suspended after it had moved the alias, or before it had a claim
            assert held in (["1", "2", "1", "3"], ["1", "2", "3", "1"])
        assert versions.champion_number(name, "staging") == held[-1]
        assert not [tag for version in versions.versions(name) for tag in version.tags if tag.startswith("moving.")]
    assert outcomes == {0, 1}
