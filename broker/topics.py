"""Builds and parses every topic name; `broker.families` says how the broker keeps each topic.

The topic `fl.a.b` is the NATS subject `fl.a.b` and the MQTT topic `fl/a/b`. No other module builds or parses names.
Jobs, rounds, progress and models of a tenant begin with `flt.<tenant>` instead of `fl`, so that one permission
(`flt.acme.>`) covers them; those of the tenant `default` begin with `fl`. Ids are unique across all tenants.
"""

import re
from typing import Final, NamedTuple

from broker.errors import BadTopic
from broker.support import filters

MAX_ID: Final = 40
"""Longest id. Characters."""

ID_RULE: Final = f"use 1 to {MAX_ID} of a-z, 0-9 and '-'"
_ID: Final = re.compile(rf"[a-z0-9-]{{1,{MAX_ID}}}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")

ANY: Final = filters.ANY  # every builder accepts it in place of an id

DEFAULT_TENANT: Final = "default"
"""The tenant whose topics begin with `fl` alone."""

SUBMIT: Final = "fl.jobs.submit"
"""Topic to which anyone may publish a JSON job object."""

RESERVE: Final = "fl.reserve"
"""Topic of what only takes up room, until a record or an event needs it."""

ALL_UPDATES: Final = "fl.updates.>"
ALL_STATES: Final = "fl.state.>"
ALL_MODELS: Final = "fl.models.>"

ALL_TASKS: Final = "fl.tasks.>"
"""Filter for the tasks of all platforms."""


class SubmissionTopic(NamedTuple):
    """The parts of a submission's topic; `job` is None if the server chooses the id."""

    tenant: str
    job: str | None


class ClientTopic(NamedTuple):
    """The parts of a task's topic."""

    platform: str
    client: str


class UpdateTopic(NamedTuple):
    """The parts of an update's topic."""

    job: str
    round: int
    client: str
    attempt: int


class PresenceTopic(NamedTuple):
    """The parts of the topic of a bridge's presence."""

    platform: str
    bridge: str


class RequestTopic(NamedTuple):
    """The parts of the topic of a request to a bridge."""

    platform: str
    verb: str


def checked_id(name: str) -> str:
    """Return the id unchanged after checking it.

    Raises:
        BadTopic: the id has characters that a topic or a function name can't have.
    """
    if not _ID.fullmatch(name):
        raise BadTopic(name, ID_RULE)
    return name


def submission(job: str | None = None, *, tenant: str = DEFAULT_TENANT) -> str:
    """Return the topic to which a job is submitted.

    Args:
        job: id of the job; None if the server chooses it.
        tenant: the tenant that owns the job.
    """
    return f"{_root(tenant)}.jobs.submit" if job is None else f"{_root(tenant)}.jobs.{_checked_level(job)}.submit"


def parse_submission(topic: str) -> SubmissionTopic:
    """Parse a topic of `submission`.

    Raises:
        BadTopic: it is another topic, or an id in it is not valid.
    """
    tenant, levels = _split_tenant(topic)
    checked_id(tenant)
    if levels == ["jobs", "submit"]:
        return SubmissionTopic(tenant, None)
    (job,) = _parse(topic, levels, "jobs", _ID, "submit")
    return SubmissionTopic(tenant, job)


def cancellation(job: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """Return the topic of requests to cancel a job.

    Args:
        job: id of the job.
        tenant: the tenant that owns the job.
    """
    return f"{_root(tenant)}.jobs.{_checked_level(job)}.cancel"


def task(platform: str, client: str) -> str:
    """Return the topic of a client's round tasks.

    Args:
        platform: id of the client's platform.
        client: id of the client.
    """
    return f"fl.tasks.{_checked_level(platform)}.{_checked_level(client)}"


def parse_task(topic: str) -> ClientTopic:
    """Parse a topic of `task`.

    Raises:
        BadTopic: it is another topic.
    """
    platform, client = _parse(topic, _fl_levels(topic), "tasks", _ID, _ID)
    return ClientTopic(platform, client)


def platform_tasks(platform: str) -> str:
    """Return the filter for all tasks of one platform."""
    return f"fl.tasks.{_checked_level(platform)}.>"


def update(job: str, round_: int, client: str, attempt: int) -> str:
    """Return the topic of a client's update.

    Args:
        job: id of the job.
        round_: number of the round.
        client: id of the client.
        attempt: number of the attempt.
    """
    return f"fl.updates.{_checked_level(job)}.{round_}.{_checked_level(client)}.{attempt}"


def parse_update(topic: str) -> UpdateTopic:
    """Parse a topic of `update`.

    Raises:
        BadTopic: it is another topic, or a number has a sign or leading zeros: a second topic of the same update.
    """
    job, round_, client, attempt = _parse(topic, _fl_levels(topic), "updates", _ID, _NUMBER, _ID, _NUMBER)
    return UpdateTopic(job, int(round_), client, int(attempt))


def round_updates(job: str, round_: int) -> str:
    """Return the filter for all updates of one round.

    Args:
        job: id of the job.
        round_: number of the round.
    """
    return f"fl.updates.{_checked_level(job)}.{round_}.>"


def job_updates(job: str) -> str:
    """Return the filter for all updates of one job."""
    return f"fl.updates.{_checked_level(job)}.>"


def model(job: str, sha256: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """Return the topic of a model's weights.

    Args:
        job: id of the job.
        sha256: digest of the weights, in hex.
        tenant: the tenant that owns the job.
    """
    return f"{_root(tenant)}.models.{_checked_level(job)}.{sha256}"


def job_models(job: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """Return the filter for all models of one job.

    Args:
        job: id of the job.
        tenant: the tenant that owns the job.
    """
    return f"{_root(tenant)}.models.{_checked_level(job)}.>"


def client_state(job: str, client: str, round_: int, attempt: int, name: str | None) -> str:
    """Return the topic of a client state that an update names.

    Args:
        job: id of the job.
        client: id of the client.
        round_: number of the round.
        attempt: number of the attempt.
        name: name of the state, such as `opt`; None: the topic of older versions, whose only state had no name.
    """
    last = "" if name is None else f".{_checked_level(name)}"
    return f"fl.state.{_checked_level(job)}.{_checked_level(client)}.{round_}.{attempt}{last}"


def job_states(job: str) -> str:
    """Return the filter for all client states of one job."""
    return f"fl.state.{_checked_level(job)}.>"


def job_record(job: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """Return the topic of a job's record (phase, round, model, cohort), which only compare-and-set changes.

    Args:
        job: id of the job.
        tenant: the tenant that owns the job.
    """
    return f"{_root(tenant)}.rounds.{_checked_level(job)}"


def secret(job: str) -> str:
    """Return the topic of the secret from which a job's round tokens are derived; only servers may read it."""
    return f"fl.secrets.{_checked_level(job)}"


def client(client_id: str) -> str:
    """Return the topic of a client's entry in the register."""
    return f"fl.clients.{_checked_level(client_id)}"


def invocation(platform: str, client_id: str) -> str:
    """Return the topic of the events of a client's invocations.

    Args:
        platform: id of the client's platform.
        client_id: id of the client.
    """
    return f"fl.invocations.{_checked_level(platform)}.{_checked_level(client_id)}"


def package(sha256: str) -> str:
    """Return the topic of an archive of function code, by its digest in hex."""
    return f"fl.packages.{sha256}"


def function(platform: str, client_id: str) -> str:
    """Return the topic of the desired state of a client's function.

    Args:
        platform: id of the platform that hosts the function.
        client_id: id of the client.
    """
    return f"fl.functions.{_checked_level(platform)}.{_checked_level(client_id)}"


def fabric(platform: str, verb: str) -> str:
    """Return the topic of a request to a platform's bridge.

    Args:
        platform: id of the platform.
        verb: the kind of request; `*` for any.
    """
    return f"fl.fabric.{_checked_level(platform)}.{_checked_level(verb)}"


def parse_fabric(topic: str) -> RequestTopic:
    """Parse a topic of `fabric`.

    Raises:
        BadTopic: it is another topic.
    """
    platform, verb = _parse(topic, _fl_levels(topic), "fabric", _ID, _ID)
    return RequestTopic(platform, verb)


def reply(request: str) -> str:
    """Return the topic of the reply to a request, by the request's id."""
    return f"fl.replies.{_checked_level(request)}"


def report(platform: str, client_id: str) -> str:
    """Return the topic of the last report of a client's function.

    Args:
        platform: id of the client's platform.
        client_id: id of the client.
    """
    return f"fl.reports.{_checked_level(platform)}.{_checked_level(client_id)}"


def client_stats(platform: str, client_id: str) -> str:
    """Return the topic of the statistics of a client's invocations (`tallies` is the wire's word, from version 0.1).

    Args:
        platform: id of the client's platform.
        client_id: id of the client.
    """
    return f"fl.tallies.{_checked_level(platform)}.{_checked_level(client_id)}"


def presence(platform: str, bridge: str) -> str:
    """Return the topic on which a bridge publishes whether it is online.

    Args:
        platform: id of the bridge's platform.
        bridge: id of the bridge.
    """
    return f"fl.presence.{_checked_level(platform)}.{_checked_level(bridge)}"


def parse_presence(topic: str) -> PresenceTopic:
    """Parse a topic of `presence`.

    Raises:
        BadTopic: it is another topic.
    """
    platform, bridge = _parse(topic, _fl_levels(topic), "presence", _ID, _ID)
    return PresenceTopic(platform, bridge)


def progress(job: str, subject: str, verb: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """Return the topic of a progress event.

    Args:
        job: id of the job.
        subject: the kind of object that the event is about, such as `round`.
        verb: the event, such as `completed`.
        tenant: the tenant that owns the job.
    """
    return f"{_root(tenant)}.progress.{_checked_level(job)}.{_checked_level(subject)}.{_checked_level(verb)}"


def job_progress(job: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """Return the filter for all progress events of a job.

    Args:
        job: id of the job; `*` for any.
        tenant: the tenant that owns the job; `*` for any but `default`.
    """
    return f"{_root(tenant)}.progress.{_checked_level(job)}.>"


def dead(platform: str, client_id: str) -> str:
    """Return the topic of tasks that a bridge gave up, with the reason.

    Args:
        platform: id of the client's platform.
        client_id: id of the client.
    """
    return f"fl.dead.{_checked_level(platform)}.{_checked_level(client_id)}"


def chunk(topic: str, sha256: str, index: int) -> str:
    """Return the topic of one chunk of a large payload; it belongs to the same tenant as the payload.

    Args:
        topic: the payload's topic.
        sha256: digest of the payload, in hex.
        index: number of the chunk, from 0.
    """
    tenant, levels = _split_tenant(topic)
    return ".".join((_root(tenant), "chunks", *levels, sha256, str(index)))


def chunks_of(topic_filter: str) -> str:
    """Return the filter for all chunks of a topic, or of a filter that ends in `>`."""
    tenant, levels = _split_tenant(topic_filter)
    return ".".join((_root(tenant), "chunks", *levels)).removesuffix(".>") + ".>"


def payload_of_chunk(topic: str) -> str:
    """Return the topic of the payload that a chunk is a part of.

    Args:
        topic: a topic of `chunk`.
    """
    tenant, levels = _split_tenant(topic)
    return ".".join((_root(tenant), *levels[1:-2]))


def _root(tenant: str) -> str:
    return "fl" if tenant == DEFAULT_TENANT else f"flt.{_checked_level(tenant)}"


def _split_tenant(topic: str) -> tuple[str, list[str]]:
    """Return a topic's tenant, and the levels after `fl` or `flt.<tenant>`."""
    first, *levels = topic.split(".")
    if first == "flt" and levels and levels[0] != DEFAULT_TENANT:
        return levels[0], levels[1:]
    if first != "fl":
        raise BadTopic(topic, "it begins neither with fl nor with flt and a tenant")
    return DEFAULT_TENANT, levels


def _fl_levels(topic: str) -> list[str]:
    first, *levels = topic.split(".")
    return levels if first == "fl" else []


def _parse(topic: str, levels: list[str], *pattern: str | re.Pattern[str]) -> list[str]:
    """Match levels against fixed texts and expressions; return the levels that match an expression."""
    if len(levels) != len(pattern):
        raise BadTopic(topic, f"{len(pattern) + 1} levels are expected")
    values: list[str] = []
    for level, expected in zip(levels, pattern, strict=True):
        if isinstance(expected, str):
            if level != expected:
                raise BadTopic(topic, f"{expected!r} is expected where {level!r} stands")
        elif not expected.fullmatch(level):
            raise BadTopic(level, ID_RULE if expected is _ID else "use a whole number without a sign or leading zeros")
        else:
            values.append(level)
    return values


def _checked_level(level: str) -> str:
    return level if level == ANY else checked_id(level)
