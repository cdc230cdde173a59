"""A bridge at work: takes a platform's tasks, has each one run, and answers for it until it is done or given up.

One runner for every platform. A task is acknowledged only when its update is with the broker, or when it is given up
and that is on record; a bridge that dies in between leaves it to the next one.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from bridges import presence
from bridges.attempt import Invoker, follow
from bridges.closed_rounds import ClosedRounds
from bridges.errors import InvocationFailed
from bridges.in_flight import HEARTBEAT_S, InFlight
from bridges.platform import Activation
from bridges.reports import Ended, Heard, Reports
from bridges.stats import StatsRecorder
from broker import topics
from broker.base import Broker, Delivery
from broker.errors import BadTopic, BrokerError, CorruptPayload, Disconnected
from broker.messages import cloudevents, codec
from broker.messages.cloudevents import Envelope
from broker.messages.errors import DecodeError
from broker.messages.invocation import Invocation, Outcome, Report
from broker.messages.round import RoundTask, TaskName
from broker.support.tasks import task_group

log = structlog.get_logger(__name__)

_FINAL: Final = frozenset({"failed", "dead", "expired"})
"""Outcomes that the task's acknowledgement, or its next attempt, depends on."""

UNREADABLE: Final = "unreadable"
"""Stands for the client in the dead-letter topic of what is no task."""


class Runner:
    """A bridge between a broker and a platform.

    Args:
        broker: where tasks come from.
        invoker: how they are run.
        heartbeat_s: how often the broker is told that a task is still being worked on.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        broker: Broker,
        invoker: Invoker,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._broker = broker
        self._invoker = invoker
        self._platform = invoker.platform
        self._clock = clock
        self._in_flight = InFlight(heartbeat_s)
        self._closed_rounds = ClosedRounds()
        self._reports = Reports(broker, self._platform.name)
        self._tallies = StatsRecorder(broker, self._platform.name)
        self._tried: set[str] = set()

    async def run(self) -> None:
        """Work until cancelled."""
        tasks, name = topics.platform_tasks(self._platform.name), f"bridge-{self._platform.name}"
        async with task_group() as group:
            for subject in ("job", "round"):
                group.create_task(
                    self._closed_rounds.follow(self._broker, subject), name=f"{name}.closed_rounds.{subject}"
                )
            group.create_task(self._reports.follow(), name=f"{name}.reports")
            group.create_task(self._tallies.write(), name=f"{name}.tallies")
            group.create_task(presence.announce(self._broker, self._platform.name), name=f"{name}.presence")
            group.create_task(self._in_flight.heartbeat(), name=f"{name}.heartbeat")
            async with self._broker.subscribe(tasks, durable=name, prefetch=self._platform.concurrency) as deliveries:
                async for delivery in deliveries:
                    group.create_task(self._handle(delivery), name=f"{name}.{delivery.sequence}")

    async def _handle(self, delivery: Delivery) -> None:
        payload = b""
        try:
            payload = await delivery.read()
            task = self._task(payload, delivery.topic)
        except (DecodeError, CorruptPayload, BadTopic) as exc:
            await self._bury(delivery, payload, str(exc))
            return
        with structlog.contextvars.bound_contextvars(job=task.job, round=task.round, client=task.client_id):
            if not await self._in_flight.adopt_or_ack_duplicate(task.id, delivery):
                await self._work_on(task, delivery)

    def _task(self, payload: bytes, topic: str) -> RoundTask:
        """The task in a delivery; anyone may publish to any topic, so it must be its own."""
        task = cloudevents.data_of(payload, RoundTask)
        if topic != topics.task(self._platform.name, task.client_id):
            raise DecodeError(f"a task for {task.client_id} does not belong there")
        return task

    async def _work_on(self, task: RoundTask, delivery: Delivery) -> None:
        record = _Record(self, task, delivery.attempt, self._clock())
        with self._in_flight.working(task.id, delivery):
            try:
                await self._attempt(record)
            except BrokerError as exc:
                # Not acknowledged, so it comes again: to us, or to the bridge that takes over.
                log.warning("the broker is out of reach; the task will be delivered again", error=str(exc))

    async def _attempt(self, record: "_Record") -> None:
        task = record.task
        if self._closed_rounds.contains(task.job, task.round) or record.started_s >= task.deadline_s:
            await self._give_up(record, "expired", "its round was over before it began")
            return
        try:
            async with asyncio.timeout(task.deadline_s - record.started_s):
                with self._reports.about(task.id) as heard:
                    await self._to_end(record, heard)
        except TimeoutError:
            await self._give_up(record, "expired", "the round's deadline passed")
        except InvocationFailed as exc:
            await self._failed(record, exc)
        else:
            await self._done(task)

    async def _to_end(self, record: "_Record", heard: asyncio.Queue[Heard]) -> None:
        task, first = record.task, record.task.id not in self._tried
        self._tried.add(task.id)
        if first and record.attempt > 1 and await self._is_under_way(record, heard):
            return
        await self._invoker.invoke(task, record.attempt, heard, record.note)

    async def _is_under_way(self, record: "_Record", heard: asyncio.Queue[Heard]) -> bool:
        """Whether the function that a bridge before us triggered brings the task to its end; waits for it."""
        report = await self._reports.last(record.task)
        if report is None or report.state == "failed":
            return False
        log.info("the function was triggered before; following it", state=report.state)
        before = Report(report.id, report.state, report.cold, attempt=record.attempt, activation=report.activation)
        heard.put_nowait(before)
        heard.put_nowait(Ended())
        try:
            await follow(record.attempt, heard, self._invoker.patience, record.note)
        except InvocationFailed as exc:
            log.warning("it did not come to its end; triggering it again", reason=exc.reason)
            return False
        return True

    async def _failed(self, record: "_Record", failure: InvocationFailed) -> None:
        activation = Activation(failure.activation, "accepted")
        if not failure.retryable or record.attempt >= record.task.max_attempts:
            await self._give_up(record, "dead", failure.reason, activation)
            return
        delay_s = self._invoker.patience.delay_s(record.attempt, self._invoker.rng)
        log.warning("invocation failed", attempt=record.attempt, reason=failure.reason, again_in_s=round(delay_s, 3))
        await record.note("failed", activation, failure.reason)
        await self._in_flight[record.task.id].nak(delay_s)

    async def _give_up(
        self, record: "_Record", outcome: Outcome, reason: str, activation: Activation | None = None
    ) -> None:
        log.warning("task given up", outcome=outcome, attempt=record.attempt, reason=reason)
        if outcome == "dead":
            topic = topics.dead(self._platform.name, record.task.client_id)
            payload = await self._in_flight[record.task.id].read()
            await self._broker.publish(topic, payload, dedupe=f"{record.task.id}.dead")
        await record.note(outcome, activation or Activation("", "accepted"), reason)
        await self._done(record.task)

    async def _done(self, task: RoundTask) -> None:
        self._tried.discard(task.id)
        await self._in_flight[task.id].ack()

    async def _note(
        self,
        task: RoundTask | TaskName,
        outcome: Outcome,
        activation: Activation,
        *,
        attempt: int,
        started_s: float,
        reason: str,
    ) -> None:
        """Put what becomes of an attempt on record."""
        now_s, platform = self._clock(), self._platform.name
        invocation = Invocation(
            job=task.job,
            round=task.round,
            client=task.client_id,
            platform=platform,
            attempt=attempt,
            outcome=outcome,
            activation=activation.id,
            cold=activation.cold,
            reason=reason,
            seconds=now_s - started_s,
        )
        self._tallies.note(invocation, now_s)
        name = f"{task.id}.{task.token[:16]}.{attempt}.{outcome}"
        envelope = Envelope(name, f"/bridges/{platform}", f"invocation.{outcome}", now_s, task.client_id)
        topic = topics.invocation(platform, task.client_id)
        try:
            await self._broker.publish(topic, cloudevents.encode(envelope, invocation), dedupe=name)
        except Disconnected as exc:
            if outcome in _FINAL:
                raise
            # A broker that is away is no reason to give a run up: its update waits as well.
            log.warning("an outcome is not on record", outcome=outcome, error=str(exc))

    async def _bury(self, delivery: Delivery, payload: bytes, reason: str) -> None:
        """Keep what can't be read where a person can look at it; the task that it names is given up."""
        log.error("no task", topic=delivery.topic, sequence=delivery.sequence, reason=reason)
        task = self._named(payload, delivery.topic)
        at = topics.dead(self._platform.name, UNREADABLE if task is None else task.client_id)
        await self._broker.publish(at, payload or reason.encode())
        if task is not None:
            nothing, now_s = Activation("", "accepted"), self._clock()
            await self._note(task, "dead", nothing, attempt=delivery.attempt, started_s=now_s, reason=reason)
        await delivery.ack()

    def _named(self, payload: bytes, topic: str) -> TaskName | None:
        """The task that an unreadable message is about, if it lies where that task belongs."""
        event = codec.decode_partial(_TaskEvent, payload)
        try:
            return event.data if event and topic == topics.task(self._platform.name, event.data.client_id) else None
        except BadTopic:
            return None


class _TaskEvent(msgspec.Struct, frozen=True):
    """A task's event, as far as it must be read to give the task up."""

    data: TaskName


@dataclass(frozen=True, slots=True)
class _Record:
    """Writes down what becomes of one attempt."""

    runner: Runner
    task: RoundTask
    attempt: int
    started_s: float

    async def note(self, outcome: Outcome, activation: Activation, reason: str = "") -> None:
        await self.runner._note(
            self.task, outcome, activation, attempt=self.attempt, started_s=self.started_s, reason=reason
        )
