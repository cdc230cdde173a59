"""Keeps invocations below a platform's own rate limit."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 61.0
"""Platforms count by the minute; a second more allows for clocks that disagree on when it begins."""


class RateLimiter:
    """At most so many turns within any minute, first come first served.

    Args:
        per_minute: tells how many at the moment; 0: as many as come.
        clock: seconds, increasing.
    """

    def __init__(self, per_minute: Callable[[], int] = int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._starts: deque[float] = deque()
        self._line = asyncio.Lock()

    async def turn(self) -> None:
        """Return when the next invocation may start."""
        async with self._line:
            await asyncio.sleep(self.wait_s())
            self._starts.append(self._clock())

    def wait_s(self) -> float:
        """How long the next turn has to wait; forgets turns that count no longer."""
        now_s = self._clock()
        while self._starts and self._starts[0] <= now_s - WINDOW_S:
            self._starts.popleft()
        most = self._per_minute()
        if not most or len(self._starts) < most:
            return 0.0
        return self._starts[-most] + WINDOW_S - now_s
