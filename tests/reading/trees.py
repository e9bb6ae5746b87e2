"""Random sources: files and folders such as people have, and the expected result of a load."""

import bz2
import gzip
import lzma
import os
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from purchase_predict.sources import sample
from tests.reading.box import GOOD, HEADER, bad


@dataclass
class Tree:
    """A source while it is being made: its folder, and the expected result of a load.

    `add` works out the expected result without the code that is tested.
    """

    root: Path
    #: The number of rows that a load reads or refuses.
    rows: int = 0
    #: The names that a load reports as left out. A folder has a slash at its end.
    left_out: set[str] = field(default_factory=set)
    #: If not empty, nothing is loaded, and the error message must contain one of these names.
    refused: set[str] = field(default_factory=set)


def _zip(content: bytes) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("part.csv", content)
    return packed.getvalue()


#: Endings of files that may hold a table but are not read, each with a function that makes the content from CSV text.
PACKERS = {".csv.zip": _zip, ".csv.bz2": bz2.compress, ".csv.xz": lzma.compress, ".csv.zst": bytes, ".tsv": bytes,
           "": bytes, ".parq": bytes, ".csv.bak": bytes, ".csv2": bytes, ".csv_old": bytes, ".txt": bytes,
           ".json": bytes, ".2019": bytes, ".zip.001": _zip, ".unknown": bytes}  # fmt: skip
#: Names of files that hold no table, whatever their content. A number is put in for `{}`.
DOCUMENTS = ("notes-{}.md", "README_{}.txt", "schema-{}.json", "LICENSE-{}", "part-{}.csv.md5", "query-{}.sql")
#: The kinds of things that `add` adds to a source.
KINDS = ("csv", "gz", "parquet", "empty", "empty gz", "header", "broken row", "broken Parquet row", "packed",
         "document", "hidden", "hidden folder", "partition", "link", "linked folder", "loop", "dangling",
         "bookkeeping", "Delta", "locked folder")  # fmt: skip


def with_broken_value(events: pa.Table) -> pa.Table:
    """Events whose last row has a value that DuckDB cannot scan: a time far from today, or text that is not UTF-8."""
    column, values = (
        ("event_time", pa.array([0] * (events.num_rows - 1) + [2**62]).view(pa.timestamp("ms")))
        if events.num_rows % 2
        else ("brand", pa.array([b"x"] * (events.num_rows - 1) + [b"\xff"]).view(pa.string()))
    )
    return events.set_column(events.schema.get_field_index(column), column, values)


def add(tree: Tree, kind: str, number: int, rows: int, folder: str) -> None:
    """Adds a thing of this kind to a source, and updates the expected result of a load."""
    prefix = f"{folder}/" if folder else ""
    name = f"{prefix}part-{number}"
    text = "\n".join([HEADER, *[GOOD] * rows, ""]).encode()

    def write(name: str, content: bytes) -> None:
        (tree.root / name).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / name).write_bytes(content)

    match kind:
        case "csv" | "gz":
            write(name + (".csv" if kind == "csv" else ".CSV.gz"), text if kind == "csv" else gzip.compress(text))
            tree.rows += rows
        case "parquet":
            (tree.root / prefix).mkdir(parents=True, exist_ok=True)
            sample.write(tree.root / f"{name}.parquet", rows)
            tree.rows += rows
        case "empty" | "empty gz":
            write(name + (".csv" if kind == "empty" else ".csv.gz"), b"" if kind == "empty" else gzip.compress(b""))
        case "header":
            write(f"{name}.csv", HEADER.encode())
        case "broken row":
            row = (bad(price="x"), bad(price="1_000.5"), bad(event_time="epoch"))[rows % 3]
            write(f"{name}.csv", text + row.encode())
            tree.rows += rows + 1
        case "broken Parquet row":
            (tree.root / prefix).mkdir(parents=True, exist_ok=True)
            pq.write_table(with_broken_value(sample.events(rows + 1)), tree.root / f"{name}.parquet")
            tree.rows += rows + 1
        case "packed":
            ending, pack = list(PACKERS.items())[rows % len(PACKERS)]
            write(name + ending, pack(text))
            tree.refused.add(name + ending)
        case "document" | "hidden":
            document = DOCUMENTS[rows % len(DOCUMENTS)].format(number)
            name = prefix + (document if kind == "document" else f"_part-{number}.csv")
            write(name, text)
            tree.left_out.add(name)
        case "hidden folder":
            write(f"{prefix}.hidden-{number}/part.csv", text)
            tree.left_out.add(f"{prefix}.hidden-{number}/")
        case "partition":
            lacking = "\n".join([HEADER.replace("brand,", ""), *[GOOD.replace("acme,", "")] * rows]).encode()
            write(f"{prefix}brand=b{number}/part.csv", lacking)
            tree.rows += rows
        case "link" | "linked folder":
            outside = tree.root.parent / f"outside-{number}"
            outside.mkdir()
            (outside / "part.csv").write_bytes(text)
            (tree.root / prefix).mkdir(parents=True, exist_ok=True)
            to_file = kind == "link"
            link = tree.root / (f"{name}.csv" if to_file else f"{prefix}linked-{number}")
            link.symlink_to(outside / "part.csv" if to_file else outside)
            tree.rows += rows
        case "loop":
            (tree.root / prefix).mkdir(parents=True, exist_ok=True)
            (tree.root / f"{prefix}loop-{number}").symlink_to(tree.root)
            tree.left_out.add(f"{prefix}loop-{number}/")
        case "dangling":
            (tree.root / prefix).mkdir(parents=True, exist_ok=True)
            name += (".csv", "", ".2019", ".d", ".md")[rows % 5]
            (tree.root / name).symlink_to(tree.root / "gone")
            tree.refused.add(name)
        case "bookkeeping":
            write(f"{prefix}_SUCCESS", b"")
        case "Delta":
            write(f"{prefix}table-{number}/part.csv", text)
            write(f"{prefix}table-{number}/_delta_log/00000000000000000000.json", b"{}")
            tree.refused.add("Delta Lake")
        case "locked folder":
            write(f"{prefix}locked-{number}/part.csv", text)
            (tree.root / f"{prefix}locked-{number}").chmod(0)
            if os.access(tree.root / f"{prefix}locked-{number}", os.R_OK):  # root may read everything
                tree.rows += rows
            else:
                tree.refused.add(f"{prefix}locked-{number}")


#: The kind, the number of rows and the folder of a thing in a source.
things = st.tuples(
    st.sampled_from(KINDS), st.integers(1, 20), st.sampled_from(["", "sub", "event_day=1", "a b/c"])
)  # fmt: skip
