"""Which blobs a relay copies with tasks and updates."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker import topics
from broker.messages.round import BlobRef
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fake_platforms import publish
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.relay_world import World, answer_with_state, events, next_tasks, relay, train
from tests.support.tasks import task


@pytest.fixture(params=["memory", "nats", "mosquitto"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(request.param, tmp_path, stack)


async def test_an_optimizer_state_arrives_before_its_update_and_stays_for_the_next_task(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    fleet = Fleet(site, answer_with_state, platform="edge-a")
    async with running(serve(backbone, FakeLearning()), relay(backbone, site).run(), fleet.serve()):
        with capture_logs() as logs:
            await train(backbone)
    assert [task.state is not None for task in fleet.tasks] == [False] * 4 + [True] * 4
    crossed = [line["topic"] for line in logs if line["event"] == "blob is at the site"]
    assert all(topic.startswith("fl.models.") for topic in crossed), "a state that the site has does not cross again"


async def test_no_update_is_on_the_backbone_without_its_state(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    round_task, content = task(platform="edge-a"), b"state" * 1000
    topic = topics.client_state("job", "client-00", 1, 1, "opt")
    await site.put(topic, content)
    header = fakes.header(round_task, states={"opt": BlobRef(topic, hashlib.sha256(content).hexdigest(), len(content))})
    await site.publish(topics.update("job", 1, "client-00", 1), fakes.update({}, header))
    async with running(relay(backbone, site).run()):
        await events(backbone, topics.job_updates("job"), 1)
        value = await backbone.get(topic)
    assert value is not None
    assert value.payload == content


async def test_the_state_of_a_client_that_moved_to_another_site_is_copied(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    content = b"state from elsewhere"
    ref = BlobRef(
        topics.client_state("job", "client-00", 1, 1, "opt"), hashlib.sha256(content).hexdigest(), len(content)
    )
    await backbone.put(ref.topic, content)
    async with running(relay(backbone, site).run()):
        await publish(backbone, task(platform="edge-a", round=2, states={"opt": ref}))
        await next_tasks(site, 1)
    value = await site.get(ref.topic)
    assert value is not None
    assert value.payload == content


async def test_a_message_can_t_make_the_relay_copy_a_value_that_is_no_blob(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    secret = topics.client("client-09")
    await backbone.put(secret, b"of the register")
    await site.put(secret, b"of another writer")
    forged = fakes.header(task(), states={"opt": BlobRef(secret, hashlib.sha256(b"of another writer").hexdigest(), 1)})
    async with running(relay(backbone, site).run()):
        await publish(backbone, task(platform="edge-a", model=BlobRef(secret, "ab" * 32, 1)))
        await next_tasks(site, 1)
        await site.publish(topics.update("job", 1, "client-00", 1), fakes.update({}, forged))
        await events(backbone, topics.job_updates("job"), 1)
    for bus, content in ((backbone, b"of the register"), (site, b"of another writer")):
        value = await bus.get(secret)
        assert value is not None
        assert value.payload == content
