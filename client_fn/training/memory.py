"""Says how many clients fit into memory together."""

import sys
from typing import Final

import torch

SHARE: Final = 0.5
"""Share of the memory that is free which the clients' parameters and all that belongs to them may take."""

COPIES: Final = 12
"""What a client needs, as a multiple of its parameters: values, gradients, two moments and their copies, and the
activations of a batch."""


def room(device: str, memory_mb: int) -> int | None:
    """Return how many bytes are free for a training; None: it is not known.

    Args:
        device: torch's name of the device.
        memory_mb: what this process may use of a CPU's memory, in MiB; 0: not known.
    """
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return (memory_mb << 20) or None


def clients(values: int, free: int | None) -> int:
    """Return how many clients fit.

    Args:
        values: size of a model's parameters in bytes.
        free: what is free, in bytes; None: not known.
    """
    return sys.maxsize if free is None else int(free * SHARE) // (COPIES * max(values, 1))
