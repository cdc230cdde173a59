"""Times and sizes as text, each with its unit, and digests shortened."""

from typing import Final

DIGITS: Final = 12
"""How many hexadecimal digits of a digest a person sees."""

_GIB: Final = 1024
"""MiB of a GiB."""

_LONG: Final = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))
"""Units with the next smaller ones, and their seconds."""


def format_duration(seconds: float) -> str:
    """Return a duration of a step in milliseconds or seconds."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def format_long(seconds: float) -> str:
    """Return a duration of any length, such as `45 s`, `12 min` or `3 h 20 min`."""
    for size, unit, smaller, small_unit in _LONG:
        if seconds >= size:
            rest = int(seconds % size) // smaller
            return f"{int(seconds // size)} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{max(0.0, seconds):.0f} s"


def format_rough(seconds: float) -> str:
    """Return a duration of any length in the largest fitting unit, such as `3 min`."""
    for size, unit, *_ in _LONG:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def format_age(seconds: float) -> str:
    """Return how long ago something was, in the largest fitting unit."""
    return f"{format_rough(seconds)} ago"


def format_size(count: int) -> str:
    """Return a number of bytes in the largest fitting unit."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def format_memory(mb: int) -> str:
    """Return an amount of memory or disk in the largest fitting unit.

    Args:
        mb: the amount in MiB.
    """
    return f"{mb / _GIB:.1f} GiB" if mb >= _GIB else f"{mb} MiB"


def short_digest(sha256: str) -> str:
    """Return the first digits of a digest, enough to compare two by eye."""
    return sha256[:DIGITS]
