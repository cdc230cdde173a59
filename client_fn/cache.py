"""The last few values of a kind, in a dict: its order is that of their use."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep(cache: dict[K, V], key: K, value: V, *, most: int) -> None:
    """Make a value the last used one, and forget those that were used longest ago; safe between threads."""
    cache.pop(key, None)
    cache[key] = value
    for oldest in list(cache)[:-most]:
        cache.pop(oldest, None)
