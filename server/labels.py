"""Which clients a job's `where` tables match. Pure."""

from collections.abc import Mapping
from typing import Protocol


class Labelled(Protocol):
    """An entry of the register, or a member of a cohort."""

    @property
    def id(self) -> str:
        """The client's id."""

    @property
    def platform(self) -> str:
        """Name of the platform that hosts the client's function."""

    @property
    def labels(self) -> dict[str, str]:
        """The client's labels."""


def matches(where: Mapping[str, str], client: Labelled) -> bool:
    """Whether a client has all labels that a table names.

    Args:
        where: labels by name; `platform` and `id` are those of the register. Empty: every client matches.
        client: the client.
    """
    known = {**client.labels, "platform": client.platform, "id": client.id}
    return all(known.get(name) == value for name, value in where.items())
