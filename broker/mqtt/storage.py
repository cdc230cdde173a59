"""The layout of an MQTT broker's retained messages, and how they are encoded.

A topic `fl.a.b` is the MQTT topic `fl/a/b`.

| Keep | MQTT topic | content |
|---|---|---|
| LAST | `fl/a/b` | a line with the revision, then the value |
| LOG, QUEUE, INBOX | `fl/a/b/<sequence>-<id>` | one event, as it was published |
| FIRST | `fl/a/b`, and `fk/index/fl/a/b` | the payload; and its index, which is readable without fetching the payload |
| (claims) | `fk/claims/...` | who may write a value; see `broker.mqtt.claims` |
| (groups) | `fk/groups/<durable>/...` | which member of a group has which event; see `broker.mqtt.group` |
| (mark) | `fk/store` | version of this layout, and the store's id; see `broker.mqtt.mark` |
| (counters) | `fk/marks/<connection>` | a number that grows after our writes; see `broker.mqtt.store_check` |

Everything that a reader needs is in the topic or the payload, because MQTT 3.1.1 and bridges drop properties.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from broker import families, topics
from broker.deliveries import Deleted, Value
from broker.errors import BadTopic
from broker.families import Keep
from broker.support import filters

INDEX: Final = "fk/index/"
CLAIMS: Final = "fk/claims/"
GROUPS: Final = "fk/groups/"
STORE: Final = "fk/store"
MARKS: Final = "fk/marks/"
"""Below it, each connection retains the counter of its writes, and publishes messages to itself."""

MICROSECONDS: Final = 1_000_000
"""Per second: the unit of sequences and revisions."""

_ENTRY: Final = re.compile(r"(\d{1,20})-([0-9a-f]{16})")
_VALUE: Final = re.compile(rb"fk (\d{1,20}) ([0-9a-f]{16})\n")
_ESCAPE: Final = b"fk\n"
_DURABLE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Name:
    """The unique name of a message.

    Attributes:
        sequence: microseconds since the epoch on the publisher's clock; unique per publisher.
        id: 16 hexadecimal digits; equal for messages that were published with the same `dedupe`.
    """

    sequence: int
    id: str

    @property
    def time_s(self) -> float:
        """When the message was published, in seconds since the epoch on the publisher's clock."""
        return self.sequence / MICROSECONDS


@dataclass(frozen=True, slots=True)
class Entry:
    """An event or a write-once payload on the broker.

    Attributes:
        key: MQTT topic of the event; for a write-once payload, of its index.
        topic: the topic that it was published to.
        name: its name.
        message: the event; for a write-once payload, its index.
    """

    key: str
    topic: str
    name: Name
    message: bytes


class Index(msgspec.Struct, frozen=True):
    """The index of a write-once payload.

    Attributes:
        sequence: sequence of the payload's name.
        id: id of the payload's name.
        bytes: size of the message, in bytes.
    """

    sequence: int
    id: str
    bytes: int


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """The message that is retained under STORE.

    Attributes:
        schema: version of the layout.
        id: random; tells this store from every other one. Empty: the mark is from a version that gave none.
    """

    schema: int
    id: str = ""


class NameFactory:
    """Makes names whose sequences increase even if the clock does not.

    Args:
        clock: returns the time in seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last = 0

    def next(self, dedupe: str | None = None, *, after: int = 0) -> Name:
        """Make a name with a larger sequence than all names before.

        Args:
            dedupe: gives the name's id; None: the id is random.
            after: another sequence that the new one must exceed.
        """
        self._last = max(int(self._clock() * MICROSECONDS), self._last + 1, after + 1)
        id_ = secrets.token_hex(8) if dedupe is None else hashlib.sha256(dedupe.encode()).hexdigest()[:16]
        return Name(self._last, id_)


def mqtt_topic(topic: str) -> str:
    """Return the MQTT topic (or filter) of a topic (or filter). In a filter, MQTT's `#` also matches the parent.

    Raises:
        BadTopic: the topic has a character with a special meaning on MQTT.
    """
    if any(character in topic for character in "/+#\0"):
        raise BadTopic(topic, "MQTT gives '/', '+' and '#' a meaning")
    levels = ("+" if level == topics.ANY else "#" if level == ">" else level for level in topic.split("."))
    return "/".join(levels)


def plain_topic(topic_filter: str, key: str) -> str | None:
    """Return the topic of a message that has no name in its MQTT topic, or None if the filter does not match it.

    Args:
        topic_filter: a filter of topics.
        key: MQTT topic of the message.
    """
    topic = key.replace("/", ".")
    return topic if filters.matches(topic_filter, topic) else None


def entry_key(topic: str, name: Name) -> str:
    """Return the MQTT topic of an event.

    Args:
        topic: topic of the event.
        name: name of the event.
    """
    return f"{mqtt_topic(topic)}/{name.sequence}-{name.id}"


def index_key(topic: str) -> str:
    """Return the MQTT topic of a write-once payload's index."""
    return INDEX + mqtt_topic(topic)


def group_key(durable: str) -> str:
    """Return the MQTT topic of a durable's settings. The state of an event is below it, at the event's key.

    Raises:
        BadTopic: the durable's name has an illegal character, or is too long.
    """
    if not _DURABLE.fullmatch(durable):
        raise BadTopic(durable, "use 1 to 64 of A-Z, a-z, 0-9, '_' and '-' for a durable")
    return GROUPS + durable


def entries_filter(topic_filter: str) -> str:
    """Return an MQTT filter that matches all entries under a filter. `parse_entry` sorts out other messages."""
    if families.family_of(topic_filter).keep is Keep.FIRST:
        return index_key(topic_filter)
    return mqtt_topic(topic_filter) if topic_filter.endswith(">") else f"{mqtt_topic(topic_filter)}/#"


def parse_entry(topic_filter: str, key: str, payload: bytes) -> Entry | None:
    """Return the entry in a message, or None if it is not an entry under the filter.

    Args:
        topic_filter: a filter of topics.
        key: MQTT topic of the message.
        payload: payload of the message.
    """
    if key.startswith(INDEX):
        topic = key.removeprefix(INDEX).replace("/", ".")
        try:
            index = msgspec.json.decode(payload, type=Index)
        except msgspec.DecodeError:
            return None
        name, message = Name(index.sequence, index.id), payload
    else:
        parent, _, last = key.rpartition("/")
        topic = parent.replace("/", ".")
        match = _ENTRY.fullmatch(last)
        if match is None:
            return None
        name, message = Name(int(match[1]), match[2]), unescape(payload)
    return Entry(key, topic, name, message) if filters.matches(topic_filter, topic) else None


def parse_entries(topic_filter: str, payloads: Mapping[str, bytes]) -> list[Entry]:
    """Return the entries in messages, oldest first.

    Args:
        topic_filter: a filter of topics; other messages are left out.
        payloads: the messages' payloads by MQTT topic.
    """
    parsed = (parse_entry(topic_filter, key, payload) for key, payload in payloads.items())
    entries = [entry for entry in parsed if entry is not None]
    return sorted(entries, key=lambda entry: (entry.name.sequence, entry.key))


def escape(payload: bytes) -> bytes:
    """Return the message of a payload; it is never empty, because an empty retained message deletes the topic's."""
    return _ESCAPE + payload if not payload or payload.startswith(_ESCAPE) else payload


def unescape(message: bytes) -> bytes:
    """Return the payload of a message."""
    return message.removeprefix(_ESCAPE)


def encode_value(name: Name, payload: bytes) -> bytes:
    """Return the message of a value: a line with its revision, then the payload.

    Args:
        name: name of the value; its sequence is the revision.
        payload: the payload.
    """
    return b"fk %d %s\n" % (name.sequence, name.id.encode()) + payload


def decode_value(topic: str, message: bytes) -> tuple[Value | Deleted, str]:
    """Return the value in a message, and the id of its name.

    A value from a plain MQTT client has no line with a revision; its digest is its revision.

    Args:
        topic: topic of the value.
        message: the message; empty: there is no value.
    """
    digest = hashlib.sha256(message).hexdigest()
    if not message:
        return Deleted(topic, 0), digest[:16]
    match = _VALUE.match(message)
    if match is None:
        return Value(topic, message, int(digest[:12], 16)), digest[:16]
    return Value(topic, message[match.end() :], int(match[1])), match[2].decode()


def revision_of(message: bytes) -> int:
    """Return the revision in the message of a value; 0: it has none."""
    match = _VALUE.match(message)
    return 0 if match is None else int(match[1])
