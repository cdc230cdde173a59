"""Topic filters: `*` matches one level, a final `>` matches one or more levels, as in NATS subjects."""

import itertools
from typing import Final

ANY: Final = "*"
"""Matches one level."""


def matches(pattern: str, topic: str) -> bool:
    """Return whether a filter matches a topic, or every topic of a narrower filter.

    Args:
        pattern: the filter.
        topic: a topic or a narrower filter.
    """
    expected, levels = pattern.split("."), topic.split(".")
    for i, level in enumerate(expected):
        if level == ">":
            return len(levels) > i
        if i >= len(levels) or (level not in (ANY, levels[i])) or (level == ANY and levels[i] == ">"):
            return False
    return len(levels) == len(expected)


def overlap(first: str, second: str) -> bool:
    """Return whether some topic could match both filters.

    Args:
        first: a filter or a topic.
        second: another filter or topic.
    """
    for a, b in itertools.zip_longest(first.split("."), second.split(".")):
        if a is None or b is None:
            return False
        if ">" in (a, b):
            return True
        if a != b and ANY not in (a, b):
            return False
    return True
