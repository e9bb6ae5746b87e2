"""Tools beside the workflow."""
