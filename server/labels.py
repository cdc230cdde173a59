"""Which clients a job's `where` tables match. Pure."""

from collections.abc import Mapping
from typing import Final, Protocol

SITE: Final = "site"
"""The label whose value is the client's platform unless its entry has another: on a cluster, one platform has several
sites."""


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
        where: labels by name, as `known` has them. Empty: every client matches.
        client: the client.
    """
    has = known(client) if where else {}
    return all(has.get(name) == value for name, value in where.items())


def known(client: Labelled) -> dict[str, str]:
    """Return a client's labels, and those that follow from the register: `site`, `platform` and `id`."""
    return {SITE: client.platform, **client.labels, "platform": client.platform, "id": client.id}
