"""The sections of `benchmarks/speed.py`: each compares one way with a named alternative, by turns, in one run."""
