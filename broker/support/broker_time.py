"""The broker's clock, as its timestamps tell it. Nothing is decided by comparing the clocks of two machines."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

_KEPT: Final = 12
"""So many timestamps are kept: a minute of a bridge's announcements. A clock that was put back is followed by then."""


class BrokerTime:
    """The broker's clock.

    A timestamp is older when it comes to us than when the broker made it, so the newest of the last ones counts.

    Args:
        timer: returns seconds on a clock that never jumps.
    """

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._offsets: deque[float] = deque(maxlen=_KEPT)

    def note(self, time_s: float | None) -> None:
        """Take a timestamp that the broker has made moments ago, in seconds since the epoch; None: it makes none."""
        if time_s is not None:
            self._offsets.append(time_s - self._timer())

    @property
    def now_s(self) -> float | None:
        """The time of the broker, in seconds since the epoch; None: not known."""
        return max(self._offsets) + self._timer() if self._offsets else None

    def age_s(self, time_s: float) -> float | None:
        """Return how many seconds ago the broker's clock showed a time; None: not known."""
        now_s = self.now_s
        return None if now_s is None else max(0.0, now_s - time_s)
