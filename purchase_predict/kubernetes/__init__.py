"""Runs a step as a Kubernetes Job: builds the manifest, watches the Job, explains failures, and checks the image."""
