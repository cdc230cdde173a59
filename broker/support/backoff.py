"""How long to wait before trying again."""

from collections.abc import Callable


def delay_s(attempt: int, uniform: Callable[[float, float], float], *, first_s: float, most_s: float) -> float:
    """A random time up to a bound that doubles with every attempt: those who failed together come back apart.

    Args:
        attempt: 0 after the first failure.
        uniform: draws a number between two others, such as `random.Random.uniform`.
        first_s: the bound after the first failure, seconds.
        most_s: the largest bound, seconds.
    """
    # The exponent is capped too: 2.0 ** 1024 is no float.
    return uniform(0.0, min(most_s, first_s * 2.0 ** min(attempt, 64)))
