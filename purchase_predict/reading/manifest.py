"""`source.json`, the manifest of load: the files that were read, the rows refused and the files left out.

This module also checks that no row is lost.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from purchase_predict.reading import rejects
from purchase_predict.sources.listing import Listing


@dataclass(frozen=True)
class Account:
    """The result of reading a source with either engine, DuckDB or Spark.

    Attributes:
        source: as the user named it.
        table: the table that the source's files hold.
        listed: the source's parts, and the files that were left out.
        rows: the number of rows read; refused rows are not counted.
        records: the number of records in each part, read or refused, by the part's number.
        refused: the number of refused rows in each part that has any, by the part's number.
        session_type: the type of `user_session` in the Parquet files, UUID or VARCHAR.
    """

    source: str
    table: str
    listed: Listing
    rows: int
    records: Mapping[int, int]
    refused: Mapping[int, int]
    session_type: str

    @property
    def rejected(self) -> int:
        """The number of refused rows."""
        return sum(self.refused.values())

    def check(self, max_reject_ratio: float, frequent: Callable[[], Sequence[rejects.Frequent]]) -> None:
        """Checks that no row is lost, and not too many are refused.

        Args:
            max_reject_ratio: the share of refused rows, 0 to 1, above which nothing is loaded.
            frequent: returns the most frequent reasons for refused rows; called only if the message needs them.

        Raises:
            click.ClickException: rows would be lost, or too many are malformed.
        """
        total = sum(self.records.values())
        if self.rows + self.rejected != total:
            raise click.ClickException(
                f"source {self.source}: the files have {total} rows, but {self.rows} were read and {self.rejected} "
                "were refused; nothing was loaded, because rows would be lost"
            )
        if self.rejected > max_reject_ratio * total:
            parts = self.listed.parts
            raise click.ClickException(rejects.too_many(frequent(), parts, self.rejected, total, max_reject_ratio))

    def without_rows(self, frequent: Callable[[], Sequence[rejects.Frequent]]) -> click.ClickException:
        """The error for a source from which no row was read: it has no rows, or all its rows were refused.

        Args:
            frequent: returns the most frequent reasons for refused rows; called only if the message needs them.
        """
        if self.rejected:
            examples = rejects.with_examples(frequent(), self.listed.parts)
            return click.ClickException(
                f"source {self.source}: all {self.rejected} rows are malformed, so nothing is loaded: {examples}"
            )
        return click.ClickException(f"source {self.source}: no rows in its {len(self.listed.parts)} file(s)")


def write(
    account: Account, digest: str, reasons: Sequence[Mapping[str, Any]], crc32: Mapping[str, int], target: Path
) -> None:
    """Writes `target/source.json`.

    It holds the source, the table's digest, the type of `user_session`, the rows of each part, the reasons for refused
    rows, the files that were left out, links to files that are read by another name, and the CRC-32 of each file that
    was written.

    Args:
        account: the result of reading.
        digest: the digest of the rows read.
        reasons: why rows were refused, as `rejects.reasons` returns it.
        crc32: the CRC-32 of each file of the table, by its path in the table's folder.
        target: the folder to write to.
    """
    refused = account.refused
    manifest = {
        "source": account.source,
        "table": account.table,
        "rows": account.rows,
        "rejected": account.rejected,
        "rows_there": sum(account.records.values()),
        "digest": digest,
        # Spark has no type UUID, so the step that reads with Spark must know how `user_session` is stored.
        "session_type": account.session_type,
        "parts": [
            part.described()
            | {
                "rows": account.records.get(number, 0) - refused.get(number, 0),
                "rejected": refused.get(number, 0),
            }
            for number, part in enumerate(account.listed.parts)
        ],
        "refused": reasons,
        "left_out": list(account.listed.left_out),
        "linked": {link.name: link.read_as for link in account.listed.linked},
        "crc32": crc32,
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (target / "source.json").write_text(text, encoding="utf-8", errors="replace")
