"""Makes the primary table from the output of load, on this machine or on the user's Spark cluster."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import duckdb

from purchase_predict.database import one_row
from purchase_predict.features import on_duckdb


@dataclass(frozen=True)
class Artifact:
    """A folder in the artifact store: its URI, and a function that downloads it to this machine."""

    address: str
    download: Callable[[], Path]


def make(connection: duckdb.DuckDBPyConnection, folder: Path, state: Path | None = None) -> dict[str, int]:
    """Makes `primary_table` on this machine.

    Args:
        connection: the database that gets the table.
        folder: the folder that load wrote: events, or a ready primary table (a folder `primary`), used unchanged.
        state: the file with the product counters before these events (`on_duckdb.write_state`); None: there are none.

    Returns:
        The event counts as `on_duckdb.primary_from_events` returns them; for a ready primary table, an empty dict.
    """
    if folder.name == "primary":
        return on_duckdb.primary_as_is(connection, folder)
    return on_duckdb.primary_from_events(connection, folder, state)


def make_on_spark(
    connection: duckdb.DuckDBPyConnection, manifest: Mapping[str, Any], events: Artifact, primary: Artifact, copy: Path
) -> dict[str, int]:
    """Makes `primary_table` from events on the cluster, and reads it into DuckDB.

    The executors read and write in the artifact store if they can reach it. If only MLflow's server can reach the
    store, the files go through this machine's disk, which the cluster must then share.

    Args:
        connection: the database that gets the table.
        manifest: the manifest of load (`source.json`).
        events: the events of load.
        primary: the folder that gets the primary table.
        copy: a folder of this machine that gets the primary table if the executors cannot reach the artifact store.

    Returns:
        The event counts as `on_duckdb.primary_from_events` returns them.

    Raises:
        Damaged: a file of the events is missing, has changed since load wrote it, or was added later.
        click.ClickException: Spark cannot be used, or its executors wrote to another disk.
    """
    from purchase_predict.features import on_spark  # needs Ibis, which a ready primary table does not need

    source, target = on_spark.location(events.address), on_spark.location(primary.address)
    direct = source is not None and target is not None
    if source is None or target is None:
        source, target = f"file://{events.download()}", f"file://{copy}"
    session_type = manifest["session_type"]
    # Runs of load before version 0.2 have no CRC-32 in their manifest.
    made = on_spark.primary_from_events(source, session_type, manifest.get("crc32", {}), target)
    folder = primary.download() if direct else copy
    on_duckdb.primary_from_spark(connection, folder, session_type)
    (found,) = one_row(connection, "SELECT count(*) FROM primary_table")
    if found != made.rows:
        raise click.ClickException(
            f"Spark wrote {made.rows} rows to {target if direct else copy}, but {found} rows were found there: Spark's "
            "executors need an artifact store that every machine can reach (gs://, s3://, hdfs:// or a shared disk)"
        )
    shutil.rmtree(folder)  # DuckDB has the rows now
    return made.counts
