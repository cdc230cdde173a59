"""A bounded cache in a plain dict, ordered from least to most recently used."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep(cache: dict[K, V], key: K, value: V, *, limit: int) -> None:
    """Store a value as the most recently used one, and evict the least recently used. Thread-safe.

    Args:
        cache: changed in place.
        key: the value's key.
        value: new, or already in the cache.
        limit: maximum number of entries.
    """
    cache.pop(key, None)
    cache[key] = value
    for oldest in list(cache)[:-limit]:
        cache.pop(oldest, None)
