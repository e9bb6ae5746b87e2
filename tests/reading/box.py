"""Events as CSV, and a folder to load them from."""

import csv
import json
from pathlib import Path

import duckdb

from purchase_predict.database import quoted
from purchase_predict.reading.load import Loaded, load_source
from purchase_predict.schema import TABLES

#: The column names of the events table.
EVENTS = [column.name for column in TABLES["events"]]
#: A valid row of events, as a line of CSV.
GOOD = "2019-10-01 00:00:01 UTC,view,1,2,a.b,acme,1.5,7,s1"
HEADER = ",".join(EVENTS)


class Box:
    """A folder to load from (`source`), and a new folder for each load (`target` is that of the latest load)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.source.mkdir()
        self.target = folder
        self.count = 0

    def write(self, text: str | bytes, name: str = "part-0.csv") -> Path:
        file = self.source / name
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def load(self, source: Path | str | None = None, ratio: float = 1.0) -> Loaded:
        self.count += 1
        self.target, scratch = self.folder / f"target-{self.count}", self.folder / f"scratch-{self.count}"
        self.target.mkdir()
        scratch.mkdir()
        return load_source(str(source or self.source), self.target, scratch, ratio)

    def table(self) -> list[dict[str, object]]:
        kept = next(self.target / name for name in ("events", "primary") if (self.target / name).exists())
        relation = f"read_parquet({quoted(kept)} || '/**/*.parquet', hive_partitioning=false)"
        return duckdb.connect().sql(f"SELECT * FROM {relation}").to_arrow_table().to_pylist()

    def rejects(self) -> list[tuple[str, int, str, str, str]]:
        file = self.target / "rejects.csv"
        if not file.exists():
            return []
        with file.open(newline="", encoding="utf-8") as opened:
            return [(a, int(b), c, d, e) for a, b, c, d, e in list(csv.reader(opened))[1:]]

    def manifest(self) -> dict[str, object]:
        return dict(json.loads((self.target / "source.json").read_text(encoding="utf-8")))


def bad(**values: str) -> str:
    """The row `GOOD` with some values replaced, as CSV. The new values need not be malformed."""
    row = dict(zip(EVENTS, GOOD.split(","), strict=True)) | values
    return ",".join(row.values())
