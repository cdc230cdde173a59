"""Delays between retries."""

from collections.abc import Callable


def delay_s(attempt: int, uniform: Callable[[float, float], float], *, first_s: float, most_s: float) -> float:
    """Return a random delay in seconds, below a bound that doubles with every attempt (full jitter).

    The randomness spreads out clients that failed at the same moment.

    Args:
        attempt: number of failures before the last one; 0 after the first failure.
        uniform: draws a random number between two bounds, such as `random.Random.uniform`.
        first_s: bound after the first failure, in seconds.
        most_s: largest bound, in seconds.
    """
    # The exponent is capped too, because 2.0 ** 1024 overflows.
    return uniform(0.0, min(most_s, first_s * 2.0 ** min(attempt, 64)))
