"""Recognizes the streams of version 0.1, whose names have no prefix and which have no metadata of ours."""

from collections.abc import Mapping
from typing import Final

STREAMS: Final[dict[str, frozenset[str]]] = {
    "SUBMIT": frozenset({"fl.jobs.submit"}),
    "JOBS": frozenset({"fl.jobs.*.submit", "fl.jobs.*.cancel"}),
    "TASKS": frozenset({"fl.tasks.>"}),
    "UPDATES": frozenset({"fl.updates.>"}),
    "MODELS": frozenset({"fl.models.>"}),
    "STATE": frozenset({"fl.state.>"}),
    "CHUNKS": frozenset({"fl.chunks.>"}),
    "PACKAGES": frozenset({"fl.packages.*"}),
    "VALUES": frozenset(
        {"fl.rounds.*", "fl.clients.*", "fl.functions.*.*", "fl.reports.*.*", "fl.tallies.*", "fl.presence.*"}
    ),
    "FABRIC": frozenset({"fl.fabric.*.*"}),
    "REPLIES": frozenset({"fl.replies.*"}),
    "INVOCATIONS": frozenset({"fl.invocations.>"}),
    "PROGRESS": frozenset({"fl.progress.>"}),
    "DEAD": frozenset({"fl.dead.>"}),
}
"""The subjects of every stream of version 0.1, by its name."""


def is_old_store(streams: Mapping[str, tuple[str, ...]]) -> bool:
    """Return whether these streams include all streams of version 0.1, each with exactly its subjects.

    Args:
        streams: the subjects of each stream, by its name.
    """
    return all(frozenset(streams.get(name, ())) == subjects for name, subjects in STREAMS.items())
