"""The packages and modules behind the steps, from the top layer down. Each imports only those below it.

serving          scores carts over HTTP
registry         decides which version may take over an environment, and moves alias and stage
kubernetes       runs a step as a Kubernetes Job: renders, submits and watches it, and explains its failures
workflow         manages the MLflow runs: commands, steps, plans, step keys, reuse, claims; touches no table
report           what people read about a training: page, plots, model card
training         turns the result of a search into a model
prediction       scores an input as a batch
search           finds hyperparameters: space, trials, folds, suggestions, final fit
features         turns events into the primary table, and splits it into a train and a test set
models           the packaged model, and scoring with it
reading          turns a source into typed Parquet, with every malformed row accounted for
sources          where the data is: local files, Cloud Storage, Hadoop's file systems, the built-in sample
evaluation       scores with intervals, weaknesses, curves, calibration, drift
database         DuckDB connections and table digests
spark_session    a session on the user's Spark cluster
parameters       the parameters of the entry points
schema           the source tables: columns and types
metrics          the metrics: names, labels, directions
settings         settings from the environment and .env
errors           messages in one line
mlflow_errors    what MLflow's error codes mean
checksums        checksums of files
secrets          removes passwords and tokens from URIs and messages
telemetry        turns MLflow's telemetry off
spreadsheets     keeps spreadsheets from running text in CSV files as formulas
progress         shows the progress of a process
early_interrupt  records Ctrl-C during the imports
"""
