"""Measurements, run from the repository: `python -m benchmarks.decode CHECKPOINT`."""
