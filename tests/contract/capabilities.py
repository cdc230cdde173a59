"""The differences of the brokers from the contract, as data. All that is not listed here is the same for every broker.

Every broker supports every operation of the contract. A broker may miss some of the promises below; `MISSING` has one
row for each broker. `test_events.py` and `test_mqtt.py` read it.
"""

from enum import Enum
from typing import Final

BROKERS: Final = {
    "memory": "memory_url",
    "nats": "nats_url",
    "mosquitto": "mosquitto_url",
    "nats-mqtt": "nats_mqtt_url",
}
"""The brokers under test, each with the fixture of its address."""


class Promise(Enum):
    """A promise that some brokers do not keep."""

    DENSE = "sequences count from 1 in every family of topics"
    KEEPS_BEFORE_FIRST_CONSUMER = "a plain client's message is kept although no consumer has ever connected"
    ANSWERS_PLAIN_CLIENTS = "a plain client's request gets a reply"
    ONE_WINS = "if many connections compare and set, or write once, at the same time, exactly one succeeds"
    EXPIRES = "the broker deletes old events by itself"


MISSING: Final[dict[str, frozenset[Promise]]] = {
    "memory": frozenset(),
    "nats": frozenset(),
    # Sequences are microseconds since the epoch on the publisher's clock: they increase, but are not dense.
    "mosquitto": frozenset({Promise.DENSE, Promise.KEEPS_BEFORE_FIRST_CONSUMER}),
    # MQTT 3.1.1 has no properties, so no limits, no expiry and no reply topic; and it acknowledges every message.
    # A retained message can be read only a moment after its acknowledgement, so a claim may be missed.
    # nats-server promises no order between two topics. Readers that catch up rely on it; it held in 70 of 70 tries.
    "nats-mqtt": frozenset(Promise),
}
"""The promises that each broker does not keep."""


def numbers(kind: str, sequences: list[int]) -> list[int]:
    """Return sequences as if they counted from 1; the order and equal sequences stay."""
    if Promise.DENSE not in MISSING[kind]:
        return sequences
    order = sorted(set(sequences))
    return [order.index(sequence) + 1 for sequence in sequences]
