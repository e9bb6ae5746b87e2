"""The model that users load: its code, its MLflow package, and scoring with it."""
