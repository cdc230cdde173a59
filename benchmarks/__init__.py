"""Benchmarks against the paper and other systems. Each one prints its results and how it measured them."""
