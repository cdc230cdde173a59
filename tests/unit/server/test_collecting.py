"""A round's collector on a broker in this process: what counts, what is announced, and what ends the round.

The test moves the clock. Nothing here waits for time.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import broker
from broker import topics
from broker.base import Broker
from broker.errors import Conflict
from broker.messages import codec
from broker.messages import tensors as payload
from broker.messages.invocation import Outcome
from broker.messages.job_record import JobRecord
from broker.messages.progress import (
    ClientFailed,
    ClientTraining,
    Event,
    RoundQuorum,
    UpdateCounted,
    UpdateRefused,
)
from broker.messages.register import Presence
from broker.messages.round import BlobRef, RoundTask
from broker.messages.tensors import Tensors
from server import cohort, invitations, round_facts, strategies
from server.announcer import Announcer
from server.collecting import Collector
from server.collection import Collection
from server.job_events import JobEvents, open_job_events
from server.presence import BridgePresence, open_presence
from server.registry import Registry
from server.round_clock import RoundClock
from server.rounds import RoundEvent, State
from server.shares import Shares
from tests.support import fakes

NONCE = "the round's nonce"
OPENED_S = time.monotonic() + 1e6  # later than every connection
DEADLINE_S = OPENED_S + 300
MODEL: Tensors = {"w": np.zeros(4, np.float32)}
WITHIN_S = 60.0


@dataclass
class Timer:
    """A clock that stands still until the test moves it."""

    now_s: float = OPENED_S

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Site:
    """A job's open round and its clients.

    Attributes:
        bus: the broker.
        timer: the server's clock.
        record: the job's record.
        presence: the bridges as the server sees them.
        events: the job's events.
        announced: what the server has announced.
        is_ours: whether no other server has changed the record.
        paused_s: the server is paused for so long when it has begun to collect.
    """

    bus: Broker
    timer: Timer
    record: JobRecord
    presence: BridgePresence
    events: JobEvents
    announced: list[Event] = field(default_factory=list)
    is_ours: bool = True
    paused_s: float = 0.0

    async def collect(self, closed: int | None = None, counted: dict[str, int] | None = None) -> Collection:
        """Collect until the round is over, as a server does; or replay it, up to a position or by what was counted."""
        strategy = strategies.create(self.record.job)
        expectation = round_facts.expectation(self.record, MODEL, NONCE, strategy)
        announcer = Announcer(lambda: 0.0)
        clock = RoundClock(self.timer, OPENED_S, DEADLINE_S)
        collector = Collector(
            self.record,
            expectation,
            Shares(strategy, self.record, expectation.plan, MODEL, {}),
            announcer,
            clock,
            give_up_s=self.presence.give_up_s,
            confirm=self.confirm,
        )
        self.timer.now_s += self.paused_s
        try:
            async with asyncio.timeout(WITHIN_S):
                if closed is not None:
                    return await collector.replay(self.events, closed, counted or {})
                return await collector.run(self.events)
        finally:
            self.announced += [announcement.progress.event for announcement in announcer._queue]

    async def confirm(self) -> None:
        if not self.is_ours:
            raise Conflict(topics.job_record(self.record.id), 1)

    def task(self, number: int) -> RoundTask:
        return invitations.task_for(self.record.cohort[number], self.record, NONCE)

    async def answer(self, number: int, attempt: int = 1, **header: Any) -> None:
        """Publish a client's update; `header` replaces fields of the correct one."""
        task = self.task(number)
        update = fakes.update({"w": np.ones(4, np.float32)}, fakes.header(task, attempt, **header))
        await self.bus.publish(topics.update(task.job, task.round, task.client_id, attempt), update)

    async def report(self, number: int, outcome: Outcome, attempt: int = 1, reason: str = "") -> None:
        """Publish an invocation's outcome, as a bridge does."""
        await fakes.report(self.bus, self.task(number), outcome, attempt, reason)

    async def announce_bridge(self, platform: str = "fake") -> None:
        here = Presence(bridge=platform, platform=platform, every_s=5.0)
        await self.bus.put(topics.presence(platform, platform), codec.encode(here))

    def kinds(self, *kinds: type[Event]) -> list[Any]:
        return [event for event in self.announced if isinstance(event, kinds)]


@contextlib.asynccontextmanager
async def site(url: str, clients: int = 4, **rules: Any) -> AsyncIterator[Site]:
    """A round for some clients, open since a moment ago."""
    job, timer = fakes.job(id="demo", cohort={"clients": clients, **rules}), Timer()
    record = JobRecord(
        id="demo",
        job=job,
        phase="running",
        round=1,
        model=BlobRef("fl.models.demo.x", "ab" * 32, payload.encode(MODEL).__len__()),
        cohort=cohort.members(fakes.clients(clients)),
        opened_s=OPENED_S,
        deadline_s=DEADLINE_S,
        invited=True,
    )
    async with (
        broker.connect(url) as bus,
        open_presence(bus, timer) as presence,
        open_job_events(bus, Registry(), presence, job="demo", since_s=0.0, clock=timer) as events,
    ):
        yield Site(bus, timer, record, presence, events)


async def test_updates_that_lie_there_at_the_deadline_count_and_more_than_the_queue_holds(memory_url: str) -> None:
    """A server was paused, or away, until the deadline had passed."""
    async with site(memory_url, 20) as demo:
        for number in range(20):
            await demo.answer(number)
        demo.paused_s = 400.0
        collection = await demo.collect()
    assert collection.round.state is State.CLOSED
    assert len(collection.headers) == 20
    assert not demo.kinds(UpdateRefused)


async def test_a_quorum_that_lies_there_at_the_deadline_closes_the_round(memory_url: str) -> None:
    async with site(memory_url, 4, quorum=2, grace_s=50.0) as demo:
        await demo.answer(3)
        await demo.answer(1)
        demo.paused_s = 400.0
        collection = await demo.collect()
    assert (collection.round.state, collection.round.ended_by) == (State.CLOSED, RoundEvent.DEADLINE)
    assert set(collection.headers) == {"client-01", "client-03"}
    assert demo.kinds(RoundQuorum)


async def test_a_deadline_comes_although_somebody_goes_on_publishing_updates(memory_url: str) -> None:
    async def flood(demo: Site) -> None:
        attempt = 0
        while True:
            attempt += 1
            await demo.bus.publish(topics.update("demo", 1, "client-00", attempt), b"rubbish")

    async with site(memory_url) as demo:
        demo.paused_s = 300.0
        async with fakes.running(flood(demo)):
            collection = await demo.collect()
    assert collection.round.state is State.FAILED


@pytest.mark.parametrize("outcome", ["dead", "expired"])
async def test_a_client_is_not_lost_while_its_update_lies_unread(memory_url: str, outcome: Outcome) -> None:
    async with site(memory_url, 12) as demo:
        for number in range(12):
            await demo.answer(number)
        await demo.report(11, outcome)
        collection = await demo.collect()
    assert collection.round.state is State.CLOSED
    assert not collection.failures


async def test_a_round_that_can_not_reach_its_quorum_ends_at_once(memory_url: str) -> None:
    async with site(memory_url) as demo:
        await demo.report(2, "dead", reason="out of memory")
        collection = await demo.collect()
    assert demo.timer.now_s == OPENED_S, "nobody has moved the clock"
    assert (collection.round.state, collection.round.ended_by) == (State.FAILED, RoundEvent.HOPELESS)
    assert collection.failures == {"client-02": "out of memory"}
    assert collection.hopeless == {"client-02"}, "given up before the last attempt"


async def test_a_client_that_has_used_up_its_attempts_may_do_better_in_the_next_round(memory_url: str) -> None:
    async with site(memory_url) as demo:
        await demo.report(2, "dead", attempt=demo.record.job.cohort.max_attempts)
        collection = await demo.collect()
    assert collection.failures
    assert not collection.hopeless


async def test_a_refused_update_is_its_clients_answer(memory_url: str) -> None:
    async with site(memory_url) as demo:
        await demo.report(1, "running")
        await demo.answer(1, samples=150_000)
        collection = await demo.collect()
    reason = round_facts.failed_event(demo.record, collection).reason
    assert reason.startswith("its update was refused (samples): it claims 150000 samples")
    assert "correct the register's number for this client (client-01)" in reason, "the remedy is missing"
    assert collection.hopeless == {"client-01"}


async def test_where_the_quorum_needs_no_refused_client_the_round_goes_on_without_it(memory_url: str) -> None:
    async with site(memory_url, 4, quorum=3, grace_s=250.0) as demo:
        await demo.answer(1, samples=150_000)
        for number in (0, 2, 3):
            await demo.answer(number)
        collection = await demo.collect()
    assert collection.round.state is State.CLOSED
    assert demo.timer.now_s == OPENED_S, "nobody is waited for"


@pytest.mark.parametrize("forged", [{"token": "0" * 64}, {"client": "client-02"}])
async def test_what_a_stranger_publishes_is_nobodys_answer(memory_url: str, forged: dict[str, str]) -> None:
    async with site(memory_url) as demo:
        await demo.answer(1, attempt=7, **forged)
        await demo.bus.publish(topics.update("demo", 1, "client-01", 8), b"rubbish")
        for number in range(4):
            await demo.answer(number)
        collection = await demo.collect()
    assert collection.round.state is State.CLOSED
    assert len(demo.kinds(UpdateRefused)) == 2


@pytest.mark.parametrize(("outcome", "attempt"), [("running", 2), ("failed", 1)])
async def test_a_client_whose_next_attempt_is_under_way_may_still_answer(
    memory_url: str, outcome: Outcome, attempt: int
) -> None:
    async with site(memory_url, 2) as demo:
        await demo.report(1, outcome, attempt)
        await demo.answer(1, samples=150_000)
        async with asyncio.TaskGroup() as group:
            collecting = group.create_task(demo.collect(), name="collect")
            await fakes.soon(lambda: demo.events._queue.empty() and not demo.events._is_reading_to_end)
            await demo.answer(1, attempt=2)
            await demo.answer(0)
    assert collecting.result().round.state is State.CLOSED


@pytest.mark.parametrize("is_replay", [False, True])
async def test_a_clients_training_is_announced_before_its_update_is_counted(
    memory_url: str, *, is_replay: bool
) -> None:
    """A server that resumes a round finds both in the log."""
    async with site(memory_url, 12) as demo:
        for number in range(12):
            await demo.report(number, "running")
            await demo.answer(number)
        collection = await demo.collect(await last_update(demo.bus) if is_replay else None)
    assert len(collection.headers) == 12
    for number in range(12):
        of_client = [
            event.what for event in demo.kinds(ClientTraining, UpdateCounted) if event.client.endswith(f"{number:02}")
        ]
        assert of_client == ["client.training", "update.counted"]
    assert len(collection.training) == 12


async def last_update(bus: Broker) -> int:
    """The position of the last of the twelve updates."""
    async with bus.subscribe(topics.job_updates("demo"), start="first") as deliveries:
        return [(await anext(deliveries)).sequence for _ in range(12)][-1]


async def test_trainings_of_clients_that_do_not_count_are_announced_before_the_rounds_end(memory_url: str) -> None:
    async with site(memory_url, 4, quorum=3, grace_s=0.0) as demo:
        for number in (0, 1, 2):
            await demo.answer(number)
        await demo.report(3, "running")
        await demo.collect()
    assert "client-03" in [event.client for event in demo.kinds(ClientTraining)]


async def test_an_update_tells_of_a_training_that_no_bridge_reported_in_time(memory_url: str) -> None:
    """A bridge that was killed meanwhile. The next one may report the same attempt later."""
    async with site(memory_url, 2) as demo:
        await demo.answer(0)
        await demo.report(0, "running")
        await demo.report(1, "running")
        await demo.answer(1)
        await demo.collect()
    events = demo.kinds(ClientTraining, UpdateCounted)
    assert [(event.what, event.client) for event in events if event.client == "client-00"] == [
        ("client.training", "client-00"),
        ("update.counted", "client-00"),
    ]


async def test_a_server_that_was_paused_while_another_went_on_says_nothing(memory_url: str) -> None:
    async with site(memory_url) as demo:
        await demo.answer(0)
        await demo.bus.publish(topics.update("demo", 2, "client-00", 1), b"of the next round")
        demo.paused_s, demo.is_ours = 400.0, False
        with pytest.raises(Conflict):
            await demo.collect()
    assert demo.announced == []


async def test_an_update_of_a_later_round_says_that_another_server_has_gone_on(memory_url: str) -> None:
    async with site(memory_url) as demo:
        await demo.bus.publish(topics.update("demo", 2, "client-00", 1), b"of the next round")
        demo.is_ours = False
        with pytest.raises(Conflict):
            await demo.collect()
    assert demo.announced == []


async def test_a_server_that_was_paused_gives_up_no_bridge_that_went_on_announcing_itself(memory_url: str) -> None:
    async with site(memory_url, 4, quorum=3, grace_s=250.0) as demo:
        await demo.announce_bridge()
        await demo.presence.catch_up()
        # Nothing runs here meanwhile: the next announcement lies on the broker when this process goes on.
        demo.timer.now_s += 36
        await demo.announce_bridge()
        for number in range(4):
            await demo.answer(number)
        collection = await demo.collect()
    assert len(collection.headers) == 4
    assert not demo.kinds(ClientFailed)


async def test_a_bridge_that_is_silent_is_given_up(memory_url: str) -> None:
    async with site(memory_url, 4, quorum=3, grace_s=250.0) as demo:
        await demo.announce_bridge()
        await demo.presence.catch_up()
        for number in range(3):
            await demo.answer(number)
        demo.timer.now_s += 30
        collection = await demo.collect()
    assert collection.round.state is State.CLOSED
    assert [event.client for event in demo.kinds(ClientFailed)] == ["client-03"]


def test_the_deadline_is_on_a_clock_that_does_not_jump() -> None:
    record = JobRecord(id="demo", job=fakes.job(), opened_s=5000.0, deadline_s=5300.0)
    epoch = [5000.0]
    clock = RoundClock.of(record, lambda: epoch[0], lambda: 70.0)
    epoch[0] += 600.0
    assert (clock.opened_s, clock.deadline_s) == (70.0, 370.0)
    assert clock.time_of(4000.0) == 70.0, "what comes now is new, whatever the broker's clock says"


def test_a_resumed_round_goes_on_with_what_is_left_and_knows_when_its_events_happened() -> None:
    record = JobRecord(id="demo", job=fakes.job(), opened_s=5000.0, deadline_s=5300.0, invited=True)
    clock = RoundClock.of(record, lambda: 5100.0, lambda: 170.0)
    assert (clock.opened_s, clock.deadline_s) == (70.0, 370.0)
    assert clock.time_of(5010.0) == 80.0
    assert clock.time_of(9000.0) == 170.0, "nothing has happened later than now"


async def test_a_replay_counts_what_is_on_record_in_whatever_order_it_comes(memory_url: str) -> None:
    """On MQTT an update that came last may have a smaller sequence than one that was counted before it."""
    async with site(memory_url, 4) as demo:
        for number in range(4):
            await demo.answer(number)
        everybody = {f"client-{number:02}": 1 for number in range(4)}
        collection = await demo.collect(1, everybody)
    assert collection.attempts == everybody


async def test_a_replay_does_not_count_an_update_that_came_after_the_rounds_end(memory_url: str) -> None:
    async with site(memory_url, 4) as demo:
        for number in range(4):
            await demo.answer(number)
        collection = await demo.collect(4, {"client-00": 1, "client-02": 1, "client-03": 1})
    assert sorted(collection.headers) == ["client-00", "client-02", "client-03"]
