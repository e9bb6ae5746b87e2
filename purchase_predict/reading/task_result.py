"""The result of a task that reads parts of a source on an executor. The result is sent to the driver as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from purchase_predict.database import Sums


@dataclass(frozen=True)
class StoredFile:
    """A file that an executor stored: its size in bytes, and its checksums (see `checksums`)."""

    size: int
    checksum: str
    crc32: int


@dataclass(frozen=True)
class TaskResult:
    """What a task read, refused and stored.

    Attributes:
        numbers: the numbers of the task's parts, in order.
        error: why the parts could not be read; empty if they were read.
        table: the name of the table whose rows the parts hold; empty if all parts are empty or there is an error.
        named: the name of the first part that is not empty, for messages.
        ignored: columns that were not read.
        records: the number of records, read or refused, in each part that is not empty; the key is the part's number.
        rows: the number of rows read; refused rows are not counted.
        refused: the number of refused rows in each part that has any, by the part's number.
        session_type: the type of `user_session` in the stored files, UUID or VARCHAR; means nothing if `rows` is 0.
        sums: the checksums of the task's rows. The sums of all tasks are added up, and the table's digest is computed
            from the total. None if no row was read.
        files: the stored files, by path, such as `events/bucket=0/part-000000-0.parquet`.
    """

    numbers: Sequence[int]
    error: str = ""
    table: str = ""
    named: str = ""
    ignored: Sequence[str] = ()
    records: Mapping[int, int] = field(default_factory=dict)
    rows: int = 0
    refused: Mapping[int, int] = field(default_factory=dict)
    session_type: str = ""
    sums: Sums | None = None
    files: Mapping[str, StoredFile] = field(default_factory=dict)

    def written(self) -> str:
        """This result as JSON; `read` converts it back."""
        return json.dumps(asdict(self))

    @staticmethod
    def read(text: str) -> "TaskResult":
        """The result from the JSON that `written` returned."""
        found = json.loads(text)
        for name in ("records", "refused"):
            found[name] = {int(number): count for number, count in found[name].items()}
        if found["sums"]:
            found["sums"] = Sums(**found["sums"] | {"columns": tuple(found["sums"]["columns"])})
        found["files"] = {name: StoredFile(**stored) for name, stored in found["files"].items()}
        return TaskResult(**found)
