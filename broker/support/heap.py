"""Configures glibc to reuse large memory blocks, because an update of 2.3 MB is allocated and freed several times.

By default every such block is a new mapping, and the kernel has to zero its pages: 10 % of the time of a round
without training.
"""

import ctypes
import sys
from typing import Final

# The numbers of mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_KEPT_BYTES: Final = 128 << 20
_LARGEST_KEPT_BYTES: Final = 32 << 20
"""The largest value that mallopt accepts for M_MMAP_THRESHOLD."""


def keep_large_blocks() -> None:
    """Keep up to 128 MB of free memory in this process from now on. Without glibc, do nothing."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    libc.mallopt(_M_TOP_PAD, _LARGEST_KEPT_BYTES)
    # What a thread has freed is of use to the others: a model is made in one thread, and the next one in another.
    libc.mallopt(_M_ARENA_MAX, 1)


def give_back(used_bytes: int) -> None:
    """Give this process's free memory back to the system, if large blocks were in use. Without glibc, do nothing.

    Args:
        used_bytes: size of what was in use and is free now.
    """
    if used_bytes <= _LARGEST_KEPT_BYTES or sys.platform != "linux":
        return
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
