"""A leaf node at a site, set up by configs/edge, and a backbone: what programs at the site may count on."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import broker
from broker import topics
from broker.nats.server import NatsServer, find_binary
from broker.support import processes
from tests.support.paths import REPOSITORY
from tests.support.ports import free_port, listens

EDGE = REPOSITORY / "configs" / "edge"
WITHIN_S = 120.0
WEIGHTS = os.urandom(2_300_000)


@dataclass(frozen=True)
class Site:
    """A backbone, and the addresses of both ends."""

    hub: NatsServer
    up: str
    down: str


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Backbone and leaf node, joined; both die with their test."""
    link, port = free_port(), free_port()
    backbone = (EDGE / "nats-backbone.conf").read_text().replace("port: 7422", f'listen: "127.0.0.1:{link}"')
    async with NatsServer(tmp_path / "hub", max_file_bytes=1 << 30, settings=backbone) as hub:
        leaf = tmp_path / "nats-leaf.conf"
        leaf.write_text((EDGE / "nats-leaf.conf").read_text().replace("127.0.0.1:4222", f"127.0.0.1:{port}"))
        user = f"fedkeeper:{hub.password_file.read_text()}"
        secret = f'BACKBONE: "nats-leaf://{user}@127.0.0.1:{link}"\nLOCAL_PASSWORD: "local"\n'
        (tmp_path / "nats-leaf.secret").write_text(secret)
        process = await asyncio.create_subprocess_exec(
            *(find_binary(), "-c", leaf, "--log", tmp_path / "leaf.log"),
            preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
        )
        try:
            async with asyncio.timeout(WITHIN_S):
                await listens(port)
            yield Site(hub, hub.url, f"nats://edge:local@127.0.0.1:{port}")
        finally:
            process.kill()
            await process.wait()


async def test_a_site_s_programs_use_the_backbone_s_streams_through_the_leaf(site: Site) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        broker.connect(site.up, name="server") as up,
        broker.connect(site.down, name="bridge") as down,
    ):
        update, model, task = (
            topics.update("job", 1, "c-1", 1),
            topics.model("job", "ab" * 32),
            topics.task("edge", "c-1"),
        )
        assert (await down.publish(update, WEIGHTS)).stored
        assert not (await down.publish(update, b"a second one")).stored
        value = await up.get(update)
        assert value is not None
        assert value.payload == WEIGHTS
        await up.publish(model, WEIGHTS)
        fetched = await down.get(model)
        assert fetched is not None
        assert fetched.payload == WEIGHTS
        async with down.subscribe(topics.platform_tasks("edge"), durable="bridge-edge", prefetch=4) as tasks:
            await up.publish(task, b"train")
            delivery = await anext(tasks)
            assert (delivery.topic, await delivery.read()) == (task, b"train")
            await delivery.ack()


@pytest.mark.slow
async def test_what_is_published_while_the_link_is_down_waits_with_its_publisher(site: Site) -> None:
    update = topics.update("job", 1, "c-1", 1)
    async with (
        asyncio.timeout(WITHIN_S),
        broker.connect(site.down, name="function") as down,
        down.subscribe(topics.platform_tasks("edge"), durable="bridge-edge", prefetch=4) as tasks,
    ):
        await site.hub.kill()
        publishing = asyncio.create_task(down.publish(update, WEIGHTS), name="publish")
        done, _ = await asyncio.wait([publishing], timeout=0.5)
        assert not done
        await site.hub.start()
        assert (await publishing).stored
        async with broker.connect(site.up, name="server") as up:
            await up.publish(topics.task("edge", "c-2"), b"train")
            assert await (await anext(tasks)).read() == b"train"
