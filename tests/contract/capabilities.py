"""What each broker does otherwise than the contract says, as data; what is not named here works everywhere alike.

Nothing of the contract is refused by any of them. The promises below the first are those that MQTT is asked for in
`test_mqtt.py`. Another broker is another row.
"""

from enum import Enum
from typing import Final

BROKERS: Final = {
    "memory": "memory_url",
    "nats": "nats_url",
    "mosquitto": "mosquitto_url",
    "nats-mqtt": "nats_mqtt_url",
}
"""The brokers that the contract holds for, and the fixture that is each one's address."""


class Promise(Enum):
    """What a broker may or may not promise."""

    DENSE = "sequences count from 1 in every family of topics"
    STRANGERS_WAIT = "what a plain client published before anybody ever listened is kept"
    STRANGERS_ANSWERED = "a plain client that asks is answered"
    ONE_WINS = "of many connections that compare and set, or write once, at the same time one wins"
    EXPIRES = "events go away by themselves when they are too old"


DIFFERS: Final[dict[str, frozenset[Promise]]] = {
    "memory": frozenset(),
    "nats": frozenset(),
    # Sequences are microseconds since the epoch on the publisher's clock: they increase, but are not dense.
    "mosquitto": frozenset({Promise.DENSE, Promise.STRANGERS_WAIT}),
    # MQTT 3.1.1 has no properties: no limits, no expiry, no topic for an answer; and it acknowledges everything.
    # What is retained can be fetched only a moment after it was acknowledged, so a claim may be overlooked.
    "nats-mqtt": frozenset(Promise),
}


def numbers(kind: str, sequences: list[int]) -> list[int]:
    """Sequences as they would be if they counted from 1: increasing ones stay so, equal ones stay equal."""
    if Promise.DENSE not in DIFFERS[kind]:
        return sequences
    order = sorted(set(sequences))
    return [order.index(sequence) + 1 for sequence in sequences]
