"""Counts the refused updates of a round, so that one client's flood is not one event for each. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

SHOWN: Final = 16
"""Refusals of one client in a round that are each logged and announced."""


@dataclass
class Refusals:
    """The refused updates of a round, by client.

    Attributes:
        counts: number of refused updates, by client id; those of topics that are none count for "".
    """

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, client: str) -> bool:
        """Count a refusal; return whether it is to be announced."""
        self.counts[client] += 1
        return self.counts[client] <= SHOWN

    def rest(self) -> dict[str, int]:
        """Return how many refusals were not announced, by client id."""
        return {client: count - SHOWN for client, count in sorted(self.counts.items()) if count > SHOWN}
