"""A relay between the backbone and sites: what crosses, once and whole, whatever dies or is cut in between."""

import asyncio
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

import broker
from bridges import Lifecycle
from bridges.relay import Relay, Settings
from broker import topics
from broker.base import Broker, Delivery, Value
from broker.messages import cloudevents, progress
from broker.messages.function import Function, Request
from broker.messages.invocation import Invocation
from broker.messages.round import BlobRef, RoundTask
from broker.nats.server import NatsServer
from emulators.wire import Wire, wire_to
from fedkeeper.sdk import Client
from server.service import serve
from tests.support import fakes
from tests.support.brokers import STORE_BYTES, Mosquitto
from tests.support.fake_platforms import FakeManagedPlatform, FakePlatform, publish, runner
from tests.support.fakes import FakeLearning, Fleet, running, soon
from tests.support.tasks import task

WITHIN_S = 120.0
ACK_WAIT_S = 1.0


@dataclass
class World:
    """Brokers of one kind, the backbone and as many sites as a test asks for; `mosquitto` is at sites alone."""

    kind: str
    folder: Path
    stack: AsyncExitStack
    servers: dict[str, NatsServer | Mosquitto] = field(default_factory=dict)
    wires: dict[str, Wire] = field(default_factory=dict)

    async def url(self, place: str) -> str:
        """A broker's address; it is started when it is first asked for."""
        if self.kind == "memory":
            return f"memory://{self.folder}/{place}"
        if place not in self.servers:
            server = self._server(place)
            await server.start()
            self.stack.push_async_callback(server.kill)
            self.servers[place] = server
        return self.servers[place].url

    def _server(self, place: str) -> NatsServer | Mosquitto:
        if self.kind == "mosquitto" and place != "backbone":
            return Mosquitto(self.folder / place, on_changes=True)
        return NatsServer(self.folder / place, max_file_bytes=STORE_BYTES)

    async def wired(self, place: str) -> str:
        """The same broker's address, through a link that can be cut."""
        url, port = await self.url(place), self.servers[place].port
        self.wires[place] = await self.stack.enter_async_context(wire_to(port))
        return url.replace(f":{port}", f":{self.wires[place].port}")

    async def connect(self, url: str, ack_wait_s: float = ACK_WAIT_S) -> Broker:
        return await self.stack.enter_async_context(broker.connect(url, ack_wait_s=ack_wait_s))

    async def at(self, place: str) -> Broker:
        """A connection to a place's broker."""
        return await self.connect(await self.url(place))


@pytest.fixture(params=["memory", "nats", "mosquitto"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(request.param, tmp_path, stack)


@pytest.fixture(params=["nats", "mosquitto"])
async def wide(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Real brokers only: there is a link to cut."""
    async with AsyncExitStack() as stack:
        yield World(request.param, tmp_path, stack)


def settings(site: str = "site-a", platform: str = "edge-a", **more: Any) -> Settings:
    return Settings(
        name=site, platforms=(platform,), backbone="memory://not-read", site="memory://not-read-either", **more
    )


def relay(backbone: Broker, site: Broker, about: Settings | None = None) -> Relay:
    return Relay(about or settings(), backbone, site, heartbeat_s=ACK_WAIT_S / 4)


async def said_of(sdk: Client, job: str) -> list[progress.Event]:
    async with asyncio.timeout(WITHIN_S):
        return [one.event async for one in sdk.watch(job)]


async def digest(sdk: Client, job: str) -> str:
    record = await sdk.job(job)
    assert record.phase == "completed", record.reason
    assert record.model is not None
    return record.model.sha256


async def trained(backbone: Broker, job_id: str = "", count: int = 4) -> tuple[str, Counter[str]]:
    """The digest of a job that is run now, and how often each client's update counted.

    All clients are in its cohort, or it would depend on whose bridge was heard first.
    """
    sdk = Client(backbone)
    job = job_id or await sdk.submit(fakes.job(cohort={"clients": count}))
    said = await said_of(sdk, job)
    counted = Counter(f"{e.round} {e.client}" for e in said if isinstance(e, progress.UpdateCounted))
    return await digest(sdk, job), counted


async def undisturbed(count: int) -> str:
    """The digest of the same job where all clients are connected to the FL server's broker."""
    async with broker.connect("memory://undisturbed") as bus:
        await Client(bus).register(fakes.clients(count))
        async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
            return (await trained(bus, count=count))[0]


async def events(bus: Broker, topic_filter: str, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(WITHIN_S), bus.subscribe(topic_filter) as deliveries:
        async for delivery in deliveries:
            found.append(delivery)
            if len(found) == count:
                break
    return found


async def value(bus: Broker, topic: str, holding: bytes) -> None:
    """Until a retained value holds that."""
    async with asyncio.timeout(WITHIN_S), bus.watch(topic) as values:
        async for one in values:
            if isinstance(one, Value) and holding in one.payload:
                return


async def test_a_site_trains_behind_its_relay_and_the_model_crosses_once(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    fleet, carried = Fleet(site, platform="edge-a"), relay(backbone, site)
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    async with running(serve(backbone, FakeLearning()), carried.run(), fleet.serve()):
        with capture_logs() as logs:
            got, counted = await trained(backbone)
            await soon(lambda: sum(line["event"] == "crossed the link" for line in logs) == 2)
    assert got == await undisturbed(4)
    assert set(counted.values()) == {1}
    assert len(counted) == 8
    assert set(fleet.task_counts.values()) == {1}
    assert sum(line["event"] == "blob is at the site" for line in logs) == 2, "each round's model crosses once"
    assert sum(line.get("bytes_up", 0) for line in logs) <= carried.link_bytes.up


async def test_a_site_keeps_nothing_of_a_job_that_is_over(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    fleet = Fleet(site, platform="edge-a")
    async with running(serve(backbone, FakeLearning()), relay(backbone, site).run(), fleet.serve()):
        with capture_logs() as logs:
            await trained(backbone)
            await soon(lambda: sum(line["event"] == "crossed the link" for line in logs) == 2)
        models = {one.model.topic for one in fleet.tasks}
        updates = [topics.update(one.job, one.round, one.client_id, 1) for one in fleet.tasks]
        for topic in (*models, *updates):
            await soon_gone(site, topic)


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
        got, counted = await trained(backbone, count=6)
    assert got == await undisturbed(6)
    assert set(counted.values()) == {1}


class Crash(BaseException):
    """The relay is gone; nothing may catch this."""


@dataclass
class Fuse:
    """Burns down by one at every step of a relay, and takes it down when it has burnt."""

    left: int

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash

    def fitted(self, bus: Broker) -> Broker:
        """The same connection with the fuse before every call, and before every acknowledgement."""
        for name in ("publish", "put", "get", "delete", "purge"):
            setattr(bus, name, self._guarded(getattr(bus, name)))
        plain = bus.subscribe

        def subscribe(*args: Any, **more: Any) -> Any:
            return _Fused(self, plain(*args, **more))

        bus.subscribe = subscribe  # type: ignore[method-assign]
        return bus

    def _guarded(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def guarded(*args: Any, **more: Any) -> Any:
            self.step()
            return await call(*args, **more)

        return guarded


class _Fused:
    """A subscription whose deliveries are acknowledged through the fuse."""

    def __init__(self, fuse: Fuse, subscription: Any) -> None:
        self._fuse, self._subscription = fuse, subscription

    async def __aenter__(self) -> AsyncIterator[Delivery]:
        self._deliveries = await self._subscription.__aenter__()
        return self._fused()

    async def __aexit__(self, *error: object) -> None:
        await self._subscription.__aexit__(*error)

    async def _fused(self) -> AsyncIterator[Delivery]:
        async for delivery in self._deliveries:
            delivery.ack = self._fuse._guarded(delivery.ack)
            yield delivery


@pytest.mark.slow
async def test_a_relay_that_dies_at_any_step_is_replaced_without_a_trace() -> None:
    """At every call to either broker, and between each and its acknowledgement."""
    for steps in itertools.count():
        async with AsyncExitStack() as stack:
            world = World("memory", Path(f"crash-{steps}"), stack)
            backbone, site = await world.at("backbone"), await world.at("site")
            fuse = Fuse(steps)
            fused = [
                fuse.fitted(await world.connect(await world.url(place), ack_wait_s=0.1))
                for place in ("backbone", "site")
            ]
            fleet = Fleet(site, with_state, platform="edge-a")
            await Client(backbone).register(fakes.clients(2, platform="edge-a"))
            job = await submitted(backbone, cohort={"clients": 2})
            async with running(serve(backbone, FakeLearning()), fleet.serve()):
                try:
                    async with running(Relay(settings(), *fused, heartbeat_s=0.03).run()):
                        await said_of(Client(backbone), job)
                        await forgotten(site, job)
                    died = False
                except Crash:
                    died = True
                    replaced = [await world.connect(await world.url(place), 0.1) for place in ("backbone", "site")]
                    async with running(Relay(settings(), *replaced, heartbeat_s=0.03).run()):
                        said = await said_of(Client(backbone), job)
                        counted = [one.client for one in said if isinstance(one, progress.UpdateCounted)]
                        assert Counter(counted) == {"client-00": 2, "client-01": 2}, f"step {steps}"
                        assert set(fleet.task_counts.values()) == {1}, f"trained twice after a crash at step {steps}"
                        refused = [one for one in said if isinstance(one, progress.UpdateRefused)]
                        assert not refused, f"step {steps}"
        if not died:
            break
    assert steps > 40, "two rounds of two clients have more steps than that"


async def submitted(backbone: Broker, **sections: Any) -> str:
    """A job that a server will find when it starts."""
    await backbone.publish(topics.submission("job"), msgspec.json.encode(fakes.job(**sections)))
    return "job"


async def forgotten(site: Broker, job: str) -> None:
    """Until the site was told that the job is over."""
    await events(site, topics.progress(job, "job", "completed"), 1)


async def with_state(bus: Broker, one: RoundTask) -> None:
    """Train as a client whose job carries the optimizer's state."""
    if one.state is not None:
        found = await bus.get(one.state.topic)
        assert found is not None
        assert found.payload == state_of(one, one.round - 1)
    content = state_of(one, one.round)
    topic = topics.optimizer_state(one.job, one.client_id, one.round, 1)
    await bus.put(topic, content)
    ref = BlobRef(topic, hashlib.sha256(content).hexdigest(), len(content))
    update = fakes.update(fakes.trained(await fakes.base_of(bus, one), one), fakes.header(one, state=ref))
    await bus.publish(topics.update(one.job, one.round, one.client_id, 1), update)


def state_of(one: RoundTask, round_: int) -> bytes:
    return f"state of {one.client_id} after round {round_}".encode()


async def test_an_optimizer_state_is_there_before_its_update_and_for_the_next_task(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    fleet = Fleet(site, with_state, platform="edge-a")
    async with running(serve(backbone, FakeLearning()), relay(backbone, site).run(), fleet.serve()):
        with capture_logs() as logs:
            await trained(backbone)
    assert [one.state is not None for one in fleet.tasks] == [False] * 4 + [True] * 4
    crossed = [line["topic"] for line in logs if line["event"] == "blob is at the site"]
    assert all(topic.startswith("fl.models.") for topic in crossed), "a state that the site has does not cross again"


async def test_no_update_is_on_the_backbone_without_its_state(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    one, content = task(platform="edge-a"), b"state" * 1000
    topic = topics.optimizer_state("job", "client-00", 1, 1)
    await site.put(topic, content)
    about = fakes.header(one, state=BlobRef(topic, hashlib.sha256(content).hexdigest(), len(content)))
    await site.publish(topics.update("job", 1, "client-00", 1), fakes.update({}, about))
    async with running(relay(backbone, site).run()):
        await events(backbone, topics.job_updates("job"), 1)
        found = await backbone.get(topic)
    assert found is not None
    assert found.payload == content


async def test_a_state_that_a_client_moves_to_another_site_with_crosses(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    content = b"state from elsewhere"
    ref = BlobRef(topics.optimizer_state("job", "client-00", 1, 1), hashlib.sha256(content).hexdigest(), len(content))
    await backbone.put(ref.topic, content)
    async with running(relay(backbone, site).run()):
        await publish(backbone, task(platform="edge-a", round=2, state=ref))
        await events_of_queue(site, 1)
    found = await site.get(ref.topic)
    assert found is not None
    assert found.payload == content


async def events_of_queue(site: Broker, count: int) -> list[RoundTask]:
    """The next tasks at the site."""
    found: list[RoundTask] = []
    name = topics.platform_tasks("edge-a")
    async with asyncio.timeout(WITHIN_S), site.subscribe(name, durable="bridge-edge-a") as deliveries:
        async for delivery in deliveries:
            found.append(cloudevents.data_of(await delivery.read(), RoundTask))
            await delivery.ack()
            if len(found) == count:
                break
    return found


async def test_a_message_can_t_make_the_relay_copy_what_is_no_blob(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    secret = topics.client("client-09")
    await backbone.put(secret, b"of the register")
    await site.put(secret, b"of a stranger")
    forged = fakes.header(task(), state=BlobRef(secret, hashlib.sha256(b"of a stranger").hexdigest(), 1))
    async with running(relay(backbone, site).run()):
        await publish(backbone, task(platform="edge-a", model=BlobRef(secret, "ab" * 32, 1)))
        await events_of_queue(site, 1)
        await site.publish(topics.update("job", 1, "client-00", 1), fakes.update({}, forged))
        await events(backbone, topics.job_updates("job"), 1)
    for bus, content in ((backbone, b"of the register"), (site, b"of a stranger")):
        found = await bus.get(secret)
        assert found is not None
        assert found.payload == content


async def test_what_is_no_task_and_what_names_a_model_that_is_gone_is_left_to_the_site(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    platform = FakePlatform(name="edge-a")
    async with running(relay(backbone, site).run(), runner(site, platform).run()):
        await backbone.publish(topics.task("edge-a", "client-07"), b"\xff garbage")
        await publish(backbone, task(platform="edge-a"))
        [letter] = await events(backbone, topics.dead("edge-a", topics.ANY), 1)
        assert await letter.read() == b"\xff garbage"
        await events(backbone, topics.invocation("edge-a", topics.ANY), 2)
    assert platform.calls == [("client-00", 1)]


async def test_what_a_site_s_bridge_tells_is_told_on_the_backbone(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    async with running(relay(backbone, site).run(), runner(site, FakePlatform(name="edge-a")).run()):
        await site.put(topics.presence("edge-a", "board"), b"here")
        await publish(backbone, task(platform="edge-a"))
        told = await events(backbone, topics.invocation("edge-a", "client-00"), 2)
        records = [cloudevents.data_of(await one.read(), Invocation) for one in told]
        assert [one.outcome for one in records] == ["running", "succeeded"]
        await value(backbone, topics.presence("edge-a", "board"), b"here")
        await value(backbone, topics.client_stats("edge-a", "client-00"), b'"state":"succeeded"')
        await site.delete(topics.presence("edge-a", "board"))
        await soon_gone(backbone, topics.presence("edge-a", "board"))


async def soon_gone(bus: Broker, topic: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while await bus.get(topic) is not None:  # noqa: ASYNC110 (what never was there is no event)
            await asyncio.sleep(0.02)


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
        await value(backbone, topics.function("edge-a", "client-00"), b"client-00")
    assert host.packages == {"client-00": code}


@pytest.mark.slow
async def test_updates_wait_at_a_site_that_is_cut_off_and_count_when_it_is_back(
    wide: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.reconnect.CALL_S", 1.0)
    backbone, site = await wide.at("backbone"), await wide.at("site")
    linked = await wide.connect(await wide.wired("backbone"))
    wire = wide.wires["backbone"]

    async def cut_then_answer(bus: Broker, one: RoundTask) -> None:
        if one.round == 1:
            await wire.cut()
        await fakes.answer(bus, one)

    fleet = Fleet(site, cut_then_answer, platform="edge-a")
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    with capture_logs() as logs:
        async with running(serve(backbone, FakeLearning()), relay(linked, site).run(), fleet.serve()):
            job = await Client(backbone).submit(fakes.job())
            await soon(lambda: any(line["event"] == "site is cut off" for line in logs))
            # Whatever was put down by then is trained; nothing of it has come through.
            waiting = len(fleet.tasks)
            assert waiting
            assert len(await events(site, topics.job_updates(job), waiting)) == waiting
            await wire.mend()
            got, counted = await trained(backbone, job)
            await soon(lambda: any(line["event"] == "what had waited is delivered" for line in logs))
    assert got == await undisturbed(4)
    assert set(counted.values()) == {1}
    assert set(fleet.task_counts.values()) == {1}
    assert any(line["event"] == "site is back" and line["away_s"] > 0 for line in logs)
    late = next(line["late"] for line in logs if line["event"] == "what had waited is delivered")
    assert late["updates"] >= waiting


@pytest.mark.slow
async def test_a_task_that_expired_while_the_site_was_away_is_not_started(wide: World) -> None:
    backbone, site = await wide.at("backbone"), await wide.at("site")
    fleet = Fleet(site, _nothing, platform="edge-a")
    async with running(relay(backbone, site).run(), fleet.serve()):
        await publish(backbone, task("client-00", "edge-a"))
        await soon(lambda: len(fleet.tasks) == 1)
        await wide.servers["site"].kill()
        await publish(backbone, task("client-01", "edge-a", deadline_s=time.time() + 1.5))
        [told] = await events(backbone, topics.invocation("edge-a", "client-01"), 1)
        record = cloudevents.data_of(await told.read(), Invocation)
        assert (record.outcome, record.client) == ("expired", "client-01")
        assert "out of reach" in record.reason
        await wide.servers["site"].start()
        await publish(backbone, task("client-02", "edge-a"))
        await soon(lambda: any(one.client_id == "client-02" for one in fleet.tasks), WITHIN_S)
    # The first one's acknowledgement may have died with the broker.
    assert {one.client_id for one in fleet.tasks} == {"client-00", "client-02"}


async def _nothing(bus: Broker, one: RoundTask) -> None:
    """Never an answer."""


async def test_a_task_of_a_round_that_was_closed_without_the_site_is_not_put_down(world: World) -> None:
    """Its deadline is far, but the quorum was reached; the news wait longer than the tasks."""
    backbone, site = await world.at("backbone"), await world.at("site")
    over = progress.Progress("job", progress.RoundFailed(round=1, reason="", counted=(), policy="retry"), 1.0, "x")
    fleet = Fleet(site, _nothing, platform="edge-a")
    async with running(relay(backbone, site).run(), fleet.serve()):
        await publish(backbone, task("client-00", "edge-a"))
        await soon(lambda: len(fleet.tasks) == 1)
        await backbone.publish(progress.topic_of("job", over.event), progress.encode(over))
        await events(site, topics.progress("job", "round", "failed"), 1)
        await publish(backbone, task("client-01", "edge-a"))
        [told] = await events(backbone, topics.invocation("edge-a", "client-01"), 1)
    assert "its round was over" in cloudevents.data_of(await told.read(), Invocation).reason
    assert len(fleet.tasks) == 1


async def test_a_site_s_broker_that_is_killed_in_the_middle_of_a_round_costs_nothing(wide: World) -> None:
    backbone, site = await wide.at("backbone"), await wide.at("site")
    killed = asyncio.Event()

    async def kill_once(bus: Broker, one: RoundTask) -> None:
        await fakes.answer(bus, one)
        if not killed.is_set():
            killed.set()
            server = wide.servers["site"]
            if isinstance(server, Mosquitto):
                await server.save()
            await server.kill()
            await server.start()

    fleet = Fleet(site, kill_once, platform="edge-a")
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    async with running(serve(backbone, FakeLearning()), relay(backbone, site).run(), fleet.serve()):
        got, counted = await trained(backbone)
    assert got == await undisturbed(4)
    assert set(counted.values()) == {1}


async def test_two_relays_of_one_name_share_the_work(world: World) -> None:
    backbone, site = await world.at("backbone"), await world.at("site")
    await Client(backbone).register(fakes.clients(4, platform="edge-a"))
    fleet = Fleet(site, with_state, platform="edge-a")
    relays = [relay(backbone, site).run() for _ in range(2)]
    async with running(serve(backbone, FakeLearning()), *relays, fleet.serve()):
        _, counted = await trained(backbone)
    assert set(counted.values()) == {1}
    assert set(fleet.task_counts.values()) == {1}
