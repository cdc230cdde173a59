"""Utilities for all packages: tasks, processes, logs, backoff, validation."""
