"""Benchmarks against named rivals: every run asserts its results, full runs also time them."""
