"""The model registry: versions, the gate, and moving alias and stage."""
