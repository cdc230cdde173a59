"""A cluster of three nats-servers loses a node: what was stored is there, and everything goes on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import broker
from broker import Broker, topics
from broker.errors import Unsupported
from broker.nats.server import NatsServer
from emulators.nats_cluster import NODES, Cluster, running_cluster
from tests.support.ports import free_port

WITHIN_S = 180.0
PROGRESS = topics.progress("job-1", "round", "completed")
TASK = topics.task("local", "client-1")
RECORD = topics.job_record("job-1")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path, [free_port() for _ in range(2 * NODES)]) as cluster:
        yield cluster


@pytest.mark.slow
async def test_everything_goes_on_when_our_node_dies(cluster: Cluster) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        broker.connect(cluster.url) as bus,
        bus.subscribe(PROGRESS) as events,
        bus.subscribe(TASK, durable="bridge") as tasks,
    ):
        revision = await bus.put(RECORD, b"1", revision=0)
        for number in range(4):
            await bus.publish(PROGRESS, b"%d" % number)
        await bus.publish(TASK, b"a")
        seen = [await (await anext(events)).read() for _ in range(4)]
        await (await anext(tasks)).ack()

        await (await node_of(bus, cluster)).kill()

        value = await bus.get(RECORD)
        assert value is not None
        assert (value.payload, value.revision) == (b"1", revision)
        assert await bus.put(RECORD, b"2", revision=revision) > revision
        assert [v.payload for v in (await bus.snapshot("fl.rounds.*")).values()] == [b"2"]
        for number in range(4, 8):
            await bus.publish(PROGRESS, b"%d" % number)
        await bus.publish(TASK, b"b")
        seen += [await (await anext(events)).read() for _ in range(4)]
        # Each event once and in order, although the replay's consumer may have died with the node.
        assert seen == [b"%d" % number for number in range(8)]
        while await (delivery := await anext(tasks)).read() != b"b":
            await delivery.ack()


async def node_of(bus: Broker, cluster: Cluster) -> NatsServer:
    """Return the node to which a broker is connected."""
    connection = await bus._link.connection()  # type: ignore[attr-defined]
    port = connection._client.connected_url.port
    return next(node for node in cluster.nodes if node.port == port)


async def test_a_single_server_can_t_keep_replicas(nats_server: NatsServer) -> None:
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(Unsupported, match=r"can't keep 3 replicas of FEDKEEPER_\w+: .*\?replicas="):
            async with broker.connect(f"{nats_server.url}&replicas=3"):
                pass
