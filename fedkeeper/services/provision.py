"""Provisions clients: when a job waits for a built-in dataset's clients, writes their shards and registers them."""

import asyncio
from pathlib import Path

from broker import topics
from broker.deliveries import Delivery
from broker.errors import BrokerError, CorruptPayload, Disconnected
from broker.messages import progress
from broker.messages.errors import DecodeError, MessageError
from broker.messages.job_sections import Data
from broker.messages.progress import JobWaiting
from broker.messages.register import ClientRecord
from broker.support import loggers
from client_fn.data import datasets, shards
from client_fn.errors import ClientError
from fedkeeper.errors import NoSuchJob
from fedkeeper.sdk import Client

log = loggers.get_logger(__name__)


async def provision(sdk: Client, *, platform: str, shards_at: str, data_dir: Path | None) -> None:
    """Provision clients for every waiting job, until cancelled.

    Args:
        sdk: the system whose jobs are watched and whose register is written.
        platform: the platform that hosts the new clients.
        shards_at: folder or fsspec URL for the clients' shards.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.
    """
    waiting = topics.progress(topics.ANY, "job", "waiting")
    async with sdk.broker.subscribe(waiting, durable=f"provision-{platform}", prefetch=1) as deliveries:
        async for delivery in deliveries:
            await _provision_job(sdk, delivery, platform, shards_at, data_dir)
            await delivery.ack()


async def _provision_job(sdk: Client, delivery: Delivery, platform: str, shards_at: str, data_dir: Path | None) -> None:
    try:
        waiting = progress.decode(await delivery.read())
    except (DecodeError, CorruptPayload) as exc:
        log.warning("unreadable progress event", topic=delivery.topic, error=str(exc))
        return
    try:
        record = await sdk.job(waiting.job)
        if isinstance(waiting.event, JobWaiting) and not record.has_ended and record.job.data.dataset in datasets.NAMES:
            data = record.job.data
            staged = await asyncio.to_thread(
                stage_dataset, data, platform=platform, shards_at=shards_at, data_dir=data_dir
            )
            # A client of another platform stays there. Otherwise two such bridges would move it back and forth.
            elsewhere = {client.id for client in await sdk.clients() if client.platform != platform}
            clients = [client for client in staged if client.id not in elsewhere]
            await sdk.register(clients)
            log.info("clients registered", platform=platform, data=data.key, clients=len(clients))
    except NoSuchJob:
        return
    except Disconnected:
        raise  # the event is not acknowledged, so it is delivered again after the reconnection
    except (ClientError, BrokerError, MessageError) as exc:
        # The job keeps waiting and reports it; this log shows the reason to the operator of the bridge.
        log.warning("can't stage the data that a job waits for", job=waiting.job, error=str(exc))


def stage_dataset(data: Data, *, platform: str, shards_at: str, data_dir: Path | None) -> list[ClientRecord]:
    """Partition a built-in dataset across clients and write their shards; return the register's entries.

    Args:
        data: the dataset and its partition.
        platform: the platform that hosts the clients.
        shards_at: folder or fsspec URL for the shards.
        data_dir: folder of the datasets' files; None: the default of `client_fn.data.datasets`.

    Raises:
        ClientError: the dataset is missing, it has too few samples, or a shard can't be written.
    """
    dataset = datasets.load(data.dataset, data_dir=data_dir)
    return shards.stage(dataset, data, shards_at, platform=platform)
