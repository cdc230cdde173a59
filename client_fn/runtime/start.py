"""Prepares a process of the function before its first task."""

from broker.support import heap, logs


def prepare(*, quiet: bool = False) -> None:
    """Configure the heap and the logs. Starts no thread and no process.

    Args:
        quiet: log only warnings and errors.
    """
    heap.keep_large_blocks()
    logs.configure(quiet=quiet)
