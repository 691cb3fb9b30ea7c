"""Measurements that a person can repeat: `python -m benchmarks.NAME --json PATH`."""
