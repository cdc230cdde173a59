"""Runs a platform's tasks. One runner serves every platform.

A task is acknowledged only when its update is with the broker, or when it is given up and that is on record. If a
bridge dies before that, the broker delivers the task to the next bridge.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import structlog

from bridges import presence
from bridges.attempt import Invoker, RecordOutcome, follow_attempt
from bridges.closed_rounds import ClosedRounds
from bridges.errors import InvocationFailed
from bridges.in_flight import HEARTBEAT_S, InFlight
from bridges.ownership import Ownership, open_ownership
from bridges.presence import Bridge
from bridges.reports import PlatformDone, Reports, RunEvents
from bridges.stats import StatsRecorder
from broker import topics
from broker.base import Broker
from broker.deliveries import Delivery
from broker.errors import BadTopic, BrokerError, CorruptPayload, Disconnected, StorageFull
from broker.messages import cloudevents, codec
from broker.messages.cloudevents import Envelope
from broker.messages.errors import DecodeError
from broker.messages.invocation import Invocation, Outcome
from broker.messages.round import RoundTask, TaskName
from broker.support import loggers
from broker.support.broker_time import BrokerTime
from broker.support.tasks import task_group

log = loggers.get_logger(__name__)

_FINAL: Final = frozenset({"failed", "dead", "expired"})
"""Outcomes that must be on record before the task is acknowledged or attempted again."""

FIRST_PRESENCE_S: Final = 5.0
"""A bridge that can't announce itself within this time takes tasks all the same, and compares clocks."""

UNREADABLE: Final = "unreadable"
"""Takes the client's place in the dead-letter topic of a message that names no client."""


class Runner:
    """Runs the tasks that a broker has for one platform.

    Args:
        broker: the connection that tasks come from.
        invoker: invokes the platform's functions.
        heartbeat_s: seconds between two extensions of a task's ack deadline while the task is in progress.
        clock: returns the time in seconds since the epoch.
        broker_time: the broker's clock; None: a new one, which the bridge's presence sets.
        bridge: what the bridge's presence says; None: nothing but the platform's name and the machine.
        on_up: called when the bridge has announced itself.
    """

    def __init__(
        self,
        broker: Broker,
        invoker: Invoker,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        clock: Callable[[], float] = time.time,
        broker_time: BrokerTime | None = None,
        bridge: Bridge | None = None,
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._invoker = invoker
        self._platform = invoker.platform
        self._clock = clock
        self._broker_time = BrokerTime() if broker_time is None else broker_time
        self._bridge = bridge or Bridge(self._platform.name)
        self._on_up = on_up
        self._in_flight = InFlight(heartbeat_s)
        self._closed_rounds = ClosedRounds()
        self._reports = Reports(broker, self._platform.name)
        self._stats = StatsRecorder(broker, self._platform.name)
        # The ids of tasks that this process has begun and not finished.
        self._started: set[str] = set()

    async def run(self) -> None:
        """Run tasks until cancelled.

        Raises:
            PlatformTaken: the platform is a machine of its own, and another machine has its name.
        """
        name = f"bridge-{self._platform.name}"
        async with contextlib.AsyncExitStack() as stack:
            ownership, bridge = None, self._bridge
            if bridge.is_own:
                opening = open_ownership(self._broker, bridge.platform, bridge.id, bridge.machine)
                ownership = await stack.enter_async_context(opening)
            group = await stack.enter_async_context(task_group())
            for subject in ("job", "round"):
                rounds = self._closed_rounds.follow(self._broker, subject)
                group.create_task(rounds, name=f"{name}.closed_rounds.{subject}")
            group.create_task(self._reports.follow(), name=f"{name}.reports")
            group.create_task(self._stats.flush_periodically(), name=f"{name}.stats")
            await self._announce(group, ownership)
            self._on_up()
            group.create_task(self._in_flight.heartbeat(), name=f"{name}.heartbeat")
            tasks = topics.platform_tasks(self._platform.name)
            async with self._broker.subscribe(tasks, durable=name, prefetch=self._platform.concurrency) as deliveries:
                async for delivery in deliveries:
                    group.create_task(self._handle(delivery), name=f"{name}.{delivery.sequence}")

    async def _announce(self, group: asyncio.TaskGroup, ownership: Ownership | None) -> None:
        """Announce the bridge; return when the broker's time is known, if it tells it, and the name is ours."""
        announced = asyncio.Event()
        announcing = presence.announce(
            self._broker,
            self._bridge,
            ownership=ownership,
            broker_time=self._broker_time,
            on_announced=announced.set,
            clock=self._clock,
        )
        group.create_task(announcing, name=f"bridge-{self._platform.name}.presence")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_PRESENCE_S if ownership is None else None):
                await announced.wait()

    async def _handle(self, delivery: Delivery) -> None:
        """Decode a task and attempt it; send an unreadable one to the dead-letter topic."""
        payload = b""
        try:
            payload = await delivery.read()
            task = cloudevents.data_of(payload, RoundTask)
            own_topic = topics.task(self._platform.name, task.client_id)
        except (DecodeError, CorruptPayload, BadTopic) as exc:
            await self._give_up_unreadable(delivery, payload, str(exc))
            return
        if delivery.topic != own_topic:
            # Anyone may publish to any topic; a task counts only on its client's own.
            await self._give_up_unreadable(delivery, payload, f"a task for {task.client_id} does not belong there")
            return
        task = msgspec.structs.replace(task, lasts_s=self._left_s(task, delivery))
        with structlog.contextvars.bound_contextvars(job=task.job, round=task.round, client=task.client_id):
            if await self._in_flight.adopt_or_ack_duplicate(task.id, delivery):
                return
            async with self._in_flight.track(task.id, delivery):
                try:
                    await self._attempt(task, delivery.attempt)
                except BrokerError as exc:
                    # Not acknowledged: the broker delivers it again, to this bridge or to the next one.
                    log.warning("the broker is out of reach; the task will be delivered again", error=str(exc))

    def _left_s(self, task: RoundTask, delivery: Delivery) -> float:
        """Return the seconds until the task's deadline. Our clock counts only where the broker tells no time."""
        age_s = self._broker_time.age_s(delivery.time_s) if delivery.age_s is None else delivery.age_s
        if task.lasts_s is None or age_s is None:
            return task.deadline_s - self._clock()
        return task.lasts_s - age_s

    async def _attempt(self, task: RoundTask, attempt: int) -> None:
        """Run one attempt at a task until it has succeeded or failed, or the round is over.

        Args:
            task: the task; `lasts_s` is what is left now.
            attempt: number of the attempt, from 1.
        """
        started_s, left_s = self._clock(), task.lasts_s or 0.0
        record = partial(self._record, task, attempt=attempt, started_s=started_s)
        if self._closed_rounds.contains(task.job, task.round) or left_s <= 0:
            await self._give_up(task, attempt, record, "expired", "its round was over before it began")
            return
        # An earlier bridge may have triggered the function already.
        is_taken_over = attempt > 1 and task.id not in self._started
        self._started.add(task.id)
        try:
            async with asyncio.timeout(left_s) as limit:
                record_in_time = _without_limit_after_success(record, limit)
                with self._reports.queue_for(task) as events:
                    if not (is_taken_over and await self._follow_earlier_run(task, events, record_in_time)):
                        await self._invoker.invoke(task, attempt, events, record_in_time)
        except TimeoutError:
            await self._give_up(task, attempt, record, "expired", "the round's deadline passed")
        except InvocationFailed as exc:
            if not exc.retryable or attempt >= task.max_attempts:
                await self._give_up(task, attempt, record, "dead", exc.reason, activation=exc.activation)
                return
            delay_s = self._invoker.retry_policy.delay_s(attempt, self._invoker.rng)
            log.warning("invocation failed", attempt=attempt, reason=exc.reason, again_in_s=round(delay_s, 3))
            await record("failed", activation=exc.activation, reason=exc.reason)
            await self._in_flight.nak(task.id, delay_s)
        else:
            await self._finish(task)

    async def _follow_earlier_run(self, task: RoundTask, events: RunEvents, record: RecordOutcome) -> bool:
        """Follow the run that an earlier bridge triggered. True if it succeeds, False if another one may succeed."""
        report = await self._reports.last(task)
        if report is None or (report.state == "failed" and (report.retryable or report.nothing_ran)):
            return False
        log.info("the function was triggered before; following it", state=report.state)
        events.put_nowait(report)
        events.put_nowait(PlatformDone())
        try:
            # By its own number: its failure counts too, and nothing else runs.
            await follow_attempt(report.attempt, events, self._invoker.retry_policy, record)
        except InvocationFailed as exc:
            if not exc.retryable:
                raise
            log.warning("the earlier run failed; triggering the function again", reason=exc.reason)
            return False
        return True

    async def _give_up(
        self,
        task: RoundTask,
        attempt: int,
        record: RecordOutcome,
        outcome: Outcome,
        reason: str,
        *,
        activation: str = "",
    ) -> None:
        log.warning("task given up", outcome=outcome, attempt=attempt, reason=reason)
        if outcome == "dead":
            payload = await self._in_flight[task.id].read()
            topic = topics.dead(self._platform.name, task.client_id)
            await self._broker.publish(topic, payload, dedupe=f"{task.id}.dead")
        await record(outcome, activation=activation, reason=reason)
        await self._finish(task)

    async def _finish(self, task: RoundTask) -> None:
        self._started.discard(task.id)
        await self._in_flight[task.id].ack()

    async def _record(
        self,
        task: RoundTask | TaskName,
        outcome: Outcome,
        *,
        attempt: int,
        started_s: float,
        activation: str = "",
        cold: bool | None = None,
        reason: str = "",
    ) -> None:
        """Publish an outcome of an attempt, and count it in the client's stats."""
        now_s, platform = self._clock(), self._platform.name
        invocation = Invocation(
            job=task.job,
            round=task.round,
            client=task.client_id,
            platform=platform,
            attempt=attempt,
            outcome=outcome,
            activation=activation,
            cold=cold,
            reason=reason,
            seconds=now_s - started_s,
        )
        self._stats.add(invocation, now_s)
        event_id = f"{task.id}.{task.token[:16]}.{attempt}.{outcome}"
        envelope = Envelope(event_id, f"/bridges/{platform}", f"invocation.{outcome}", now_s, task.client_id)
        topic = topics.invocation(platform, task.client_id)
        try:
            await self._broker.publish(topic, cloudevents.encode(envelope, invocation), dedupe=event_id)
            self._bridge.problems.clear("broker")
        except (Disconnected, StorageFull) as exc:
            if isinstance(exc, StorageFull):
                self._bridge.problems.note("broker", str(exc))
            if outcome in _FINAL:
                raise
            # The run goes on without the broker: its update waits for the connection as well.
            log.warning("an outcome is not on record", outcome=outcome, error=str(exc))

    async def _give_up_unreadable(self, delivery: Delivery, payload: bytes, reason: str) -> None:
        try:
            await self._dead_letter(delivery, payload, reason)
        except StorageFull as exc:
            log.warning("no room for an unreadable task; it will be delivered again", error=str(exc))

    async def _dead_letter(self, delivery: Delivery, payload: bytes, reason: str) -> None:
        """Publish an unreadable message to the dead-letter topic, and give up the task that it names, if any."""
        log.error("unreadable task", topic=delivery.topic, sequence=delivery.sequence, reason=reason)
        platform, event, task = self._platform.name, codec.decode_partial(_TaskEvent, payload), None
        # An id that no topic can have names no task.
        with contextlib.suppress(BadTopic):
            if event is not None and delivery.topic == topics.task(platform, event.data.client_id):
                task = event.data
        topic = topics.dead(platform, UNREADABLE if task is None else task.client_id)
        await self._broker.publish(topic, payload or reason.encode())
        if task is not None:
            await self._record(task, "dead", attempt=delivery.attempt, started_s=self._clock(), reason=reason)
        await delivery.ack()


def _without_limit_after_success(record: RecordOutcome, limit: asyncio.Timeout) -> RecordOutcome:
    """Return a `record` that lifts a time limit when the run has succeeded: that can no longer expire."""

    async def record_in_time(
        outcome: Outcome, *, activation: str = "", cold: bool | None = None, reason: str = ""
    ) -> None:
        await record(outcome, activation=activation, cold=cold, reason=reason)
        if outcome == "succeeded" and not limit.expired():
            limit.reschedule(None)

    return record_in_time


class _TaskEvent(msgspec.Struct, frozen=True):
    """The part of a task's event that can be read in every schema: the task's name."""

    data: TaskName
