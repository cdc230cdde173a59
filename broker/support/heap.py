"""Tells glibc to keep large blocks: an update of 2.3 MB is allocated and freed several times on its way.

By default each of those is a fresh mapping whose pages the kernel has to clear: a tenth of a dry round's time.
"""

import ctypes
import sys
from typing import Final

# The numbers of mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3

_KEPT_BYTES: Final = 128 << 20
_LARGEST_KEPT_BYTES: Final = 32 << 20
"""What mallopt accepts at the most for the threshold of a mapping of its own."""


def keep_large_blocks() -> None:
    """For this process, from now on; up to 128 MB that are free stay with it. Does nothing but on glibc."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    libc.mallopt(_M_TOP_PAD, _LARGEST_KEPT_BYTES)
