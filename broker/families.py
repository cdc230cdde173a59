"""How the broker keeps what is published: one row for each family of topics, and all that is said of it.

A new family is one row; brokers, relays and documents of rights derive what they do from the columns.
"""

import enum
from dataclasses import dataclass
from typing import Final

from broker import topics
from broker.errors import BadTopic


class Keep(enum.Enum):
    """What the broker does with a payload once it has it."""

    LOG = "log"  # every payload in order, replayable
    QUEUE = "queue"  # until one consumer has acknowledged it
    FIRST = "first"  # the first payload per topic; later ones are dropped. Readable by topic and as a log
    LAST = "last"  # the last payload per topic, with a revision for compare-and-set
    INBOX = "inbox"  # a log that any client may write to, and that a requester may get an answer from


class Writer(enum.Enum):
    """Who publishes there; rights are granted by it."""

    ANYONE = "anyone"
    OPERATOR = "operator"
    SERVER = "server"
    BRIDGE = "bridge"
    FUNCTION = "function"


class Relayed(enum.Enum):
    """Whether a relay carries it between a site's broker and the backbone."""

    NO = "no"
    DOWN = "down"  # from the backbone to the site, as it comes
    BLOB = "blob"  # from the backbone to the site, when a task or a request names it
    UP = "up"  # from the site to the backbone


_DAY: Final = 86_400.0
_MB: Final = 1 << 20
_CLOUD_EVENT: Final = "application/cloudevents+json"

ROOM: Final = 128 * _MB
"""Room for a family of small messages. Bounds keep one family from taking another's place; NATS reserves the space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Topics that are kept alike; a row of FAMILIES is all that is said of them.

    Attributes:
        name: unique; backends name what they keep the family in by it.
        filters: which topics belong to it.
        keep: what the broker does with a payload.
        max_age_s: payloads older than that are forgotten; 0: never. Seconds.
        max_bytes: how much may lie there; None: as much as the broker has room for. Reserving for each family of
            weights what one of them may need would ask for more than disks have.
        by_digest: a topic names the digest of its payload, so whoever writes it writes the same.
        relaxed: the last second may be lost with the broker's machine: each payload is soon followed by a newer one.
        writers: who publishes there.
        relayed: whether a relay carries it.
        content_type: media type of what our programs publish there, for brokers that pass one on; empty: they say none.
    """

    name: str
    filters: tuple[str, ...]
    keep: Keep
    writers: tuple[Writer, ...]
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
        max_age_s=7 * _DAY,
        max_bytes=32 * _MB,
    ),
    Family(
        name="JOBS",
        filters=("fl.jobs.*.submit", "fl.jobs.*.cancel", "flt.*.jobs.*.submit", "flt.*.jobs.*.cancel"),
        keep=Keep.LOG,
        writers=(Writer.ANYONE,),
        max_age_s=30 * _DAY,
        max_bytes=32 * _MB,
        content_type=_CLOUD_EVENT,
    ),
    Family(
        name="TASKS",
        filters=("fl.tasks.>",),
        keep=Keep.QUEUE,
        writers=(Writer.SERVER,),
        max_age_s=7 * _DAY,
        relayed=Relayed.DOWN,
        content_type=_CLOUD_EVENT,
    ),
    Family(
        name="UPDATES",
        filters=("fl.updates.>",),
        keep=Keep.FIRST,
        writers=(Writer.FUNCTION, Writer.BRIDGE),
        max_age_s=7 * _DAY,
        max_bytes=None,
        relayed=Relayed.UP,
    ),
    Family(
        name="MODELS",
        filters=("fl.models.>", "flt.*.models.>"),
        keep=Keep.FIRST,
        writers=(Writer.SERVER,),
        max_bytes=None,
        by_digest=True,
        relayed=Relayed.BLOB,
    ),
    Family(
        name="STATE",
        filters=("fl.state.>",),
        keep=Keep.FIRST,
        writers=(Writer.FUNCTION, Writer.BRIDGE),
        max_bytes=None,
        relayed=Relayed.BLOB,
    ),
    Family(
        name="SECRETS",
        filters=("fl.secrets.*",),
        keep=Keep.FIRST,
        writers=(Writer.SERVER,),
        max_bytes=None,
    ),
    Family(
        name="CHUNKS",
        filters=("fl.chunks.>", "flt.*.chunks.>"),
        keep=Keep.FIRST,
        writers=(Writer.OPERATOR, Writer.SERVER, Writer.BRIDGE, Writer.FUNCTION),
        max_bytes=None,
        by_digest=True,
    ),
    Family(
        name="PACKAGES",
        filters=("fl.packages.*",),
        keep=Keep.FIRST,
        writers=(Writer.OPERATOR,),
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
        max_age_s=_DAY,
        relayed=Relayed.DOWN,
        max_bytes=32 * _MB,
    ),
    Family(
        name="REPLIES",
        filters=("fl.replies.*",),
        keep=Keep.LOG,
        writers=(Writer.BRIDGE,),
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
        max_age_s=30 * _DAY,
        max_bytes=32 * _MB,
        relayed=Relayed.UP,
    ),
)


def family_of(topic: str) -> Family:
    """The family that a topic or filter belongs to.

    Raises:
        BadTopic: nothing of ours is kept under that name.
    """
    for family in FAMILIES:
        if any(topics.matches(pattern, topic) for pattern in family.filters):
            return family
    raise BadTopic(topic, "it is in none of the families of broker.families.FAMILIES")
