"""The connector calls other functions for the events in their annotation, until they succeed."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog

import broker
from bridges.errors import FunctionGone, InvocationFailed, NotStarted, OutcomeUnknown, PlatformAway
from bridges.openfaas.connector import MAX_ATTEMPTS, Connector
from broker import topics
from broker.base import Broker
from broker.messages.function import Deployed
from broker.nats.server import NatsServer
from tests.support.fakes import running, soon
from tests.support.openfaas_site import site

WITHIN_S = 120.0
PROBE = b"probe"
COMPLETED = topics.progress("job-1", "round", "completed")
ROUND_COMPLETED = "fl.progress.*.round.completed"


@dataclass
class FakeFunctions:
    """Functions that a test controls.

    Attributes:
        listed: the deployed functions; None if the platform is unreachable.
        failures: errors of the next calls.
        calls: every call for an event that is not a probe: function, body and headers.
        listening: functions that were called for a probe.
        lists: how often the functions were listed.
    """

    listed: list[Deployed] | None
    failures: list[InvocationFailed] = field(default_factory=list)
    calls: list[tuple[str, bytes, dict[str, str]]] = field(default_factory=list)
    lists: int = 0
    listening: set[str] = field(default_factory=set)

    async def functions(self) -> list[Deployed]:
        self.lists += 1
        if self.listed is None:
            raise PlatformAway("openfaas", "list functions", "ConnectError")
        return self.listed

    async def call(self, function: str, body: bytes, headers: dict[str, str]) -> None:
        if body == PROBE:
            self.listening.add(function)
            return
        self.calls.append((function, body, headers))
        if self.failures:
            raise self.failures.pop(0)

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body, _ in self.calls]


def theirs(*filters: str, name: str = "theirs") -> Deployed:
    return Deployed(name=name, url=name, topics=filters)


def connector(bus: Broker, platform: FakeFunctions) -> Connector:
    return Connector(
        bus,
        "openfaas",
        platform.functions,
        platform.call,
        rebuild_s=0.02,
        retry_first_s=0.01,
        retry_most_s=0.02,
        rng=random.Random(0),  # noqa: S311 (jitter)
    )


@pytest.fixture(params=["memory_url", "nats_server"], ids=["memory", "nats"])
def url(request: pytest.FixtureRequest) -> str:
    """A broker's address."""
    server = request.getfixturevalue(request.param)
    return server.url if isinstance(server, NatsServer) else str(server)


@pytest.fixture
async def bus(url: str) -> AsyncIterator[Broker]:
    """A connection to the broker."""
    async with broker.connect(url, ack_wait_s=5.0) as connection:
        yield connection


async def subscribed(bus: Broker, platform: FakeFunctions, function: str = "theirs") -> None:
    """Wait until events reach the function."""
    async with asyncio.timeout(WITHIN_S):
        while function not in platform.listening:
            await bus.publish(COMPLETED, PROBE)
            await asyncio.sleep(0.02)


async def test_every_event_on_a_topic_calls_the_function_that_asked_for_it(bus: Broker) -> None:
    platform = FakeFunctions([theirs(ROUND_COMPLETED), Deployed(name="mute", url="mute")])
    async with running(connector(bus, platform).serve()):
        await subscribed(bus, platform)
        await bus.publish(COMPLETED, b'{"round": 1}')
        await bus.publish(topics.progress("job-1", "round", "opened"), b"{}")
        await bus.publish(topics.progress("job-2", "round", "completed"), b"\xff\x00")
        await soon(lambda: len(platform.calls) == 2)
    (function, body, headers), (_, raw, others) = platform.calls
    assert (function, body, raw) == ("theirs", b'{"round": 1}', b"\xff\x00")
    assert headers.pop("X-Call-Id") != others.pop("X-Call-Id")
    assert headers == {"X-Topic": COMPLETED, "X-Connector": "fedkeeper", "Content-Type": "application/json"}
    assert others["Content-Type"] == "application/octet-stream"
    assert others["X-Topic"] == "fl.progress.job-2.round.completed"


async def test_what_was_published_before_is_not_handed_over_and_what_came_in_absence_is(bus: Broker) -> None:
    platform = FakeFunctions([theirs(ROUND_COMPLETED)])
    await bus.publish(COMPLETED, b"before")
    async with running(connector(bus, platform).serve()):
        await subscribed(bus, platform)
    await bus.publish(COMPLETED, b"in absence")
    async with running(connector(bus, platform).serve()):
        await soon(lambda: bool(platform.calls))
    assert platform.bodies == [b"in absence"]


async def test_an_event_whose_call_fails_is_handed_over_again_under_the_same_id(bus: Broker) -> None:
    platform = FakeFunctions([theirs(ROUND_COMPLETED)])
    async with running(connector(bus, platform).serve()):
        await subscribed(bus, platform)
        platform.failures = [InvocationFailed("it raised"), OutcomeUnknown("504"), FunctionGone("404")]
        await bus.publish(COMPLETED, b"1")
        await soon(lambda: len(platform.calls) == 4)
        await bus.publish(COMPLETED, b"2")
        await soon(lambda: platform.bodies[-1] == b"2")
    assert platform.bodies == [b"1"] * 4 + [b"2"]
    assert len({headers["X-Call-Id"] for _, _, headers in platform.calls}) == 2


async def test_an_event_that_always_fails_is_dropped_and_logged(bus: Broker) -> None:
    platform = FakeFunctions([theirs(ROUND_COMPLETED)])
    with structlog.testing.capture_logs() as logs:
        async with running(connector(bus, platform).serve()):
            await subscribed(bus, platform)
            platform.failures = [InvocationFailed("it raised")] * MAX_ATTEMPTS
            await bus.publish(COMPLETED, b"1")
            await soon(lambda: not platform.failures)
            await bus.publish(COMPLETED, b"2")
            await soon(lambda: platform.bodies[-1] == b"2")
    assert platform.bodies == [b"1"] * MAX_ATTEMPTS + [b"2"]
    [entry] = [each for each in logs if each["event"] == "an event is passed over"]
    assert (entry["reason"], entry["attempts"], entry["topic"]) == ("it raised", MAX_ATTEMPTS, COMPLETED)


async def test_an_event_that_is_refused_for_good_is_not_tried_again(bus: Broker) -> None:
    platform = FakeFunctions([theirs(ROUND_COMPLETED)])
    async with running(connector(bus, platform).serve()):
        await subscribed(bus, platform)
        platform.failures = [InvocationFailed("400", retryable=False)]
        await bus.publish(COMPLETED, b"1")
        await bus.publish(COMPLETED, b"2")
        await soon(lambda: len(platform.calls) == 2)
    assert platform.bodies == [b"1", b"2"]


async def test_an_event_waits_for_a_platform_that_starts_nothing(bus: Broker) -> None:
    platform = FakeFunctions([theirs(ROUND_COMPLETED)])
    async with running(connector(bus, platform).serve()):
        await subscribed(bus, platform)
        platform.failures = [NotStarted("429")] * (3 * MAX_ATTEMPTS)
        await bus.publish(COMPLETED, b"1")
        await soon(lambda: len(platform.calls) == 3 * MAX_ATTEMPTS + 1)
    assert set(platform.bodies) == {b"1"}


async def test_the_last_good_map_outlives_the_platforms_absence(memory_url: str) -> None:
    platform = FakeFunctions([theirs(ROUND_COMPLETED)])
    with structlog.testing.capture_logs() as logs:
        async with broker.connect(memory_url) as bus, running(connector(bus, platform).serve()):
            await subscribed(bus, platform)
            platform.listed, lists = None, platform.lists
            await soon(lambda: platform.lists > lists + 2)
            await bus.publish(COMPLETED, b"1")
            await soon(lambda: platform.bodies == [b"1"])
    assert len([each for each in logs if each["event"].startswith("the functions can't be listed")]) == 1


async def test_the_map_follows_the_functions(memory_url: str) -> None:
    platform = FakeFunctions([])
    async with broker.connect(memory_url) as bus, running(connector(bus, platform).serve()):
        await soon(lambda: platform.lists > 1)
        platform.listed = [theirs(ROUND_COMPLETED)]
        await subscribed(bus, platform)
        platform.listed, lists = [theirs(ROUND_COMPLETED, name="other")], platform.lists
        await soon(lambda: platform.lists > lists + 1)
        await subscribed(bus, platform, "other")
        await bus.publish(COMPLETED, b"1")
        await soon(lambda: bool(platform.calls))
    assert [function for function, _, _ in platform.calls] == ["other"]


async def test_filters_that_match_no_event_are_logged_once_and_ignored(memory_url: str) -> None:
    odd = ("sensors.*.temperature", ">", "fl.progress.>.x", "fl.fabric.*.*", "fl.progress.a b")
    platform = FakeFunctions([theirs(*odd, "fl.tasks.openfaas.c-1", ROUND_COMPLETED)])
    with structlog.testing.capture_logs() as logs:
        async with broker.connect(memory_url) as bus, running(connector(bus, platform).serve()):
            await subscribed(bus, platform)
            lists = platform.lists
            await soon(lambda: platform.lists > lists + 2)
    entry = [each["topic"] for each in logs if each["event"] == "an annotation is ignored"]
    assert sorted(entry) == sorted(odd)


async def test_an_event_reaches_a_function_through_the_gateway(tmp_path: Path) -> None:
    received = tmp_path / "received"
    handler = (
        "def handle(event, context):\n"
        "    if event.path == '/healthz': return 'ok'\n"
        f"    with open({str(received)!r}, 'ab') as file: file.write(event.headers['X-Topic'].encode() + event.body)\n"
        "    return ('', 204)\n"
    )
    async with site(tmp_path) as faas:
        (tmp_path / "code" / "handler.py").write_text(handler)
        await faas.deploy("theirs", annotations={"topic": "fl/progress/+/round/completed"})
        async with running(faas.platform.serve()):
            async with asyncio.timeout(WITHIN_S):
                while not received.exists():
                    await faas.bus.publish(COMPLETED, b"\x00\xff")
                    await asyncio.sleep(0.05)
    assert received.read_bytes().startswith(COMPLETED.encode() + b"\x00\xff")
    [connector_header] = {call.headers["X-Connector"] for call in faas.gateway.calls if call.method == "POST"}
    assert connector_header == "fedkeeper"
