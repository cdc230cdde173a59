"""What every process of the function does once, before its first task."""

from broker.support import heap, logs


def prepare(*, quiet: bool = False) -> None:
    """Make this process ready to train: torch is imported and set up, the heap and the logs too. Starts no thread.

    Args:
        quiet: log warnings and errors only.
    """
    import torch

    # The first optimizer imports it, which takes a second: better now than in the first task's time.
    import torch._dynamo

    # More threads would round otherwise, and the same job would have another digest.
    torch.set_num_threads(1)
    heap.keep_large_blocks()
    logs.configure(quiet=quiet)
