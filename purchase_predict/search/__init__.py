"""Hyperparameter search: points of the space, trials on folds, and the final fit."""
