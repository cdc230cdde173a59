"""The rate limit of a platform."""

import pytest

from bridges.rate_limit import WINDOW_S, RateLimiter


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def test_no_more_calls_than_the_limit_start_within_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, starts = Clock(), list[float]()

    async def sleep(seconds: float) -> None:
        clock.now_s += seconds

    monkeypatch.setattr("bridges.rate_limit.asyncio.sleep", sleep)
    limiter = RateLimiter(lambda: 5, clock)
    for _ in range(23):
        await limiter.acquire()
        starts.append(clock.now_s)
        clock.now_s += 0.25
    assert all(later - earlier >= WINDOW_S for earlier, later in zip(starts, starts[5:], strict=False))
    assert starts[4] - starts[0] == pytest.approx(1.0), "the first five need not wait"
    assert clock.now_s < 1000 + 5 * WINDOW_S


async def test_without_a_limit_no_call_waits() -> None:
    limiter = RateLimiter()
    for _ in range(1000):
        await limiter.acquire()
