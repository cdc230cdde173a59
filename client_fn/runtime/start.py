"""Prepares a process of the function before its first task."""

from broker.support import heap, logs, processes


def prepare(*, quiet: bool = False) -> None:
    """Hide this process, and configure the heap and the logs. Starts no thread and no process.

    Args:
        quiet: log only warnings and errors.
    """
    # The user's code, which runs in a child, must not find credentials in this process.
    processes.hide()
    heap.keep_large_blocks()
    logs.configure(quiet=quiet)
