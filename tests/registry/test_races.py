"""Deploys and rollbacks that run at the same time take turns: the outcome is as if they had run one after another."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import mlflow
import pytest
from hypothesis import settings
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.registry import claim, promotion, stages, versions
from purchase_predict.workflow import lease
from tests.registered import empty_versions
from tests.registry.decisions import Rows, check, deploy, open_run, roll_back

#: The number of random races.
ROUNDS = 200 if settings().max_examples >= 100 else 6


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(lease, "_LEASE_SECONDS", 3600)


@dataclass
class Moves:
    """The moves of the alias, each as: the holder before (empty: none), the new holder, whether it was a rollback."""

    made: list[tuple[str, str, bool]] = field(default_factory=list)

    def recorded(self, version: ModelVersion, env: str) -> None:
        before = versions.champion(version.name, env)
        back = "rollback" in threading.current_thread().name
        self.made.append((str(before.version) if before else "", str(version.version), back))
        stages.move_alias(version, env)


def test_the_alias_is_never_at_a_loser_and_previous_always_leads_back(
    shared_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for round_ in range(ROUNDS):
        chance, name, moves = random.Random(round_), f"race-{round_}", Moves()
        made = empty_versions(name, 4)
        quality = dict(zip("1234", chance.sample([0.6, 0.65, 0.7, 0.75], 4), strict=True))
        rows = Rows(quality, lambda chance=chance: time.sleep(chance.random() / 50))
        monkeypatch.setattr(promotion, "move_alias", moves.recorded)
        errors: list[BaseException] = []

        def guarded(call: Callable[[], object], seconds: float, errors: list[BaseException] = errors) -> None:
            try:
                time.sleep(seconds)
                call()
            except BaseException as error:
                errors.append(error)

        if round_ % 3:  # in the other rounds, the race starts without a holder
            deploy(made[3], rows)
        calls: list[tuple[str, Callable[[], object]]] = [("rollback", lambda name=name: roll_back(name))]
        calls += [("deploy", lambda version=version, rows=rows: deploy(version, rows)) for version in made[:3]]
        threads = [
            threading.Thread(target=guarded, args=[call, chance.random() / 10], name=what) for what, call in calls
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        check(name, moves.made, quality)


def test_who_claims_nothing_may_still_move_the_alias_and_the_challenger_is_judged_again(shared_store: str) -> None:
    name = "by-hand"
    first, second, third = empty_versions(name, 3)
    rows = Rows({"1": 0.6, "2": 0.65, "3": 0.7})
    deploy(first, rows)
    moved = iter([True])

    def by_hand() -> None:
        if next(moved, False):
            mlflow.MlflowClient().set_registered_model_alias(name, "staging", third.version)

    judgement = deploy(second, Rows(rows.quality, by_hand))
    assert not judgement.promoted
    assert "of the champion, version 3" in judgement.decision.reason
    holder = versions.champion(name, "staging")
    assert holder
    assert str(holder.version) == "3"


def test_the_claim_of_a_run_that_has_ended_or_is_gone_keeps_nobody_waiting(shared_store: str) -> None:
    name = "stale-claims"
    (version,) = empty_versions(name, 1)
    client, ended = mlflow.MlflowClient(), open_run()
    client.set_terminated(ended.info.run_id, "KILLED")
    for run_id in (ended.info.run_id, "f" * 32):
        client.set_registered_model_tag(name, f"claim.staging.{run_id}", "held")
    assert deploy(version, Rows({"1": 0.6})).promoted
    assert not [tag for tag in client.get_registered_model(name).tags if not tag.startswith("journal.")]
