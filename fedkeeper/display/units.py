"""Times and sizes as text, each with its unit."""

from typing import Final

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


def format_age(seconds: float) -> str:
    """Return how long ago something was, in the largest fitting unit."""
    for size, unit, *_ in _LONG:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def format_size(count: int) -> str:
    """Return a number of bytes in the largest fitting unit."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
