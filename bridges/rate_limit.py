"""Keeps invocations below a platform's own rate limit."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 61.0
"""Platforms count by the minute. One second more allows for clocks that disagree on when a minute begins."""


class RateLimiter:
    """Lets a limited number of calls start within any minute, in the order in which they ask.

    Args:
        per_minute: returns the current limit; 0: no limit.
        clock: returns a time in seconds that never goes back.
    """

    def __init__(self, per_minute: Callable[[], int] = int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._starts: deque[float] = deque()
        self._lock = asyncio.Lock()

    async def acquire(self) -> None:
        """Return when the next call may start."""
        async with self._lock:
            now_s, limit, wait_s = self._clock(), self._per_minute(), 0.0
            while self._starts and self._starts[0] <= now_s - WINDOW_S:
                self._starts.popleft()
            if limit and len(self._starts) >= limit:
                wait_s = self._starts[-limit] + WINDOW_S - now_s
            await asyncio.sleep(wait_s)
            self._starts.append(self._clock())
