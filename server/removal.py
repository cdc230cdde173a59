"""Deletes what jobs have left on the broker: of a finished job what it does not need any more, or everything."""

from broker import topics
from broker.base import Broker
from broker.messages import job_record
from broker.messages.job_record import JobRecord


async def delete_leftovers(broker: Broker, record: JobRecord) -> None:
    """Delete an ended job's updates and client states, and the models that its record does not name.

    Clients that were late or whose job was cancelled may still write them after the job's end.

    Args:
        broker: has them.
        record: the record of a job that has ended.
    """
    await broker.purge(topics.job_updates(record.id))
    await broker.purge(topics.job_states(record.id))
    named = {blob.topic for blob in job_record.blobs(record)}
    for topic in await broker.stored_topics(topics.job_models(record.id)):
        if topic not in named:
            await broker.purge(topic)


async def remove(broker: Broker, job: str) -> None:
    """Delete everything of a job. Its record goes last, so that a removal that was interrupted can be repeated.

    Args:
        broker: has it.
        job: id of a finished job.
    """
    for topic_filter in (
        topics.job_updates(job),
        topics.job_states(job),
        topics.job_models(job),
        topics.secret(job),
        topics.job_progress(job),
        topics.submission(job),
        # Another job with this id would take it for its own.
        topics.cancellation(job),
    ):
        await broker.purge(topic_filter)
    await broker.delete(topics.job_record(job))


async def remove_unknown(broker: Broker, job: str) -> None:
    """Delete the models, updates and client states of a job that has no record.

    Args:
        broker: has them.
        job: the job's id.
    """
    for topic_filter in (topics.job_updates(job), topics.job_states(job), topics.job_models(job), topics.secret(job)):
        await broker.purge(topic_filter)
