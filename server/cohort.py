"""Who can take part in a round. Pure: entries of the register in, members of the cohort out."""

from collections.abc import Callable, Iterable

from broker.messages.job import Job
from broker.messages.job_record import Member
from broker.messages.register import ClientRecord
from broker.messages.round import Purpose
from server import labels

DATA_LABEL = "data"
"""Label in the register that names the partition (or the dataset) that a client's shard belongs to."""


def eligible_clients(job: Job, holders: list[ClientRecord], is_present: Callable[[str], bool]) -> list[ClientRecord]:
    """Those of the clients that hold the job's data whose platform has a bridge, in their order.

    Args:
        job: says whether bridges must be present.
        holders: what `data_holders` returns.
        is_present: tells whether a platform has a bridge.
    """
    if job.cohort.presence == "ignored":
        return holders
    present = {platform for platform in {client.platform for client in holders} if is_present(platform)}
    return [client for client in holders if client.platform in present]


def data_holders(job: Job, clients: Iterable[ClientRecord]) -> list[ClientRecord]:
    """Clients that hold the job's data, have the labels of `cohort.where` and are not paused; sorted by id.

    Args:
        job: names the data and the labels.
        clients: the registered clients.
    """
    keys = (job.data.key, job.data.dataset)
    holders = (client for client in clients if client.labels.get(DATA_LABEL) in keys and not client.paused)
    return sorted((client for client in holders if labels.matches(job.cohort.where, client)), key=lambda each: each.id)


def members(clients: Iterable[ClientRecord], purpose: Purpose = "train") -> tuple[Member, ...]:
    """Clients as members of a cohort: what the register says of them now is kept for the round.

    Args:
        clients: the clients.
        purpose: what they do in the round.
    """
    return tuple(
        Member(
            client.id,
            client.platform,
            client.url,
            client.data_loc,
            client.samples,
            client.labels,
            client.state_loc,
            purpose,
        )
        for client in clients
    )


def ids(members: Iterable[Member], purpose: Purpose) -> tuple[str, ...]:
    """Ids of the members with a purpose, in their order.

    Args:
        members: the cohort.
        purpose: what they do in the round.
    """
    return tuple(member.id for member in members if member.purpose == purpose)
