"""Who can take part in a round. Pure: entries of the register in, members of the cohort out."""

from collections.abc import Callable, Iterable

from broker.messages.job import Job
from broker.messages.job_record import Member
from broker.messages.register import ClientRecord

DATA_LABEL = "data"
"""Label in the register that names the partition (or the dataset) that a client's shard belongs to."""


def eligible_clients(
    job: Job, clients: Iterable[ClientRecord], is_present: Callable[[str], bool]
) -> list[ClientRecord]:
    """Clients that hold the job's data, are not paused, and whose platform has a bridge; sorted by id.

    Args:
        job: names the data, and says whether bridges must be present.
        clients: the registered clients.
        is_present: tells whether a platform has a bridge.
    """
    holders = data_holders(job, clients)
    if job.cohort.presence == "ignored":
        return holders
    present = {platform for platform in {client.platform for client in holders} if is_present(platform)}
    return [client for client in holders if client.platform in present]


def data_holders(job: Job, clients: Iterable[ClientRecord]) -> list[ClientRecord]:
    """Clients that hold the job's data and are not paused; sorted by id.

    Args:
        job: names the data.
        clients: the registered clients.
    """
    labels = (job.data.key, job.data.dataset)
    holders = [client for client in clients if client.labels.get(DATA_LABEL) in labels and not client.paused]
    return sorted(holders, key=lambda client: client.id)


def members(clients: Iterable[ClientRecord]) -> tuple[Member, ...]:
    """Clients as members of a cohort: what the register says of them now is kept for the round."""
    return tuple(
        Member(client.id, client.platform, client.url, client.data_loc, client.samples, client.labels, client.state_loc)
        for client in clients
    )
