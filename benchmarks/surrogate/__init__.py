"""Parts of ``benchmarks.surrogate_study``."""
