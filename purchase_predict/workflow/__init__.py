"""Manages the MLflow runs of the entry points: opening, step keys, reuse, claims and end. It reads no table."""
