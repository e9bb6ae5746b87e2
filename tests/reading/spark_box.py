"""Loads a source by each engine, and returns results that must be equal."""

from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import click

from purchase_predict.checksums import checksum, crc32_below
from purchase_predict.database import connect, table_digest
from purchase_predict.reading import on_spark
from purchase_predict.reading.load import Loaded
from purchase_predict.reading.scan import parquet_below
from purchase_predict.reading.task_result import StoredFile
from purchase_predict.workflow.storing import ArtifactStore
from tests.reading.box import Box

#: Copies the files below a folder to the place where load keeps the rows.
Store = Callable[[Path], None]


@dataclass
class Result:
    """The result of a load. It must be the same for both engines.

    Attributes:
        loaded: what was loaded; None: the load failed.
        error: the error message; empty: the load did not fail.
        rejects: the refused rows (`rejects.csv`).
        manifest: `source.json` without the checksums of the written files, which differ between the engines.
        lines: the printed lines that name skipped files and ignored columns.
    """

    loaded: Loaded | None
    error: str
    rejects: list[tuple[str, int, str, str, str]]
    manifest: dict[str, object]
    lines: str = ""


def _named(printed: StringIO) -> str:
    """The printed lines that name skipped files and ignored columns.

    Lines about progress are left out: how many are printed depends on the time that a load takes.
    """
    return "".join(line for line in printed.getvalue().splitlines(keepends=True) if line.startswith("load: "))


class SparkBox(Box):
    """A folder to load from by either engine. The executors store the rows in a subfolder of the target (`place`)."""

    @property
    def place(self) -> Path:
        """The folder in which the executors store the rows."""
        return self.target / "artifacts"

    def load_on_spark(
        self, source: Path | str | None = None, ratio: float = 1.0, store: Store | None = None
    ) -> tuple[Loaded, dict[str, StoredFile]]:
        self.count += 1
        self.target, scratch = self.folder / f"target-{self.count}", self.folder / f"scratch-{self.count}"
        for folder in (self.target, self.place, scratch):
            folder.mkdir()
        store = store or ArtifactStore.of(str(self.place), "")
        return on_spark.load_source(str(source or self.source), self.target, scratch, ratio, store)

    def stored(self, table: str) -> str:
        """The digest of the rows that the executors stored."""
        with connect(self.folder) as connection:
            return table_digest(connection, parquet_below(self.place / table))

    def by_duckdb(self, source: Path | str | None = None, ratio: float = 1.0) -> Result:
        """Loads the source by DuckDB. If this fails, the result holds the error message."""
        try:
            with redirect_stdout(StringIO()) as lines:
                loaded = self.load(source, ratio)
        except click.ClickException as error:
            return Result(None, error.format_message(), [], {})
        manifest = self.manifest()
        del manifest["crc32"]
        return Result(loaded, "", self.rejects(), manifest, _named(lines))

    def by_spark(self, source: Path | str | None = None, ratio: float = 1.0) -> Result:
        """Loads the source by Spark. If this fails, the result holds the error message.

        Also checks what the executors stored: the checksum of each file, and the digest of all rows.
        """
        try:
            with redirect_stdout(StringIO()) as lines:
                loaded, files = self.load_on_spark(source, ratio)
        except click.ClickException as error:
            assert not (self.target / "source.json").exists()
            return Result(None, error.format_message(), [], {})
        there = {path.relative_to(self.place).as_posix(): path for path in self.place.rglob("*") if path.is_file()}
        assert {name: checksum(path) for name, path in there.items()} == {
            name: stored.checksum for name, stored in files.items()
        }
        manifest = self.manifest()
        assert manifest.pop("crc32") == crc32_below(self.place / loaded.table)
        assert self.stored(loaded.table) == loaded.digest
        return Result(loaded, "", self.rejects(), manifest, _named(lines))
