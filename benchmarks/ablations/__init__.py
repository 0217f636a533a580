"""What ``python -m benchmarks.ablation`` compares."""
