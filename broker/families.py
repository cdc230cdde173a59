"""The table of topic families: how the broker keeps each one, for how long, how large, and who may write it.

Brokers and relays use the columns, so a new family is one row. Tests compare docs/edge.md and docs/nats.md with them.
"""

import enum
import functools
from dataclasses import dataclass
from typing import Final

from broker.errors import BadTopic
from broker.support import filters


class Keep(enum.Enum):
    """Which payloads the broker keeps."""

    LOG = "log"  # every payload, in order; can be replayed
    QUEUE = "queue"  # every payload until one consumer has acknowledged it
    FIRST = "first"  # the first payload of each topic; later ones are dropped. Readable by topic and as a log
    LAST = "last"  # the last payload of each topic, with a revision for compare-and-set
    INBOX = "inbox"  # a log to which any client may publish, also as a request that gets a reply


class Writer(enum.Enum):
    """The roles that publish to topics; permissions are granted by role."""

    ANYONE = "anyone"
    OPERATOR = "operator"
    SERVER = "server"
    BRIDGE = "bridge"
    FUNCTION = "function"


class Relayed(enum.Enum):
    """Whether and how a relay forwards a family between a site's broker and the backbone."""

    NO = "no"
    DOWN = "down"  # from the backbone to the site, every payload
    BLOB = "blob"  # from the backbone to the site, only when a task or a request refers to it
    UP = "up"  # from the site to the backbone


_DAY: Final = 86_400.0
_MB: Final = 1 << 20
_CLOUD_EVENT: Final = "application/cloudevents+json"

RESERVE_BYTES: Final = 16 * _MB
"""Room that a NATS server keeps for records, events and requests when weights have filled the rest of the store."""

SMALL: Final = 64 << 10
"""Largest payload of messages about one client; no family takes less."""

ROOM: Final = 128 * _MB
"""Default size limit of a family. Limits keep one family from filling the space of another; NATS reserves them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A set of topics that the broker keeps in the same way.

    Attributes:
        name: unique name; backends derive the names of their stores from it.
        filters: filters for the topics of the family.
        keep: which payloads the broker keeps.
        writers: the roles that publish to the topics.
        max_age_s: age after which payloads are deleted, in seconds; 0 for never.
        max_payload: largest payload of a topic in bytes, for writers and readers: whoever may write a small message
            must not make its readers fetch gigabytes. None: as large as weights are.
        max_bytes: size limit; None for no limit but the disk. Families of weights have none: the sum of what each
            of them might need is larger than the disk. All others may use the room of `RESERVE`.
        by_digest: the topic contains the digest of the payload, so all writers of a topic write the same bytes.
        relaxed: the writes of the last second may be lost in a crash, because a newer payload follows soon.
        relayed: whether and how a relay forwards the family.
        content_type: media type of the payloads, for brokers that transmit one; empty for none.
    """

    name: str
    filters: tuple[str, ...]
    keep: Keep
    writers: tuple[Writer, ...]
    max_payload: int | None = SMALL
    max_age_s: float = 0.0
    max_bytes: int | None = ROOM
    by_digest: bool = False
    relaxed: bool = False
    relayed: Relayed = Relayed.NO
    content_type: str = ""


FAMILIES: Final = (
    Family(
        name="SUBMIT",
        filters=("fl.jobs.submit", "flt.*.jobs.submit"),
        keep=Keep.INBOX,
        writers=(Writer.ANYONE,),
        max_payload=_MB,
        max_age_s=7 * _DAY,
        max_bytes=32 * _MB,
    ),
    Family(
        name="JOBS",
        filters=("fl.jobs.*.submit", "fl.jobs.*.cancel", "flt.*.jobs.*.submit", "flt.*.jobs.*.cancel"),
        keep=Keep.LOG,
        writers=(Writer.ANYONE,),
        max_payload=_MB,
        max_age_s=30 * _DAY,
        max_bytes=32 * _MB,
        content_type=_CLOUD_EVENT,
    ),
    Family(
        name="TASKS",
        filters=("fl.tasks.>",),
        keep=Keep.QUEUE,
        writers=(Writer.SERVER,),
        max_payload=_MB,
        max_age_s=7 * _DAY,
        relayed=Relayed.DOWN,
        content_type=_CLOUD_EVENT,
    ),
    Family(
        name="UPDATES",
        filters=("fl.updates.>",),
        keep=Keep.FIRST,
        writers=(Writer.FUNCTION, Writer.BRIDGE),
        max_payload=None,
        max_age_s=7 * _DAY,
        max_bytes=None,
        relayed=Relayed.UP,
    ),
    Family(
        name="MODELS",
        filters=("fl.models.>", "flt.*.models.>"),
        keep=Keep.FIRST,
        writers=(Writer.SERVER,),
        max_payload=None,
        max_bytes=None,
        by_digest=True,
        relayed=Relayed.BLOB,
    ),
    Family(
        name="STATE",
        filters=("fl.state.>",),
        keep=Keep.FIRST,
        writers=(Writer.FUNCTION, Writer.BRIDGE),
        max_payload=None,
        max_bytes=None,
        relayed=Relayed.BLOB,
    ),
    Family(
        name="SECRETS",
        filters=("fl.secrets.*",),
        keep=Keep.FIRST,
        writers=(Writer.SERVER,),
        max_bytes=16 * _MB,
    ),
    Family(
        name="CHUNKS",
        filters=("fl.chunks.>", "flt.*.chunks.>"),
        keep=Keep.FIRST,
        writers=(Writer.OPERATOR, Writer.SERVER, Writer.BRIDGE, Writer.FUNCTION),
        max_payload=None,
        max_bytes=None,
        by_digest=True,
    ),
    Family(
        name="PACKAGES",
        filters=("fl.packages.*",),
        keep=Keep.FIRST,
        writers=(Writer.OPERATOR,),
        max_payload=None,
        max_age_s=30 * _DAY,
        max_bytes=None,
        by_digest=True,
        relayed=Relayed.BLOB,
    ),
    Family(
        name="RECORDS",
        filters=("fl.rounds.*", "flt.*.rounds.*"),
        keep=Keep.LAST,
        writers=(Writer.SERVER,),
        max_payload=32 * _MB,  # 20,000 clients need 1.4 MB; with labels and states more
        max_bytes=64 * _MB,
    ),
    Family(
        name="REGISTER",
        filters=("fl.clients.*", "fl.functions.*.*"),
        keep=Keep.LAST,
        writers=(Writer.OPERATOR, Writer.BRIDGE),
        relayed=Relayed.UP,
        max_bytes=64 * _MB,
    ),
    Family(
        name="STATUS",
        filters=("fl.reports.*.*", "fl.tallies.*.*", "fl.presence.*.*"),
        keep=Keep.LAST,
        writers=(Writer.BRIDGE, Writer.FUNCTION),
        relaxed=True,
        relayed=Relayed.UP,
        max_bytes=32 * _MB,
    ),
    Family(
        name="FABRIC",
        filters=("fl.fabric.*.*",),
        keep=Keep.QUEUE,
        writers=(Writer.OPERATOR,),
        max_payload=2 * SMALL,  # one function, and what it is to become
        max_age_s=_DAY,
        relayed=Relayed.DOWN,
        max_bytes=32 * _MB,
    ),
    Family(
        name="REPLIES",
        filters=("fl.replies.*",),
        keep=Keep.LOG,
        writers=(Writer.BRIDGE,),
        max_payload=16 * _MB,  # a list of 20,000 functions
        max_age_s=_DAY / 24,
        relayed=Relayed.UP,
        max_bytes=32 * _MB,
    ),
    Family(
        name="INVOCATIONS",
        filters=("fl.invocations.>",),
        keep=Keep.LOG,
        writers=(Writer.BRIDGE,),
        max_age_s=7 * _DAY,
        relayed=Relayed.UP,
        content_type=_CLOUD_EVENT,
    ),
    Family(
        name="PROGRESS",
        filters=("fl.progress.>", "flt.*.progress.>"),
        keep=Keep.LOG,
        writers=(Writer.SERVER,),
        max_payload=8 * _MB,  # the names of 20,000 clients, or of a model's tensors
        max_age_s=30 * _DAY,
        max_bytes=256 * _MB,
        relayed=Relayed.DOWN,
        content_type=_CLOUD_EVENT,
    ),
    Family(
        name="DEAD",
        filters=("fl.dead.>",),
        keep=Keep.LOG,
        writers=(Writer.BRIDGE,),
        max_payload=2 * _MB,  # a task, and why it was given up
        max_age_s=30 * _DAY,
        max_bytes=32 * _MB,
        relayed=Relayed.UP,
    ),
    Family(
        name="RESERVE",
        filters=("fl.reserve",),
        keep=Keep.LOG,
        writers=(Writer.SERVER,),
        max_bytes=2 * RESERVE_BYTES,
        max_payload=_MB,
    ),
)


def is_of_weights(topic: str) -> bool:
    """Return whether a topic's payloads are models, updates and states, or parts of them: what can fill a disk.

    Raises:
        BadTopic: the topic belongs to no family.
    """
    return family_of(topic).max_bytes is None


def _kind_of(topic: str) -> str:
    """Return the level that tells most families apart: the one behind `fl` or `flt.<tenant>`."""
    levels = topic.split(".", 3)
    place = 2 if levels[0] == "flt" else 1
    return levels[place] if place < len(levels) else ""


def _by_kind() -> dict[str, list[tuple[str, Family]]]:
    found: dict[str, list[tuple[str, Family]]] = {}
    for family in FAMILIES:
        for pattern in family.filters:
            found.setdefault(_kind_of(pattern), []).append((pattern, family))
    return found


_BY_KIND: Final = _by_kind()
"""Filters and their families by what `_kind_of` tells: a topic is compared with one or two of them, not with all."""


@functools.lru_cache(maxsize=4096)
def family_of(topic: str) -> Family:
    """Return the family of a topic or filter. Cached: a topic is asked for some ten times in its round.

    Raises:
        BadTopic: the topic belongs to no family.
    """
    for pattern, family in _BY_KIND.get(_kind_of(topic), ()):
        if filters.matches(pattern, topic):
            return family
    raise BadTopic(topic, "it is in none of the families of broker.families.FAMILIES")
