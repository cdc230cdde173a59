"""Who is invited to a round. Pure: the register's entries in, members out."""

import random
from collections.abc import Callable, Iterable

from broker.messages.job import Job
from broker.messages.job_record import Member
from broker.messages.register import ClientRecord
from broker.messages.round import seed

DATA_LABEL = "data"
"""Label of the register that says which deal a client's shard is part of."""


def eligible(
    job: Job, clients: Iterable[ClientRecord], is_present: Callable[[str], bool] = lambda _: True
) -> list[ClientRecord]:
    """Clients that hold the job's data, are not paused, and whose platform has a bridge that is there; by id.

    Args:
        job: says what data, and whether bridges must be there.
        clients: the register.
        is_present: tells whether a platform has such a bridge.
    """
    found = holding(job, clients)
    if job.cohort.presence == "ignored":
        return found
    present = {platform for platform in {client.platform for client in found} if is_present(platform)}
    return [client for client in found if client.platform in present]


def holding(job: Job, clients: Iterable[ClientRecord]) -> list[ClientRecord]:
    """Clients that hold the job's data and are not paused, by id."""
    wanted = (job.data.key, job.data.dataset)
    found = [client for client in clients if client.labels.get(DATA_LABEL) in wanted and not client.paused]
    return sorted(found, key=lambda client: client.id)


def choose(job: Job, round_: int, candidates: list[ClientRecord]) -> tuple[Member, ...]:
    """Draw a round's cohort without replacement; it depends on the seed, the round and the candidates alone."""
    draw = random.Random(seed(job.seed, "cohort", round_))  # noqa: S311 (a draw, not a secret)
    chosen = draw.sample(candidates, min(job.cohort.invited, len(candidates)))
    return tuple(
        Member(client.id, client.platform, client.url, client.data_loc, client.samples)
        for client in sorted(chosen, key=lambda client: client.id)
    )
