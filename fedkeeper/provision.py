"""Gives the local platform its clients: when a job waits for a built-in dataset's clients, deals and registers them."""

import asyncio
from pathlib import Path

import structlog

from broker import topics
from broker.base import Delivery
from broker.errors import BrokerError, CorruptPayload, Disconnected
from broker.messages import progress
from broker.messages.errors import DecodeError, MessageError
from broker.messages.job import Data
from broker.messages.progress import JobWaiting
from broker.messages.register import ClientRecord
from client_fn.data import datasets, shards
from client_fn.errors import ClientError
from fedkeeper.errors import NoSuchJob
from fedkeeper.sdk import Client

log = structlog.get_logger(__name__)


async def provision(fabric: Client, *, platform: str, shards_at: str, data_dir: Path | None) -> None:
    """Answer waiting jobs until cancelled.

    Args:
        fabric: where jobs wait and clients are registered.
        platform: the platform that the clients are registered on.
        shards_at: folder or fsspec URL for the clients' shards.
        data_dir: where the datasets' own files are; None: see `client_fn.data.datasets`.
    """
    waiting = topics.progress(topics.ANY, "job", "waiting")
    async with fabric.broker.subscribe(waiting, durable=f"provision-{platform}", prefetch=1) as deliveries:
        async for delivery in deliveries:
            await _answer(fabric, delivery, platform, shards_at, data_dir)
            await delivery.ack()


async def _answer(fabric: Client, delivery: Delivery, platform: str, shards_at: str, data_dir: Path | None) -> None:
    try:
        said = progress.decode(await delivery.read())
    except (DecodeError, CorruptPayload) as exc:
        log.warning("unreadable progress event", topic=delivery.topic, error=str(exc))
        return
    try:
        record = await fabric.job(said.job)
        if isinstance(said.event, JobWaiting) and not record.has_ended and record.job.data.dataset in datasets.NAMES:
            data = record.job.data
            staged = await asyncio.to_thread(partition, data, platform=platform, shards_at=shards_at, data_dir=data_dir)
            # Clients of another platform stay there: two such bridges would take them from each other for ever.
            elsewhere = {client.id for client in await fabric.clients() if client.platform != platform}
            ours = [client for client in staged if client.id not in elsewhere]
            await fabric.register(ours)
            log.info("clients registered", platform=platform, data=data.key, clients=len(ours))
    except NoSuchJob:
        return
    except Disconnected:
        raise  # not acknowledged, so it is answered when the broker is back
    except (ClientError, BrokerError, MessageError) as exc:
        # The job goes on waiting, and says so; whoever runs this bridge sees why.
        log.warning("can't stage the data that a job waits for", job=said.job, error=str(exc))


def partition(data: Data, *, platform: str, shards_at: str, data_dir: Path | None) -> list[ClientRecord]:
    """Deal a built-in dataset to clients of one platform, and write their shards.

    Raises:
        ClientError: the dataset is not there, can't be dealt like that, or a shard can't be written.
    """
    dataset = datasets.load(data.dataset, data_dir=data_dir)
    return shards.stage(dataset, data, shards_at, platform=platform)
