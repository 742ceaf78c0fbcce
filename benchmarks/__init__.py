"""Benchmarks: `python -m benchmarks` from the project's root. See `benchmarks.__main__`."""
