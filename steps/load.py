"""Step `load`: the source's rows as typed Parquet, every malformed row accounted for.

In: a source. Out: `events/bucket=*/*.parquet` or `primary/*.parquet`, `source.json`, `rejects.csv` where rows were
refused.

    mlflow run . -e load --env-manager local -P source=data/
"""

import mlflow

from purchase_predict.reading.load import load_source
from purchase_predict.sources.sources import changed, fingerprint
from purchase_predict.workflow.step import Output, StepRun, step


@step("load", fingerprint)
def load(run: StepRun, source: str, max_reject_ratio: float, gcp_project: str, memory_limit: str) -> Output:
    """Read the source into Parquet."""
    outputs = run.folder()
    loaded = load_source(source, outputs, run.folder(), max_reject_ratio, memory_limit, gcp_project)
    if loaded.source_digest != run.input_digests["source"]:  # the rows would be kept under the key of other content
        raise changed(source, "a file")
    mlflow.log_metrics({"rows": loaded.rows, "rejected_rows": loaded.rejected})
    run.log(outputs)
    summary = f"{loaded.rows} rows of the {loaded.table} table, {loaded.rejected} refused"
    return Output(loaded.table, loaded.digest, summary)


if __name__ == "__main__":
    load()
