"""The journal and `status`: right for every moment, whatever was promoted, rolled back, moved by hand or deleted."""

import itertools
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

import click
import mlflow
import pytest
from hypothesis import settings

from purchase_predict.registry import journal, promotion, versions
from purchase_predict.registry.claim import sole_right
from purchase_predict.registry.journal import Author
from purchase_predict.registry.status import status as status_of
from steps.status import status
from tests.registered import empty_versions, invoke

MOVES = 1000 if settings().max_examples >= 100 else 40
ME = Author("anna", "0123", "because")


def tags(name: str) -> dict[str, str]:
    return dict(mlflow.MlflowClient().get_registered_model(name).tags)


def moves(name: str, count: int, chance: random.Random) -> Iterator[str]:
    """Moves production at random, now and then by hand; yields the holder after each move."""
    client = mlflow.MlflowClient()
    made = empty_versions(name, 6)
    for _ in range(count):
        promotion.mend(name, "production", ME)
        holder, target = versions.champion(name, "production"), chance.choice(made)
        kind = chance.random()
        if holder and kind < 0.3 and target.version != holder.version:
            assert promotion.roll_back(holder, target, "production", "by anna", ME, blame=chance.random() < 0.5)
        elif kind < 0.4 and len(made) > 3 and (holder is None or target.version != holder.version):
            client.delete_model_version(name, target.version)
            made.remove(target)
            made.append(client.create_model_version(name, f"/nowhere/{name}/again"))
            continue
        elif kind < 0.5:
            client.set_registered_model_alias(name, "production", target.version)
            promotion.mend(name, "production", ME)
        else:
            now = versions.get_version(name, target.version)
            assert now
            assert promotion.promote(now, "production", holder, ME)
        now_held = versions.champion(name, "production")
        assert now_held
        yield str(now_held.version)


def test_status_is_right_for_every_moment_between_moves(shared_store: str) -> None:
    chance = random.Random(5)
    before = datetime.now(UTC) - timedelta(seconds=1)
    timeline = []
    for holder in moves("moved", MOVES, chance):
        timeline.append((datetime.now(UTC), holder))
    known = tags("moved")
    assert journal.problem(known, "production") is None
    entries = journal.read(known, "production")
    assert journal.holder_at(entries, before) is None
    for at, holder in timeline:
        entry = journal.holder_at(entries, at)
        assert entry
        assert entry.version == holder
    at, holder = timeline[len(timeline) // 2]
    past = status_of("moved", ["production", "staging"], at, "1", "")
    assert [environment.version for environment in past.environments] == [holder, ""]
    for one, next_ in itertools.pairwise(entries):
        assert next_.previous == one.version
        assert next_.at >= one.at


def test_a_changed_record_is_noticed(shared_store: str) -> None:
    list(moves("changed", 20, random.Random(2)))
    known = tags("changed")
    entries = [key for key in known if key.startswith("journal.production.")]
    assert len(entries) > 8
    for key in entries:
        entry = json.loads(known[key])
        for name, value in entry.items():
            other = {**entry, name: value + 1 if isinstance(value, int) else f"{value}x"}
            assert journal.problem({**known, key: json.dumps(other, sort_keys=True)}, "production")
        assert journal.problem({k: v for k, v in known.items() if k != key}, "production")
        assert journal.problem({**known, key: "{}"}, "production")
    one, other_ = entries[2], entries[3]
    assert journal.problem({**known, one: known[other_], other_: known[one]}, "production")
    assert journal.problem({k: v for k, v in known.items() if k != "journal.production"}, "production")
    assert journal.problem(known, "staging") is None

    last = sorted(entries)[-1]
    mlflow.MlflowClient().delete_registered_model_tag("changed", last)
    result = invoke(status, registry_name="changed")
    assert "warning: the journal of production was changed" in result.output
    refused = invoke(status, registry_name="changed", at="2026-01-01")
    assert refused.exit_code == 1
    assert "the journal of production was changed" in refused.stderr


def test_an_entry_whose_writer_was_killed_before_the_head_still_fits(
    shared_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = empty_versions("half", 2)
    assert promotion.promote(first, "staging", None, ME)
    head = tags("half")["journal.staging"]
    assert promotion.promote(second, "staging", first, ME)
    mlflow.MlflowClient().set_registered_model_tag("half", "journal.staging", head)
    assert journal.problem(tags("half"), "staging") is None
    promotion.mend("half", "staging", ME)
    assert promotion.promote(first, "staging", versions.champion("half", "staging"), ME)
    assert journal.problem(tags("half"), "staging") is None
    assert [entry.number for entry in journal.read(tags("half"), "staging")] == [1, 2, 3]


def test_an_entry_that_cannot_be_read_stops_a_move_before_anything_moves(shared_store: str) -> None:
    first, _ = empty_versions("broken", 2)
    assert promotion.promote(first, "staging", None, ME)
    mlflow.MlflowClient().set_registered_model_tag("broken", "journal.staging.000001", "{}")
    with pytest.raises(click.ClickException, match=r"tag journal\.staging\.000001 cannot be read; restore it"):
        promotion.mend("broken", "staging", ME)
    holder = versions.champion("broken", "staging")
    assert holder
    assert holder.version == first.version


def test_status_says_who_holds_what_and_what_was_refused(shared_store: str) -> None:
    client = mlflow.MlflowClient()
    first, second, third = empty_versions("said", 3)
    assert promotion.promote(first, "production", None, ME)
    assert promotion.promote(second, "production", first, Author("bert", "4567", "better"))
    client.set_model_version_tag("said", third.version, "gate.production", "failed")
    client.set_model_version_tag("said", third.version, "gate.reason.production", "no better")
    client.set_registered_model_alias("said", "staging", third.version)
    lines = invoke(status, registry_name="said").output.splitlines()
    assert lines[0] == "said now"
    assert lines[1] == "staging: version 3, since before the journal began"
    assert lines[2].startswith("production: version 2 since 20")
    assert lines[2].endswith("promoted by bert (run 4567): better")
    assert "production, before that: version 1" in lines
    assert "refused: version 3 for production, no better" in lines

    left = versions.champion("said", "production")
    assert left
    assert promotion.roll_back(left, first, "production", "by carl", Author("carl", "89", "sales"), blame=True)
    lines = invoke(status, registry_name="said", env="production").output.splitlines()
    assert lines[1].startswith("production: version 1 since 20")
    assert lines[1].endswith(" UTC, by a rollback of carl (run 89): sales")
    assert promotion.promote(second, "production", first, ME) is False  # it was read before the rollback
    again = versions.get_version("said", second.version)
    assert again
    assert promotion.promote(again, "production", first, ME)

    client.set_registered_model_alias("said", "production", first.version)
    assert "production: version 1, moved by hand since 20" in invoke(status, registry_name="said").output
    made = json.loads(invoke(status, registry_name="said", env="production", format="json").output)
    assert (made["name"], made["environments"][0]["version"]) == ("said", "1")


@pytest.mark.parametrize("character", ["a", '"', "é", "\N{GRINNING FACE}"])
def test_an_entry_fits_into_a_tag_however_long_its_reason_is(shared_store: str, character: str) -> None:
    name = f"long-{ord(character)}"
    (version,) = empty_versions(name, 1)
    assert promotion.promote(version, "production", None, Author("ann", "0123", character * 9000))
    (entry,) = journal.read(tags(name), "production")
    assert len(entry.text) < 5000
    assert set(entry.reason) == {character}
    assert len(entry.reason) >= 250
    assert journal.problem(tags(name), "production") is None


def test_status_names_the_runs_at_work_and_who_decides(shared_store: str) -> None:
    client = mlflow.MlflowClient()
    empty_versions("busy", 1)
    at_work = {"mlflow.project.entryPoint": "deploy", "mlflow.user": "ann"}
    run = client.create_run(mlflow.get_experiment_by_name("tests").experiment_id, tags=at_work)
    with sole_right("busy", "production", run):
        lines = invoke(status, registry_name="busy").output.splitlines()
    assert f"production: run {run.info.run_id} is deciding, or was killed while deciding" in lines
    assert f"in progress: run {run.info.run_id}, deploy of ann" in lines
    client.set_terminated(run.info.run_id)
    assert run.info.run_id not in invoke(status, registry_name="busy").output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"registry_name": "nobody"}, "there is no registered model nobody"),
        ({"at": "yesterday"}, "at=yesterday: must be a moment, such as 2026-05-03"),
        ({"format": "xml"}, "format=xml"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(shared_store: str, given: dict[str, str], message: str) -> None:
    result = invoke(status, **given)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_times_never_go_back_though_a_clock_is_behind(shared_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Behind(datetime):
        """Stands for the clock of another machine."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Behind":
            return cls.fromtimestamp(datetime.now(tz).timestamp() - 3600, tz)

    first, second = empty_versions("clocks", 2)
    assert promotion.promote(first, "staging", None, ME)
    monkeypatch.setattr(journal, "datetime", Behind)
    assert promotion.promote(second, "staging", first, ME)
    one, two = journal.read(tags("clocks"), "staging")
    assert one.at == two.at
    entry = journal.holder_at([one, two], datetime.now(UTC))
    assert entry
    assert entry.version == "2"


@pytest.mark.parametrize("at", ["yesterday", "", 5, "2026-05-03T12:00"])
def test_a_time_that_cannot_be_read_is_noticed(at: object, shared_store: str) -> None:
    name = f"time {at}".replace(":", "")
    (version,) = empty_versions(name, 1)
    assert promotion.promote(version, "staging", None, ME)
    known = tags(name)
    entry = {**json.loads(known["journal.staging.000001"]), "at": at}
    wrong = journal.problem({**known, "journal.staging.000001": json.dumps(entry, sort_keys=True)}, "staging")
    assert wrong
    assert "tag journal.staging.000001 cannot be read" in wrong
