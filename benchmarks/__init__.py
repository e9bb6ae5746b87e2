"""What the tables of BENCHMARKS.md are made with, one command each."""
