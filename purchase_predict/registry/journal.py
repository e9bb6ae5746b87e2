"""The journal of an environment: every promotion and rollback, in order. A later change of the journal is detected.

The entries are tags of the registered model, `journal.<env>.<number>`, so they outlive the versions that they name.
Each entry holds the digest of the entry before it. The tag `journal.<env>`, the head, holds the number and the digest
of the last entry. So an entry that was changed, inserted or removed is detected, unless all digests after it were
rewritten, too.

A run must hold the claim on the environment (`claim.sole_right`) while it appends an entry.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

import click
import mlflow
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_USER

from purchase_predict.registry.claim import claimants, holds
from purchase_predict.workflow.collisions import through_collisions

_JOURNAL = "journal"
#: The most characters that a reason takes in an entry's JSON. There, a character beyond ASCII takes 6 or 12 characters.
#: The whole tag may have 5,000 characters.
_REASON_LENGTH = 3000

#: Values of `Entry.action`.
_ACTIONS = PROMOTED, ROLLED_BACK, FOUND = "promoted", "rolled back", "found"


@dataclass(frozen=True)
class Entry:
    """A change of the holder of an environment.

    Attributes:
        number: the entry's number; the first is 1, and no number is left out.
        at: the time of the entry (UTC, ISO 8601).
        action: "promoted"; "rolled back"; or "found", if the alias had already been moved without an entry.
        version: the version number of the new holder; empty: none.
        previous: the version number of the holder before; empty: none.
        by: the user who moved the alias or, if the action is "found", who recorded the move.
        run_id: id of the run of deploy, approve or rollback.
        reason: the reason that the user gave, the gate's reason, or both.
        before: the digest of the entry before; empty for the first entry.
    """

    number: int
    at: str
    action: str
    version: str
    previous: str
    by: str
    run_id: str
    reason: str
    before: str

    @property
    def moment(self) -> datetime:
        """`at` as a datetime with a time zone."""
        return datetime.fromisoformat(self.at)

    @property
    def text(self) -> str:
        """The value of the entry's tag."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Author:
    """Who changes the holder, by which run, and why."""

    by: str
    run_id: str
    reason: str = ""

    @classmethod
    def of(cls, run: Run, reason: str = "") -> "Author":
        """The author: the user of a run."""
        return cls(run.data.tags.get(MLFLOW_USER, "unknown"), run.info.run_id, reason)


def append(name: str, env: str, action: str, version: str, previous: str, author: Author, claim: str = "") -> bool:
    """Adds an entry about a move of the alias, unless the last entry records this move. Call it after the move.

    Args:
        name: the registered model.
        env: staging or production.
        action: `PROMOTED`, `ROLLED_BACK` or `FOUND`.
        version: the number of the new holder; empty: none.
        previous: the number of the holder before the move; empty: none. If the journal's last holder is another
            version, an entry "found" for `previous` is added first. With the action `FOUND`, no other entry is added.
        author: who moved the alias or, with the action `FOUND`, who records the move.
        claim: the caller's claim, from `claim.sole_right`; empty: nobody else appends.

    Returns:
        False if the claim was lost; then nothing was added. The run that now holds the claim records the move before it
        makes another one.

    Raises:
        click.ClickException: an entry cannot be read.
    """
    tags = mlflow.MlflowClient().get_registered_model(name).tags
    if not holds(tags, claim):
        return False
    last = newest(recorded(tags, env))
    if last and (last.action, last.version, last.previous, last.run_id) == (action, version, previous, author.run_id):
        return True
    # The digest `before` comes from the head and is not computed from the last entry. So if the last entry was changed,
    # the digest does not match it, and the change stays detectable.
    before = tags.get(_head(env), "").partition(" ")[2]
    if previous != (last.version if last else ""):
        last = _write(name, env, last, before, FOUND, previous, Author(author.by, author.run_id))
        before = last.digest
    if action != FOUND:
        _write(name, env, last, before, action, version, author)
    return True


def settle(name: str, env: str, holder: str, author: Author, claim: str = "") -> None:
    """Adds an entry "found" if the journal's last holder is not `holder`: the alias was moved by hand, or the process
    that moved it was killed before it wrote an entry.
    """
    append(name, env, FOUND, holder, holder, author, claim)


def _write(name: str, env: str, last: Entry | None, before: str, action: str, version: str, author: Author) -> Entry:
    now = datetime.now(UTC)
    entry = Entry(
        number=last.number + 1 if last else 1,
        # The clock of the machine that wrote the last entry may be ahead of this clock. Times must not go back.
        at=(max(now, last.moment) if last else now).isoformat(timespec="microseconds"),
        action=action,
        version=version,
        previous=last.version if last else "",
        by=author.by,
        run_id=author.run_id,
        reason=_shortened(author.reason),
        before=before,
    )
    _write_tag(name, _key(env, entry.number), entry.text)
    _write_head(name, env, entry)
    return entry


def _shortened(reason: str) -> str:
    """The start of a reason, so that an entry fits into a tag."""
    length = 0
    for position, character in enumerate(reason):
        length += len(json.dumps(character)) - 2
        if length > _REASON_LENGTH:
            return reason[:position]
    return reason


def _write_head(name: str, env: str, last: Entry) -> None:
    _write_tag(name, _head(env), f"{last.number} {last.digest}")


def _write_tag(name: str, key: str, value: str) -> None:
    client = mlflow.MlflowClient()
    through_collisions(lambda: client.set_registered_model_tag(name, key, value))


def read(tags: Mapping[str, str], env: str) -> list[Entry]:
    """The entries in the tags of a registered model, in the order of their numbers. Their digests are not checked.

    Raises:
        click.ClickException: an entry cannot be read.
    """
    entries = []
    for key in sorted(tags):
        if key.startswith(f"{_JOURNAL}.{env}."):
            try:
                entries.append(entry := Entry(**json.loads(tags[key])))
                if not well_typed(entry) or entry.action not in _ACTIONS or entry.moment.tzinfo is None:
                    raise ValueError(entry)
            except (ValueError, TypeError, RecursionError):
                raise click.ClickException(
                    f"the journal of {env} was changed: the registered model's tag {key} cannot be read; restore it"
                ) from None
    return entries


def well_typed(record: Any) -> bool:
    """Whether each field of a dataclass has a value of its type. JSON that was changed by hand may hold any value."""
    return all(type(getattr(record, one.name)) is one.type for one in fields(record))


def recorded(tags: Mapping[str, str], env: str) -> list[Entry]:
    """The entries; the last one is left out if the head (the tag `journal.<env>`) does not count it.

    In this case, the process that wrote the last entry was killed before it updated the head,
    or somebody forged the entry. The next entry overwrites it.

    Raises:
        click.ClickException: an entry cannot be read.
    """
    entries = read(tags, env)
    return entries[:-1] if tags.get(_head(env), "0 ").startswith(f"{len(entries) - 1} ") else entries


def newest(entries: Sequence[Entry]) -> Entry | None:
    """The last entry, or None."""
    return entries[-1] if entries else None


def way_here(entries: Sequence[Entry]) -> list[str]:
    """The version numbers of the holders, the oldest first, without holders that a rollback undid.

    A rollback undoes every holder after the version that it returned to. If that version was not a holder before, only
    the last holder is undone. Example: versions 1, 2 and 3 and then a rollback to 2 give 1 and 2. An empty number means
    that there was no holder.
    """
    holders: list[str] = []
    for entry in entries:
        if entry.action == ROLLED_BACK:
            kept = holders[: -1 - holders[::-1].index(entry.version)] if entry.version in holders else holders[:-1]
            holders = [*kept, entry.version]
        elif holders[-1:] != [entry.version]:
            holders.append(entry.version)
    return holders


def holder_at(entries: Sequence[Entry], at: datetime) -> Entry | None:
    """The last entry at or before the time `at`, which has a time zone; None if there was no entry yet."""
    return newest([entry for entry in entries if entry.moment <= at])


def problem(tags: Mapping[str, str], env: str, *, moving: bool = False) -> str | None:
    """The evidence that the journal was changed, in a sentence; None if its entries are consistent.

    Args:
        tags: the registered model's tags.
        env: staging or production.
        moving: whether a move of the environment was begun and is not completed. If so, a head that does not count
            the last entry yet is no evidence of a change.
    """
    try:
        entries = read(tags, env)
    except click.ClickException as error:
        return error.message
    before = ""
    for number, entry in enumerate(entries, start=1):
        if entry.number != number:
            return f"the journal of {env} was changed: entry {number} is missing"
        if entry.before != before or tags.get(_key(env, number)) != entry.text:
            return f"the journal of {env} was changed: entry {number} does not match the entry before it"
        if number > 1 and entry.moment < entries[number - 2].moment:
            return f"the journal of {env} was changed: entry {number} is earlier than the entry before it"
        before = entry.digest
    known, _, digest = tags.get(_head(env), "0 ").partition(" ")
    # A process that is killed before it updates the head leaves an entry that the head does not count. Such a process
    # also leaves its claim. So such an entry is evidence of a change only if there is neither a claim nor an unfinished
    # move.
    deciding = moving or bool(claimants(tags, env))
    if len(recorded(tags, env)) < len(entries) and not deciding:
        some = f"{len(entries) - 1} of the {len(entries)} entries"
        return f"the journal of {env} was changed: the tag {_head(env)} counts only {some}"
    counted = {str(count): count for count in (len(entries) - 1, len(entries)) if count >= 0}.get(known)
    if counted is None or (counted and entries[counted - 1].digest != digest):
        return f"the journal of {env} was changed: its last entry does not match the tag {_head(env)}"
    return None


def verified(tags: Mapping[str, str], env: str, *, moving: bool) -> list[Entry]:
    """The entries, if they are consistent. The arguments are those of `problem`.

    Raises:
        click.ClickException: the journal was changed.
    """
    if wrong := problem(tags, env, moving=moving):
        raise click.ClickException(wrong)
    return read(tags, env)


def _key(env: str, number: int) -> str:
    return f"{_JOURNAL}.{env}.{number:06d}"


def _head(env: str) -> str:
    return f"{_JOURNAL}.{env}"
