"""Measured against the paper and against peers; each prints what it measured and how."""
