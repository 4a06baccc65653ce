"""Measurements: ``python -m benchmarks [name ...]`` prints tables; RESULTS.md has the last ones."""
