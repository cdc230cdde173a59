"""Every topic's name, and how long the broker keeps what is published there.

A topic `fl.a.b` is the NATS subject `fl.a.b` and the MQTT topic `fl/a/b`. No other module builds a name.
"""

import enum
import itertools
import re
from dataclasses import dataclass
from typing import Final

from broker.errors import BadTopic

ID_RULE: Final = "use 1 to 40 of a-z, 0-9 and '-'"
_ID: Final = re.compile(r"[a-z0-9-]{1,40}")

ANY: Final = "*"
"""Stands for one level in a filter."""


class Keep(enum.Enum):
    """What the broker does with a payload once it has it."""

    LOG = "log"  # every payload in order, replayable
    QUEUE = "queue"  # until one consumer has acknowledged it
    FIRST = "first"  # the first payload per topic; later ones are dropped. Readable by topic and as a log
    LAST = "last"  # the last payload per topic, with a revision for compare-and-set
    INBOX = "inbox"  # a log that any client may write to, and that a requester may get an answer from


@dataclass(frozen=True, slots=True)
class Family:
    """Topics that are kept alike.

    Attributes:
        content_type: media type of what our programs publish there, for brokers that pass one on; empty: they say none.
    """

    name: str
    filters: tuple[str, ...]
    keep: Keep
    max_age_s: float = 0.0
    content_type: str = ""


_DAY: Final = 86_400.0
_CLOUD_EVENT: Final = "application/cloudevents+json"

FAMILIES: Final = (
    Family("SUBMIT", ("fl.jobs.submit",), Keep.INBOX, 7 * _DAY),
    Family("JOBS", ("fl.jobs.*.submit", "fl.jobs.*.cancel"), Keep.LOG, 30 * _DAY, content_type=_CLOUD_EVENT),
    Family("TASKS", ("fl.tasks.>",), Keep.QUEUE, 7 * _DAY, content_type=_CLOUD_EVENT),
    Family("UPDATES", ("fl.updates.>",), Keep.FIRST, 7 * _DAY),
    Family("MODELS", ("fl.models.>",), Keep.FIRST),
    Family("STATE", ("fl.state.>",), Keep.FIRST),
    Family("CHUNKS", ("fl.chunks.>",), Keep.FIRST),
    Family("PACKAGES", ("fl.packages.*",), Keep.FIRST, 30 * _DAY),
    Family(
        "VALUES",
        ("fl.rounds.*", "fl.clients.*", "fl.functions.*.*", "fl.reports.*.*", "fl.tallies.*", "fl.presence.*"),
        Keep.LAST,
    ),
    Family("FABRIC", ("fl.fabric.*.*",), Keep.QUEUE, _DAY),
    Family("REPLIES", ("fl.replies.*",), Keep.LOG, _DAY / 24),
    Family("INVOCATIONS", ("fl.invocations.>",), Keep.LOG, 7 * _DAY, content_type=_CLOUD_EVENT),
    Family("PROGRESS", ("fl.progress.>",), Keep.LOG, 30 * _DAY, content_type=_CLOUD_EVENT),
    Family("DEAD", ("fl.dead.>",), Keep.LOG, 30 * _DAY),
)


def family_of(topic: str) -> Family:
    """The family that a topic or filter belongs to.

    Raises:
        BadTopic: nothing of ours is kept under that name.
    """
    for family in FAMILIES:
        if any(matches(pattern, topic) for pattern in family.filters):
            return family
    raise BadTopic(topic, "it is in none of the families of broker.topics.FAMILIES")


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic (or a narrower filter) lies under a pattern with `*` (one level) and `>` (the rest)."""
    wanted, got = pattern.split("."), topic.split(".")
    for i, level in enumerate(wanted):
        if level == ">":
            return len(got) > i
        if i >= len(got) or (level not in (ANY, got[i])) or (level == ANY and got[i] == ">"):
            return False
    return len(got) == len(wanted)


def overlap(one: str, other: str) -> bool:
    """Whether a topic could lie under both filters."""
    for a, b in itertools.zip_longest(one.split("."), other.split(".")):
        if a is None or b is None:
            return False
        if ">" in (a, b):
            return True
        if a != b and ANY not in (a, b):
            return False
    return True


def checked_id(name: str) -> str:
    """The id itself, if it is one.

    Raises:
        BadTopic: it has characters that a topic or a function name can't have.
    """
    if not _ID.fullmatch(name):
        raise BadTopic(name, ID_RULE)
    return name


SUBMIT: Final = "fl.jobs.submit"
"""Where anyone may publish a bare JSON job object."""


def submission(job: str) -> str:
    """A submission under an id that the submitter chose."""
    return f"fl.jobs.{_part(job)}.submit"


def cancellation(job: str) -> str:
    """A request to end a job."""
    return f"fl.jobs.{_part(job)}.cancel"


def task(platform: str, client: str) -> str:
    """A round's task for one client."""
    return f"fl.tasks.{_part(platform)}.{_part(client)}"


def platform_tasks(platform: str) -> str:
    """Filter: every task of one platform's clients."""
    return f"fl.tasks.{_part(platform)}.>"


def update(job: str, round_: int, client: str, attempt: int) -> str:
    """A client's update."""
    return f"fl.updates.{_part(job)}.{round_}.{_part(client)}.{attempt}"


def round_updates(job: str, round_: int) -> str:
    """Filter: every update of one round."""
    return f"fl.updates.{_part(job)}.{round_}.>"


def job_updates(job: str) -> str:
    """Filter: every update of one job."""
    return f"fl.updates.{_part(job)}.>"


def model(job: str, sha256: str) -> str:
    """A model under its own digest."""
    return f"fl.models.{_part(job)}.{sha256}"


def optimizer_state(job: str, client: str, round_: int, attempt: int) -> str:
    """Optimizer state that came with an update."""
    return f"fl.state.{_part(job)}.{_part(client)}.{round_}.{attempt}"


def job_states(job: str) -> str:
    """Filter: every optimizer state of one job."""
    return f"fl.state.{_part(job)}.>"


def pointer(job: str) -> str:
    """The job's record: phase, round, model, cohort; moved by compare-and-set only."""
    return f"fl.rounds.{_part(job)}"


def client(client_id: str) -> str:
    """One entry of the client register."""
    return f"fl.clients.{_part(client_id)}"


def invocation(platform: str, client_id: str) -> str:
    """What became of a client's invocations."""
    return f"fl.invocations.{_part(platform)}.{_part(client_id)}"


def package(sha256: str) -> str:
    """An archive of functions' code, under its own digest."""
    return f"fl.packages.{sha256}"


def function(platform: str, client_id: str) -> str:
    """A client's function as it should be on a platform."""
    return f"fl.functions.{_part(platform)}.{_part(client_id)}"


def fabric(platform: str, verb: str) -> str:
    """A request to a platform's bridge (`*`: any verb)."""
    return f"fl.fabric.{_part(platform)}.{_part(verb)}"


def reply(request: str) -> str:
    """The answer to one request."""
    return f"fl.replies.{_part(request)}"


def report(platform: str, client_id: str) -> str:
    """What a client's function said last of a task."""
    return f"fl.reports.{_part(platform)}.{_part(client_id)}"


def tally(client_id: str) -> str:
    """How a client's invocations went so far."""
    return f"fl.tallies.{_part(client_id)}"


def presence(bridge: str) -> str:
    """Whether a bridge is there."""
    return f"fl.presence.{_part(bridge)}"


def progress(job: str, subject: str, verb: str) -> str:
    """Something that a person may want to see."""
    return f"fl.progress.{_part(job)}.{_part(subject)}.{_part(verb)}"


def job_progress(job: str) -> str:
    """Filter: everything that happens to a job (`*`: to any job)."""
    return f"fl.progress.{_part(job)}.>"


def dead(platform: str, client_id: str) -> str:
    """A task that was given up, with its reason."""
    return f"fl.dead.{_part(platform)}.{_part(client_id)}"


def chunk(topic: str, sha256: str, index: int) -> str:
    """One chunk of a payload that is too large for one message of `topic`."""
    return f"fl.chunks.{topic.removeprefix('fl.')}.{sha256}.{index}"


def chunks_of(topic_filter: str) -> str:
    """Filter: every chunk under a topic, or under a filter that ends in `>`."""
    rest = topic_filter.removeprefix("fl.")
    return f"fl.chunks.{rest}" if rest.endswith(">") else f"fl.chunks.{rest}.>"


def _part(level: str) -> str:
    return level if level == ANY else checked_id(level)
