"""A broker's store that was left by a system that has ended."""

from pathlib import Path

import msgspec

import broker
from broker import topics
from broker.messages import codec
from broker.messages.job_record import JobRecord
from fedkeeper.services.store import open_store


async def let_time_pass(store: Path, job: str, seconds: float) -> None:
    """Change the record of a job, whose round is open, as if the system had ended so much earlier.

    Args:
        store: the broker's data folder.
        job: the job's id.
        seconds: how much earlier.
    """
    async with open_store(store) as nats, broker.connect(nats.url) as bus:
        value = await bus.get(topics.job_record(job))
        assert value is not None
        record = codec.decode(JobRecord, value.payload)
        assert record.cohort, "no round is open"
        times = {"opened_s": record.opened_s - seconds, "deadline_s": record.deadline_s - seconds}
        older = msgspec.structs.replace(record, **times)
        await bus.put(topics.job_record(job), codec.encode(older), revision=value.revision)
