"""Child processes that end when their parent ends, even if it is killed."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""prctl(2)."""


def signal_on_parent_death(number: signal.Signals) -> Callable[[], None] | None:
    """Return a `preexec_fn`: the kernel sends the signal to the child when this process dies. None if not on Linux."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()

    def request_signal() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        # If the parent has died before this call, the kernel sends no signal.
        if os.getppid() != parent:
            os._exit(1)

    return request_signal


def describe_exit(code: int) -> str:
    """Say how a process ended.

    Args:
        code: as `subprocess` gives it; negative for a signal.
    """
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by signal {signal.Signals(-code).name} ({-code})"
    except ValueError:
        return f"was killed by signal {-code}"
