"""The packages and modules behind the steps, from the top down: each imports only those below it.

registry      which version may take over an environment; alias and stage moved
kubernetes    how a step runs as a Kubernetes Job: rendered, submitted, watched, explained
workflow      what an MLflow run is here: command, step, plan, key, reuse, claim, end; never a table
report        what people read about a training: page, plots, model card
training      a search made into a model that answers; prediction: an input scored in one go
search        hyperparameters: space, trials, folds, suggestions, the final fit
features      events to the primary table, and that to a train and a test set
models        the packaged model, and scoring with it
reading       a source to typed Parquet, with every malformed row accounted for
sources       where data is: local files, Cloud Storage, the built-in sample
evaluation    scores with intervals, weaknesses, curves, calibration, drift
database      DuckDB's connection; spark_session: the user's Spark
parameters    the parameters of the entry points, in one table
schema        tables, columns and their types; metrics, settings, errors, mlflow_errors: one table each
secrets       what may be printed of a URI; telemetry: MLflow's is off; spreadsheets: CSV without live formulas
"""
