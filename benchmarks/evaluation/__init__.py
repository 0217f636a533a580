"""The harness of methods, tasks and measures that ``python -m benchmarks.run`` drives."""
