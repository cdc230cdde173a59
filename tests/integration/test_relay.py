"""Jobs and functions of sites behind relays."""

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from bridges import Lifecycle
from broker import topics
from broker.messages import cloudevents, progress
from broker.messages.function import Function, Request
from broker.messages.invocation import Invocation
from broker.messages.round import BlobRef
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.fake_platforms import FakeManagedPlatform, FakePlatform, publish, runner
from tests.support.fakes import FakeLearning, Fleet, running, soon
from tests.support.relay_world import (
    WITHIN_S,
    World,
    answer_with_state,
    digest_without_relay,
    events,
    no_answer,
    relay,
    settings,
    train,
    wait_for_value,
    wait_until_absent,
)
from tests.support.tasks import task


@pytest.fixture(params=["memory", "nats", "mosquitto"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(request.param, tmp_path, stack)


async def test_a_site_trains_behind_its_relay_and_the_model_crosses_once(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    fleet, forward = Fleet(site, platform="edge-a"), relay(backbone, site)
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    async with running(serve(backbone, FakeLearning()), forward.run(), fleet.serve()):
        with capture_logs() as logs:
            model, counted = await train(backbone)
            await soon(lambda: sum(line["event"] == "crossed the link" for line in logs) == 2)
    assert model == await digest_without_relay(4)
    assert set(counted.values()) == {1}
    assert len(counted) == 8
    assert set(fleet.task_counts.values()) == {1}
    assert sum(line["event"] == "blob is at the site" for line in logs) == 2, "each round's model crosses once"
    assert sum(line.get("bytes_up", 0) for line in logs) <= forward.link_bytes.up


async def test_a_site_deletes_the_data_of_a_job_that_has_ended(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    fleet = Fleet(site, platform="edge-a")
    async with running(serve(backbone, FakeLearning()), relay(backbone, site).run(), fleet.serve()):
        with capture_logs() as logs:
            await train(backbone)
            await soon(lambda: sum(line["event"] == "crossed the link" for line in logs) == 2)
        models = {task.model.topic for task in fleet.tasks}
        updates = [topics.update(task.job, task.round, task.client_id, 1) for task in fleet.tasks]
        for topic in (*models, *updates):
            await wait_until_absent(site, topic)


async def test_two_sites_and_the_backbone_train_one_job_as_one_site_would(world: World) -> None:
    backbone, north, south = [await world.at(place) for place in ("backbone", "north", "south")]
    sdk = Client(backbone)
    for first, platform in ((0, "edge-a"), (2, "edge-b"), (4, "fake")):
        await sdk.register(fakes.clients(2, platform=platform, first=first))
    fleets = [Fleet(north, platform="edge-a"), Fleet(south, platform="edge-b"), Fleet(backbone)]
    relays = [
        relay(backbone, north, settings("north", "edge-a")).run(),
        relay(backbone, south, settings("south", "edge-b")).run(),
    ]
    async with running(serve(backbone, FakeLearning()), *relays, *[fleet.serve() for fleet in fleets]):
        model, counted = await train(backbone, count=6)
    assert model == await digest_without_relay(6)
    assert set(counted.values()) == {1}


async def test_invalid_tasks_and_tasks_whose_model_is_missing_are_sent_to_the_site(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    platform = FakePlatform(name="edge-a")
    async with running(relay(backbone, site).run(), runner(site, platform).run()):
        await backbone.publish(topics.task("edge-a", "client-07"), b"\xff garbage")
        await publish(backbone, task(platform="edge-a"))
        [letter] = await events(backbone, topics.dead("edge-a", topics.ANY), 1)
        assert await letter.read() == b"\xff garbage"
        await events(backbone, topics.invocation("edge-a", topics.ANY), 2)
    assert platform.calls == [("client-00", 1)]


async def test_the_messages_of_a_site_s_bridge_reach_the_backbone(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    async with running(relay(backbone, site).run(), runner(site, FakePlatform(name="edge-a")).run()):
        await site.put(topics.presence("edge-a", "board"), b"here")
        await publish(backbone, task(platform="edge-a"))
        deliveries = await events(backbone, topics.invocation("edge-a", "client-00"), 2)
        records = [cloudevents.data_of(await delivery.read(), Invocation) for delivery in deliveries]
        assert [record.outcome for record in records] == ["running", "succeeded"]
        await wait_for_value(backbone, topics.presence("edge-a", "board"), b"here")
        await wait_for_value(backbone, topics.client_stats("edge-a", "client-00"), b'"state":"succeeded"')
        await site.delete(topics.presence("edge-a", "board"))
        await wait_until_absent(backbone, topics.presence("edge-a", "board"))


async def test_a_site_s_functions_are_managed_from_the_backbone(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    code = b"the archive"
    name = hashlib.sha256(code).hexdigest()
    package = BlobRef(topics.package(name), name, len(code))
    function = Function(name="client-00", fabric="test", package=package)
    host = FakeManagedPlatform(name="edge-a")
    await backbone.put(package.topic, code)
    async with running(relay(backbone, site).run(), Lifecycle(site, host.name, host).serve()):
        for i, late in enumerate((True, False)):
            deadline_s = time.time() + (-1 if late else WITHIN_S)
            request = Request(id=f"request-{i}", deadline_s=deadline_s, function=function)
            await backbone.publish(topics.fabric("edge-a", "create"), msgspec.json.encode(request))
        [reply] = await events(backbone, topics.reply(topics.ANY), 1)
        assert b'"change":"created"' in await reply.read()
        assert reply.topic == topics.reply("request-1")
        await wait_for_value(backbone, topics.function("edge-a", "client-00"), b"client-00")
    assert host.packages == {"client-00": code}


async def test_a_task_of_a_closed_round_is_not_sent_to_the_site(world: World) -> None:
    """The task's deadline has not passed, but its round has failed already."""
    backbone, site = await world.at("backbone"), await world.at("site")
    over = progress.Progress("job", progress.RoundFailed(round=1, reason="", counted=(), policy="retry"), 1.0, "x")
    fleet = Fleet(site, no_answer, platform="edge-a")
    async with running(relay(backbone, site).run(), fleet.serve()):
        await publish(backbone, task("client-00", "edge-a"))
        await soon(lambda: len(fleet.tasks) == 1)
        await backbone.publish(progress.topic_of("job", over.event), progress.encode(over))
        await events(site, topics.progress("job", "round", "failed"), 1)
        await publish(backbone, task("client-01", "edge-a"))
        [delivery] = await events(backbone, topics.invocation("edge-a", "client-01"), 1)
    assert "its round was over" in cloudevents.data_of(await delivery.read(), Invocation).reason
    assert len(fleet.tasks) == 1


async def test_two_relays_of_one_name_share_the_work(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    fleet = Fleet(site, answer_with_state, platform="edge-a")
    relays = [relay(backbone, site).run() for _ in range(2)]
    async with running(serve(backbone, FakeLearning()), *relays, fleet.serve()):
        _, counted = await train(backbone)
    assert set(counted.values()) == {1}
    assert set(fleet.task_counts.values()) == {1}
