"""What a service's connections remember from one start of the service to the next."""

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_memory: ContextVar[dict[Hashable, Any] | None] = ContextVar("memory", default=None)


@contextlib.contextmanager
def kept() -> Iterator[dict[Hashable, Any]]:
    """Keep what is remembered during the block, and yield it; clear it to forget everything."""
    memory: dict[Hashable, Any] = {}
    token = _memory.set(memory)
    try:
        yield memory
    finally:
        _memory.reset(token)


def remembered(key: Hashable, make: Callable[[], T]) -> T:
    """Return what was made under a key before, in the innermost block of `kept`; outside of any, something new.

    Args:
        key: names what is remembered.
        make: makes it if there is none.
    """
    memory = _memory.get()
    if memory is None:
        return make()
    if key not in memory:
        memory[key] = make()
    found: T = memory[key]
    return found
