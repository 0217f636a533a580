"""Studies of one question each, by name: ``python -m benchmarks study NAME``."""
