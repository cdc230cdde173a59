"""Every topic's name, built and parsed; `broker.families` says how the broker keeps what is published there.

A topic `fl.a.b` is the NATS subject `fl.a.b` and the MQTT topic `fl/a/b`. No other module builds a name or takes one
apart. A tenant's topics are the plain ones with `flt.<tenant>` in place of `fl`, for jobs, rounds, progress and models,
so that one right (`flt.acme.>`) covers them; the plain ones are the tenant `default`'s. Ids are unique over all
tenants.
"""

import itertools
import re
from typing import Final, NamedTuple

from broker.errors import BadTopic

ID_RULE: Final = "use 1 to 40 of a-z, 0-9 and '-'"
_ID: Final = re.compile(r"[a-z0-9-]{1,40}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")

ANY: Final = "*"
"""Stands for one level in a filter."""

DEFAULT_TENANT: Final = "default"
"""The tenant whose topics begin with `fl` alone."""


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

ALL_TASKS: Final = "fl.tasks.>"
"""Filter: every platform's tasks."""


class SubmissionTopic(NamedTuple):
    """What a submission's topic says; `job` is None where the server is to choose the id."""

    tenant: str
    job: str | None


class ClientTopic(NamedTuple):
    """What the topic of something of a platform's client says."""

    platform: str
    client: str


class UpdateTopic(NamedTuple):
    """What an update's topic says."""

    job: str
    round: int
    client: str
    attempt: int


class PresenceTopic(NamedTuple):
    """What the topic of a bridge's presence says."""

    platform: str
    bridge: str


class RequestTopic(NamedTuple):
    """What the topic of a request to a bridge says."""

    platform: str
    verb: str


def submit(tenant: str = DEFAULT_TENANT) -> str:
    """A submission whose id the server is to choose."""
    return f"{_root(tenant)}.jobs.submit"


def submission(job: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """A submission under an id that the submitter chose."""
    return f"{_root(tenant)}.jobs.{_part(job)}.submit"


def parse_submission(topic: str) -> SubmissionTopic:
    """What a topic of `submit` or `submission` says.

    Raises:
        BadTopic: it is another topic, or what stands for an id is not one.
    """
    tenant, levels = _of_tenant(topic)
    checked_id(tenant)
    if levels == ["jobs", "submit"]:
        return SubmissionTopic(tenant, None)
    (job,) = _parsed(topic, levels, "jobs", _ID, "submit")
    return SubmissionTopic(tenant, job)


def cancellation(job: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """A request to end a job."""
    return f"{_root(tenant)}.jobs.{_part(job)}.cancel"


def task(platform: str, client: str) -> str:
    """A round's task for one client."""
    return f"fl.tasks.{_part(platform)}.{_part(client)}"


def parse_task(topic: str) -> ClientTopic:
    """What a topic of `task` says.

    Raises:
        BadTopic: it is another topic.
    """
    platform, client = _parsed(topic, _plain(topic), "tasks", _ID, _ID)
    return ClientTopic(platform, client)


def platform_tasks(platform: str) -> str:
    """Filter: every task of one platform's clients."""
    return f"fl.tasks.{_part(platform)}.>"


def update(job: str, round_: int, client: str, attempt: int) -> str:
    """A client's update."""
    return f"fl.updates.{_part(job)}.{round_}.{_part(client)}.{attempt}"


def parse_update(topic: str) -> UpdateTopic:
    """What a topic of `update` says.

    Raises:
        BadTopic: it is another topic; also one whose numbers are written in another way (`+1`, `01`), which would be a
            second topic of the same update.
    """
    job, round_, client, attempt = _parsed(topic, _plain(topic), "updates", _ID, _NUMBER, _ID, _NUMBER)
    return UpdateTopic(job, int(round_), client, int(attempt))


def round_updates(job: str, round_: int) -> str:
    """Filter: every update of one round."""
    return f"fl.updates.{_part(job)}.{round_}.>"


def job_updates(job: str) -> str:
    """Filter: every update of one job."""
    return f"fl.updates.{_part(job)}.>"


def model(job: str, sha256: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """A model under its own digest."""
    return f"{_root(tenant)}.models.{_part(job)}.{sha256}"


def optimizer_state(job: str, client: str, round_: int, attempt: int) -> str:
    """Optimizer state that came with an update."""
    return f"fl.state.{_part(job)}.{_part(client)}.{round_}.{attempt}"


def job_states(job: str) -> str:
    """Filter: every optimizer state of one job."""
    return f"fl.state.{_part(job)}.>"


def job_record(job: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """The job's record: phase, round, model, cohort; moved by compare-and-set only."""
    return f"{_root(tenant)}.rounds.{_part(job)}"


def secret(job: str) -> str:
    """What the tokens of a job's rounds are made from; for servers only."""
    return f"fl.secrets.{_part(job)}"


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


def parse_fabric(topic: str) -> RequestTopic:
    """What a topic of `fabric` says.

    Raises:
        BadTopic: it is another topic.
    """
    platform, verb = _parsed(topic, _plain(topic), "fabric", _ID, _ID)
    return RequestTopic(platform, verb)


def reply(request: str) -> str:
    """The answer to one request."""
    return f"fl.replies.{_part(request)}"


def report(platform: str, client_id: str) -> str:
    """What a client's function said last of a task."""
    return f"fl.reports.{_part(platform)}.{_part(client_id)}"


def client_stats(platform: str, client_id: str) -> str:
    """How a client's invocations went so far on a platform."""
    return f"fl.tallies.{_part(platform)}.{_part(client_id)}"


def presence(platform: str, bridge: str) -> str:
    """Whether a platform's bridge is there."""
    return f"fl.presence.{_part(platform)}.{_part(bridge)}"


def parse_presence(topic: str) -> PresenceTopic:
    """What a topic of `presence` says.

    Raises:
        BadTopic: it is another topic.
    """
    platform, bridge = _parsed(topic, _plain(topic), "presence", _ID, _ID)
    return PresenceTopic(platform, bridge)


def progress(job: str, subject: str, verb: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """Something that a person may want to see."""
    return f"{_root(tenant)}.progress.{_part(job)}.{_part(subject)}.{_part(verb)}"


def job_progress(job: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """Filter: everything that happens to a job (`*`: to any job)."""
    return f"{_root(tenant)}.progress.{_part(job)}.>"


def dead(platform: str, client_id: str) -> str:
    """A task that was given up, with its reason."""
    return f"fl.dead.{_part(platform)}.{_part(client_id)}"


def chunk(topic: str, sha256: str, index: int) -> str:
    """One chunk of a payload that is too large for one message of `topic`; of the same tenant as that."""
    tenant, levels = _of_tenant(topic)
    return ".".join((_root(tenant), "chunks", *levels, sha256, str(index)))


def chunks_of(topic_filter: str) -> str:
    """Filter: every chunk under a topic, or under a filter that ends in `>`."""
    tenant, levels = _of_tenant(topic_filter)
    chunks = ".".join((_root(tenant), "chunks", *levels))
    return chunks if chunks.endswith(">") else f"{chunks}.>"


def _root(tenant: str) -> str:
    return "fl" if tenant == DEFAULT_TENANT else f"flt.{_part(tenant)}"


def _of_tenant(topic: str) -> tuple[str, list[str]]:
    """The tenant that a topic belongs to, and its levels behind `fl` or `flt.<tenant>`."""
    first, *levels = topic.split(".")
    if first == "flt" and levels and levels[0] != DEFAULT_TENANT:
        return levels[0], levels[1:]
    if first != "fl":
        raise BadTopic(topic, "it begins neither with fl nor with flt and a tenant")
    return DEFAULT_TENANT, levels


def _plain(topic: str) -> list[str]:
    """The levels behind `fl` of a topic that all tenants share."""
    first, *levels = topic.split(".")
    return levels if first == "fl" else []


def _parsed(topic: str, levels: list[str], *pattern: str | re.Pattern[str]) -> list[str]:
    """The levels that stand where the pattern has an expression and no text."""
    if len(levels) != len(pattern):
        raise BadTopic(topic, f"{len(pattern) + 1} levels are expected")
    found: list[str] = []
    for level, wanted in zip(levels, pattern, strict=True):
        if isinstance(wanted, str):
            if level != wanted:
                raise BadTopic(topic, f"{wanted!r} is expected where {level!r} stands")
        elif not wanted.fullmatch(level):
            raise BadTopic(level, ID_RULE if wanted is _ID else "use a whole number without a sign or leading zeros")
        else:
            found.append(level)
    return found


def _part(level: str) -> str:
    return level if level == ANY else checked_id(level)
