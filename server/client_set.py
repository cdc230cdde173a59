"""An immutable set of a round's clients that costs little to change. Pure.

A `frozenset` with one more client is a copy of all the others: in a round of many clients, the answers would take a
time that grows with the square of their number.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientSet:
    """A set of clients out of all those of a round, as a number with a bit for each of them.

    Attributes:
        places: the place of each client's bit, from 0. All sets of a round share it.
        bits: the bits of the clients in the set.
    """

    places: Mapping[str, int]
    bits: int

    @classmethod
    def of(cls, clients: Iterable[str]) -> "ClientSet":
        """Return the set of all clients of a round."""
        places = {client: place for place, client in enumerate(clients)}
        return cls(places, (1 << len(places)) - 1)

    def first(self, number: int) -> "ClientSet":
        """Return the set of the round's first clients."""
        return ClientSet(self.places, (1 << number) - 1)

    def having(self, client: str) -> "ClientSet":
        """Return this set with a client of the round.

        Raises:
            KeyError: the round has no such client.
        """
        return ClientSet(self.places, self.bits | 1 << self.places[client])

    def __contains__(self, client: str) -> bool:
        place = self.places.get(client)
        return place is not None and bool(self.bits >> place & 1)

    def __iter__(self) -> Iterator[str]:
        return (client for client, place in self.places.items() if self.bits >> place & 1)

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __and__(self, other: "ClientSet") -> "ClientSet":
        return ClientSet(self.places, self.bits & other.bits)

    def __or__(self, other: "ClientSet") -> "ClientSet":
        return ClientSet(self.places, self.bits | other.bits)

    def __sub__(self, other: "ClientSet") -> "ClientSet":
        return ClientSet(self.places, self.bits & ~other.bits)
