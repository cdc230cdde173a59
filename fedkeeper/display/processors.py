"""Which kinds of processor have trained a job's updates, in words, and what that means for another run of the job."""

from collections.abc import Mapping
from typing import Final

NOT_TOLD: Final = "not told"
"""What functions of older versions say of their processor."""

_CPUS: Final = ("x86-64 ", "aarch64 ")
"""The kinds on which torch gives equal bits begin with this. On a GPU it promises none:
https://docs.pytorch.org/docs/stable/notes/randomness.html
"""


def describe(processors: Mapping[str, int]) -> str:
    """Return the kinds as text, such as `aarch64 NEON (2 updates), x86-64 Intel AVX512 (6)`; empty: none is known.

    Args:
        processors: number of counted updates by kind.
    """
    if not any(processors):
        return ""
    if len(processors) == 1:
        return next(iter(processors))
    first, *others = ((kind or NOT_TOLD, number) for kind, number in sorted(processors.items()))
    updates = "update" if first[1] == 1 else "updates"
    return ", ".join([f"{first[0]} ({first[1]} {updates})", *(f"{kind} ({number})" for kind, number in others)])


def what_follows(processors: Mapping[str, int]) -> str:
    """Say when another run of the job gives the same digest.

    Args:
        processors: number of counted updates by kind; at least one.
    """
    if any(kind and not kind.startswith(_CPUS) for kind in processors):
        return "torch promises equal bits only on a CPU: the same job may give others"
    if len(processors) > 1:
        return "the same job gives this digest only if each client's kind stays the same"
    return "the same job gives this digest on such processors"
