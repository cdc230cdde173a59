"""How everything lies on an MQTT broker that keeps nothing but retained messages.

A topic `fl.a.b` is the MQTT topic `fl/a/b`.

| Keep | where | what |
|---|---|---|
| LAST | `fl/a/b` | a line with the revision, then the value |
| LOG, QUEUE, INBOX | `fl/a/b/<sequence>-<id>` | the event as it was published, one retained message each |
| FIRST | `fl/a/b`, and `fk/index/fl/a/b` | the payload; and what can be known without fetching it |
| (claims) | `fk/claims/...` | who may write next; see `mqtt_contest` |
| (groups) | `fk/groups/<durable>/...` | who has which event; see `mqtt_group` |
| (mark) | `fk/store` | that all of this is ours, and of which version; see `store` |

What is needed to read a message is in its topic or its payload: MQTT 3.1.1 and bridges drop properties.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from broker import families, topics
from broker.base import Deleted, Value
from broker.errors import BadTopic
from broker.families import Keep
from broker.support import filters

INDEX: Final = "fk/index/"
CLAIMS: Final = "fk/claims/"
GROUPS: Final = "fk/groups/"

_ENTRY: Final = re.compile(r"(\d{1,20})-([0-9a-f]{16})")
_VALUE: Final = re.compile(rb"fk (\d{1,20}) ([0-9a-f]{16})\n")
_ESCAPE: Final = b"fk\n"
_DURABLE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Name:
    """What tells a message from every other one.

    Attributes:
        sequence: microseconds since the epoch on its publisher's clock; no two of one publisher are equal.
        id: 16 hexadecimal digits; the same for what was published with the same `dedupe`.
    """

    sequence: int
    id: str

    @property
    def time_s(self) -> float:
        """When it was published, on its publisher's clock."""
        return self.sequence / _MICRO


@dataclass(frozen=True, slots=True)
class Entry:
    """An event or a write-once payload that lies on the broker.

    Attributes:
        key: its MQTT topic; for a write-once payload, that of its index.
        topic: the topic that it was published to.
        name: sequence and id.
        message: the event; of a write-once payload, the index.
    """

    key: str
    topic: str
    name: Name
    message: bytes


class Index(msgspec.Struct, frozen=True):
    """What lies beside a write-once payload.

    Attributes:
        sequence: see Name.
        id: see Name.
        bytes: how large the message is.
    """

    sequence: int
    id: str
    bytes: int


class Names:
    """Makes names whose sequences only grow, whatever the clock does."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last = 0

    def next(self, dedupe: str | None = None, *, after: int = 0) -> Name:
        """A name larger than all before it, and than `after`."""
        self._last = max(int(self._clock() * _MICRO), self._last + 1, after + 1)
        return Name(self._last, secrets.token_hex(8) if dedupe is None else id_of(dedupe))


def id_of(text: str) -> str:
    """16 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mqtt(topic: str) -> str:
    """The MQTT topic, or filter, of one of ours. `#` stands for the parent too, so look twice at what comes.

    Raises:
        BadTopic: it would mean something else on MQTT.
    """
    if any(character in topic for character in "/+#\0"):
        raise BadTopic(topic, "MQTT gives '/', '+' and '#' a meaning")
    levels = ("+" if level == topics.ANY else "#" if level == ">" else level for level in topic.split("."))
    return "/".join(levels)


def entry_key(topic: str, name: Name) -> str:
    """Where an event lies."""
    return f"{mqtt(topic)}/{name.sequence}-{name.id}"


def index_key(topic: str) -> str:
    """Where a write-once payload's index lies."""
    return INDEX + mqtt(topic)


def entries_filter(topic_filter: str) -> str:
    """MQTT filter of all entries under a filter of ours; what else it matches, `entry` tells."""
    if families.family_of(topic_filter).keep is Keep.FIRST:
        return index_key(topic_filter)
    return mqtt(topic_filter) if topic_filter.endswith(">") else f"{mqtt(topic_filter)}/#"


def entry(topic_filter: str, key: str, payload: bytes) -> Entry | None:
    """What a message under `entries_filter` is; None if it is no entry, or not under our filter."""
    if key.startswith(INDEX):
        return _indexed(topic_filter, key, payload)
    parent, _, last = key.rpartition("/")
    found = _ENTRY.fullmatch(last)
    topic = parent.replace("/", ".")
    if found is None or not filters.matches(topic_filter, topic):
        return None
    return Entry(key, topic, Name(int(found[1]), found[2]), unescaped(payload))


def bare(topic_filter: str, key: str) -> str | None:
    """The topic of an event that a plain MQTT client published; None if it is not one under our filter."""
    topic = key.replace("/", ".")
    return topic if filters.matches(topic_filter, topic) else None


def group_key(durable: str) -> str:
    """Where a durable's settings lie; what became of an event, at that event's key below it.

    Raises:
        BadTopic: that is no name for a durable.
    """
    if not _DURABLE.fullmatch(durable):
        raise BadTopic(durable, "use 1 to 64 of A-Z, a-z, 0-9, '_' and '-' for a durable")
    return GROUPS + durable


def escaped(payload: bytes) -> bytes:
    """A payload as it is sent: an empty retained message would be none."""
    return _ESCAPE + payload if not payload or payload.startswith(_ESCAPE) else payload


def unescaped(message: bytes) -> bytes:
    """The payload of a message."""
    return message.removeprefix(_ESCAPE)


def framed(name: Name, payload: bytes) -> bytes:
    """A value with its revision in front."""
    return b"fk %d %s\n" % (name.sequence, name.id.encode()) + payload


def unframed(topic: str, message: bytes) -> tuple[Value | Deleted, str]:
    """A value, or that there is none, and the id of whoever put it.

    A bare value, of a plain MQTT client, has its digest for a revision.
    """
    digest = hashlib.sha256(message).hexdigest()
    if not message:
        return Deleted(topic, 0), digest[:16]
    found = _VALUE.match(message)
    if found is None:
        return Value(topic, message, int(digest[:12], 16)), digest[:16]
    return Value(topic, message[found.end() :], int(found[1])), found[2].decode()


def _indexed(topic_filter: str, key: str, payload: bytes) -> Entry | None:
    topic = key.removeprefix(INDEX).replace("/", ".")
    try:
        index = msgspec.json.decode(payload, type=Index)
    except msgspec.DecodeError:
        return None
    if not filters.matches(topic_filter, topic):
        return None
    return Entry(key, topic, Name(index.sequence, index.id), payload)
