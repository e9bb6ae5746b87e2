"""The journal and `status` are right at any time, after any promotions, rollbacks, moves by hand and deletions."""

import itertools
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo

import click
import mlflow
import pytest
from hypothesis import settings

from purchase_predict.registry import journal, promotion, versions
from purchase_predict.registry.claim import sole_right
from purchase_predict.registry.journal import Author, Entry
from purchase_predict.registry.status import past
from steps.status import status
from tests.registered import empty_versions, invoke

#: The number of random moves.
MOVES = 1000 if settings().max_examples >= 100 else 40
ME = Author("anna", "0123", "because")


def tags(name: str) -> dict[str, str]:
    return dict(mlflow.MlflowClient().get_registered_model(name).tags)


def moves(name: str, count: int, chance: random.Random) -> Iterator[str]:
    """Makes random changes to production: promotions, rollbacks, moves of the alias by hand, and deletions of versions.

    The next promotion or rollback records a move by hand, or the deletion of the holder, in the journal. Such a change
    never leads back to the holder in the journal's last entry, because no journal could notice that.

    Yields:
        The version number of the holder after each change; empty: none.
    """
    client = mlflow.MlflowClient()
    made = empty_versions(name, 6)
    for _ in range(count):
        known, target, kind = (
            journal.newest(journal.read(tags(name), "production")),
            chance.choice(made),
            chance.random(),
        )
        recorded, now = known.version if known else "", versions.champion_number(name, "production")
        if kind < 0.2 and str(target.version) not in (recorded, now):
            client.set_registered_model_alias(name, "production", target.version)
        elif kind < 0.4 and len(made) > 3 and (recorded or str(target.version) != now):
            client.delete_model_version(name, target.version)
            made.remove(target)
            made.append(client.create_model_version(name, f"/nowhere/{name}/again"))
        else:
            promotion.mend(name, "production", ME)
            holder, read = versions.champion(name, "production"), versions.get_version(name, target.version)
            assert read
            if holder and kind < 0.7 and target.version != holder.version:
                assert promotion.roll_back(holder, target, "production", "by anna", ME, blame=chance.random() < 0.5)
            else:
                assert promotion.promote(read, "production", holder, ME)
        yield versions.champion_number(name, "production")


def test_status_is_right_for_every_moment_or_says_that_it_does_not_know(shared_store: str) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    timeline = [(datetime.now(UTC), holder) for holder in moves("moved", MOVES, random.Random(5))]
    model, present = versions.registered_model("moved"), versions.versions("moved")
    entries = journal.read(model.tags, "production")
    assert journal.problem(model.tags, "production") is None
    at_first = past(model, present, "production", before)
    assert (at_first.version, at_first.doubt) == ("", "")
    held = defaultdict[int, set[str]](set)  # by the number of the journal's last entry then (0: none)
    for at, holder in timeline:
        entry = journal.holder_at(entries, at)
        held[entry.number if entry else 0] |= {holder, entry.version if entry else ""}
    for at, holder in timeline:
        entry = journal.holder_at(entries, at)
        changed = len(held[entry.number if entry else 0]) > 1
        found = past(model, present, "production", at)
        assert bool(found.doubt) == changed, found
        assert found.version == ("" if changed else holder)
    assert {len(holders) > 1 for holders in held.values()} == {True, False}
    for one, next_ in itertools.pairwise(entries):
        assert next_.previous == one.version
        assert next_.at >= one.at


def test_status_says_what_the_journal_does_not_know(shared_store: str) -> None:
    client = mlflow.MlflowClient()
    made = empty_versions("doubtful", 3)
    client.set_registered_model_alias("doubtful", "production", "1")

    def answer() -> str:
        environment = past(versions.registered_model("doubtful"), versions.versions("doubtful"), "production", moment)
        line = next(environment.lines(past=True))
        return re.sub(r"20\S+ \S+ UTC", "<time>", line)

    moment = datetime.now(UTC)
    assert answer() == "production: not known; the journal has no entry, and version 1 holds production now"
    promotion.mend("doubtful", "production", ME)
    assert answer() == "production: not known; the journal begins at <time>, and version 1 held production then"
    moment = datetime.now(UTC)
    assert answer().startswith("production: version 1 since <time>, or earlier; first recorded by ")
    client.set_registered_model_alias("doubtful", "production", "2")
    start = "production: not known; version 1 held production from <time>; between then and "
    end = "; the journal does not say when"
    assert answer() == f"{start}now, the alias was moved by hand to version 2{end}"
    promotion.mend("doubtful", "production", ME)
    assert answer() == f"{start}<time>, the alias was moved by hand to version 2{end}"
    moment, start = datetime.now(UTC), start.replace("version 1", "version 2")
    client.delete_model_version("doubtful", "2")
    assert answer() == f"{start}now, version 2 was deleted{end}"
    assert "production: no version; version 2 held production from" in invoke(status, registry_name="doubtful").output
    promotion.mend("doubtful", "production", ME)
    assert answer() == f"{start}<time>, version 2 was deleted{end}"
    assert promotion.promote(made[2], "production", None, ME)
    moment, start = datetime.now(UTC), start.replace("version 2", "version 3")
    client.delete_registered_model_alias("doubtful", "production")
    assert answer() == f"{start}now, the alias was removed by hand{end}"
    client.set_registered_model_alias("doubtful", "production", "1")
    client.set_model_version_tag("doubtful", "1", f"{promotion.MOVING}.production", "{}")
    assert answer() == f"{start}now, a run moved the alias to version 1 and has not recorded it{end}"


def test_an_added_entry_is_noticed_unless_a_run_is_deciding(shared_store: str) -> None:
    first, second = empty_versions("added", 2)
    assert promotion.promote(first, "staging", None, ME)
    known = tags("added")
    (one,) = journal.read(known, "staging")
    forged = replace(one, number=2, version="2", previous="1", action="promoted", before=one.digest)
    key, client = "journal.staging.000002", mlflow.MlflowClient()
    client.set_registered_model_tag("added", key, forged.text)
    warning = "warning: the journal of staging was changed: the tag journal.staging counts only 1 of the 2 entries"
    assert warning in invoke(status, registry_name="added").output
    assert invoke(status, registry_name="added", at=one.at).exit_code == 1
    assert journal.problem({**tags("added"), "claim.staging.0123": "held"}, "staging") is None
    client.set_model_version_tag("added", "2", f"{promotion.MOVING}.staging", "{}")
    assert "warning: the journal" not in invoke(status, registry_name="added").output
    client.delete_model_version_tag("added", "2", f"{promotion.MOVING}.staging")
    promotion.mend("added", "staging", ME)
    assert warning in invoke(status, registry_name="added").output, "mending does not count it either"
    assert promotion.promote(second, "staging", first, ME)
    assert "warning: the journal" not in invoke(status, registry_name="added").output
    assert [(entry.number, entry.version) for entry in journal.read(tags("added"), "staging")] == [(1, "1"), (2, "2")]
    assert tags("added")[key] != forged.text


def test_times_that_fall_are_noticed(shared_store: str) -> None:
    (version,) = empty_versions("falling", 1)
    assert promotion.promote(version, "staging", None, ME)
    (one,) = journal.read(tags("falling"), "staging")
    two = replace(one, number=2, at="2020-01-01T00:00:00+00:00", before=one.digest)
    known = {**tags("falling"), "journal.staging.000002": two.text, "journal.staging": f"2 {two.digest}"}
    assert journal.problem(known, "staging") == (
        "the journal of staging was changed: entry 2 is earlier than the entry before it"
    )


@pytest.mark.parametrize(
    ("tag", "number"),
    [("previous", "2"), ("moved_by_hand", "1"), ("rolled_back", "2"), ("gate", "1"), ("gate", "2"), ("waits", "1")],
)
def test_a_journal_that_was_removed_is_noticed(tag: str, number: str, shared_store: str) -> None:
    name, client = f"removed {tag} {number}", mlflow.MlflowClient()
    empty_versions(name, 2)
    client.set_registered_model_alias(name, "staging", "1")
    client.set_model_version_tag(name, number, f"{tag}.staging", "passed")
    output = invoke(status, registry_name=name).output
    # These prove no promotion: a verdict "passed" of a version that is not the holder; and a holder that waits for
    # approval, which got the alias by hand.
    expected = (tag, number) not in (("gate", "2"), ("waits", "1"))
    assert (f"the journal of staging has no entry, although version {number} was promoted" in output) == expected
    assert "the journal of production" not in output


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


@pytest.mark.parametrize("tag", ["journal.staging.000002", "journal.staging"])
@pytest.mark.parametrize("removed", [True, False])
def test_a_later_move_does_not_hide_that_the_newest_entry_was_changed(
    tag: str, removed: bool, shared_store: str
) -> None:
    name = f"hidden {tag} {removed}"
    first, second = empty_versions(name, 2)
    assert promotion.promote(first, "staging", None, ME)
    assert promotion.promote(second, "staging", first, ME)
    client, known = mlflow.MlflowClient(), tags(name)[tag]
    if removed:
        client.delete_registered_model_tag(name, tag)
    else:
        client.set_registered_model_tag(name, tag, known.replace("anna", "bert").replace("2 ", "2 0"))
    assert journal.problem(tags(name), "staging")
    assert promotion.promote(first, "staging", versions.champion(name, "staging"), ME)
    assert journal.problem(tags(name), "staging")


def test_an_entry_whose_writer_was_killed_before_the_head_still_fits(
    shared_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = empty_versions("half", 2)
    assert promotion.promote(first, "staging", None, ME)
    head = tags("half")["journal.staging"]
    assert promotion.promote(second, "staging", first, ME)
    mlflow.MlflowClient().set_registered_model_tag("half", "journal.staging", head)
    assert journal.problem(tags("half"), "staging", moving=True) is None
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
    output = invoke(status, registry_name="said", env="staging").output
    assert "rolled back: version 2" not in output, "it was rolled back in production"
    lines = invoke(status, registry_name="said", env="production").output.splitlines()
    assert "rolled back: version 2, by carl" in lines
    assert lines[1].startswith("production: version 1 since 20")
    assert lines[1].endswith(" UTC, after a rollback by carl (run 89): sales")
    assert promotion.promote(second, "production", first, ME) is False  # `second` was read before its rollback
    again = versions.get_version("said", second.version)
    assert again
    assert promotion.promote(again, "production", first, ME)

    client.set_registered_model_alias("said", "production", first.version)
    assert "the alias was moved by hand to version 1" in invoke(status, registry_name="said").output
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
    assert (
        f"production: run {run.info.run_id} is deciding about this environment, or was killed while deciding" in lines
    )
    assert f"in progress: run {run.info.run_id}, deploy of ann" in lines
    client.set_terminated(run.info.run_id)
    assert run.info.run_id not in invoke(status, registry_name="busy").output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"registry_name": "nobody"}, "there is no registered model nobody"),
        ({"at": "2999-01-01"}, "at=2999-01-01T00:00:00+00:00 is in the future: give a past time, or leave out -P at"),
        ({"at": "yesterday"}, "at=yesterday: must be a date or time, such as 2026-05-03"),
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
        """Stands for the clock of another machine, which is 1 hour behind."""

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


#: An entry, and the tags of a journal with only this entry, as `append` writes them.
ONE = Entry(1, "2026-05-03T12:00:00+00:00", "promoted", "1", "", "anna", "0123", "because", "")
WHOLE = {"journal.staging.000001": ONE.text, "journal.staging": f"1 {ONE.digest}"}


@pytest.mark.parametrize("count", ["²", "-1", "01", "\N{FULLWIDTH DIGIT ONE}", "9" * 4500, "x", ""])
@pytest.mark.parametrize("entries", [WHOLE, {}])
def test_a_head_that_was_changed_is_noticed(count: str, entries: dict[str, str]) -> None:
    assert journal.problem(WHOLE, "staging") is None
    changed = journal.problem({**entries, "journal.staging": f"{count} {ONE.digest}"}, "staging")
    assert changed == "the journal of staging was changed: its last entry does not match the tag journal.staging"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 4900,
        *(json.dumps({**json.loads(ONE.text), **change}) for change in ({"number": "1"}, {"number": True})),
        *(json.dumps({**json.loads(ONE.text), **change}) for change in ({"version": 1}, {"by": ["anna"]})),
        json.dumps({**json.loads(ONE.text), "action": "moved"}),
    ],
)
def test_an_entry_with_json_that_no_deploy_wrote_is_noticed(text: str) -> None:
    known = {**WHOLE, "journal.staging.000001": text}
    for read in (journal.read, journal.recorded):
        with pytest.raises(click.ClickException, match=r"tag journal\.staging\.000001 cannot be read; restore it"):
            read(known, "staging")
    assert "cannot be read" in str(journal.problem(known, "staging"))
