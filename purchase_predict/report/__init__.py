"""The report of a training: its contents, the page, drawings, plots for MLflow, and the model card."""
