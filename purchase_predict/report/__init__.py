"""The report of a training: what is in it, the page, its drawings, plots for MLflow, and the model card."""
