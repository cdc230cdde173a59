"""Processes that we start must not outlive us, however we end."""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""prctl(2)."""


def dying_with_us(number: signal.Signals) -> Callable[[], None] | None:
    """A `preexec_fn` that has the kernel send a signal to the new process when this one dies; None but on Linux."""
    return functools.partial(_die_with, os.getpid(), number) if sys.platform == "linux" else None


def _die_with(parent: int, number: signal.Signals) -> None:
    """In the new process. The parent may be dead already, and then no signal comes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)
