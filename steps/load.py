"""Step `load`: converts the source's rows to typed Parquet, and lists every malformed row.

In: a source. Out: `events/bucket=*/*.parquet` or `primary/*.parquet`, `source.json`, and `rejects.csv` if rows were
refused.

With `engine=spark`, Spark's executors read the source and store the rows among this run's artifacts. Only refused rows
pass through this process. Both engines give the same rows. The built-in sample is always made and read in this process.

    mlflow run . -e load --env-manager local -P source=data/
"""

import mlflow

from purchase_predict.parameters import Engine
from purchase_predict.reading import on_spark
from purchase_predict.reading.load import load_source
from purchase_predict.sources.sources import changed, fingerprint, sample_events
from purchase_predict.workflow.step import Output, StepRun, step


@step("load", fingerprint)
def load(
    run: StepRun, source: str, max_reject_ratio: float, gcp_project: str, memory_limit: str, engine: Engine
) -> Output:
    """Read the source, and write its rows as typed Parquet."""
    outputs = run.folder()
    if engine == Engine.SPARK and sample_events(source) is None:
        loaded, files = on_spark.load_source(
            source, outputs, run.folder(), max_reject_ratio, run.store(), memory_limit, gcp_project
        )
        run.stored(loaded.table, {name: (file.size, file.checksum) for name, file in files.items()})
    else:
        loaded = load_source(source, outputs, run.folder(), max_reject_ratio, memory_limit, gcp_project)
    if loaded.source_digest != run.input_digests["source"]:  # the source changed after the key was computed
        raise changed(source, "a file")
    mlflow.log_metrics({"rows": loaded.rows, "rejected_rows": loaded.rejected})
    run.log(outputs)
    summary = f"{loaded.rows} rows of the {loaded.table} table, {loaded.rejected} refused"
    return Output(loaded.table, loaded.digest, summary)


if __name__ == "__main__":
    load()
