"""What each broker can't do as the contract has it, as data; what is not named here works everywhere alike.

`DIFFERS`: another promise that is documented, and that the test checks instead. `REFUSED`: the test expects
`Unsupported` with a sentence that says why. Another broker is another column.
"""

from enum import Enum
from typing import Final


class Group(Enum):
    """What the contract's tests are about."""

    NUMBERING = "sequences count from 1 per family of topics"
    REPLAY = "a log can be read from its start"
    DURABLE = "a durable remembers what was acknowledged, and gets what was published before it existed"
    COMPETING = "subscribers of a durable share its events"
    CAS = "of many who compare and set, one wins"
    FIRST = "the first write wins"
    VALUES = "the last value stays, can be watched and listed"
    CHUNKS = "payloads of any size"
    DEDUPE = "an event with the id of one of the last two minutes is dropped"


DIFFERS: Final[dict[str, frozenset[Group]]] = {
    "memory": frozenset(),
    "nats": frozenset(),
    # Microseconds since the epoch on the publisher's clock: increasing, not dense.
    "mqtt": frozenset({Group.NUMBERING}),
    "nats-mqtt": frozenset({Group.NUMBERING}),
}


def differs(url: str, group: Group) -> bool:
    """Whether the broker under test has another promise for that."""
    return group in DIFFERS[url.partition(":")[0]]


def numbers(url: str, sequences: list[int]) -> list[int]:
    """Sequences as they would be if they counted from 1; increasing ones stay increasing, equal ones equal."""
    if not differs(url, Group.NUMBERING):
        return sequences
    order = sorted(set(sequences))
    return [order.index(sequence) + 1 for sequence in sequences]
