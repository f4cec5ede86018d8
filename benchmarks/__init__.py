"""What measures: each script prints a table that docs/BENCHMARKS.md keeps with date, device and versions."""
