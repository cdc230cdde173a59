"""Prepares a process of the function before its first task."""

from broker.support import heap, logs


def prepare(*, quiet: bool = False) -> None:
    """Import and configure torch, the heap and the logs. Starts no thread.

    Args:
        quiet: log only warnings and errors.
    """
    import torch

    # The first optimizer imports this module, which takes a second. Import it now, not during the first task.
    import torch._dynamo

    # Another number of threads rounds differently, so the same job would have another digest.
    torch.set_num_threads(1)
    heap.keep_large_blocks()
    logs.configure(quiet=quiet)
