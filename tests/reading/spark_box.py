"""One source loaded by both engines, and what both must have in common."""

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

Store = Callable[[Path], None]


@dataclass
class Result:
    """What a load came to: what was loaded and the lines that said what was not, or the message of its error."""

    loaded: Loaded | None
    error: str
    rejects: list[tuple[str, int, str, str, str]]
    manifest: dict[str, object]
    lines: str = ""


def _named(printed: StringIO) -> str:
    """The printed lines that name what was not read; those about progress come and go with the time that passes."""
    return "".join(line for line in printed.getvalue().splitlines(keepends=True) if line.startswith("load: "))


class SparkBox(Box):
    """A folder to load from, by either engine. Executors store next to what this machine writes."""

    @property
    def place(self) -> Path:
        """Where the executors store."""
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
        try:
            with redirect_stdout(StringIO()) as lines:
                loaded = self.load(source, ratio)
        except click.ClickException as error:
            return Result(None, error.format_message(), [], {})
        manifest = self.manifest()
        del manifest["crc32"]
        return Result(loaded, "", self.rejects(), manifest, _named(lines))

    def by_spark(self, source: Path | str | None = None, ratio: float = 1.0) -> Result:
        """As `by_duckdb`; checks that what the executors stored is what was loaded, file by file."""
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
