"""Scripts that measure the tables of BENCHMARKS.md and docs/features.md, and helper modules of these scripts."""
