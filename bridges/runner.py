"""A bridge at work: takes a platform's tasks, has each one run, and answers for it until it is done or given up.

One runner for every platform. A task is acknowledged only when its update is with the broker, or when it is given up
and that is on record; a bridge that dies in between leaves it to the next one.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import structlog

from bridges.errors import InvocationFailed
from bridges.lapsed import Lapsed
from bridges.platform import Activation, Platform
from broker import backoff, cloudevents, topics
from broker.base import ACK_WAIT_S, Broker, Delivery
from broker.cloudevents import Envelope
from broker.concurrency import task_group
from broker.errors import BadTopic, BrokerError, DecodeError
from broker.messages import Invocation, Outcome, RoundTask

log = structlog.get_logger(__name__)

HEARTBEAT_S: Final = ACK_WAIT_S / 3

UNREADABLE: Final = "unreadable"
"""Stands for the client in the dead-letter topic of what is no task."""


@dataclass
class Runner:
    """A bridge between a broker and a platform.

    Attributes:
        broker: where tasks come from.
        platform: who runs them.
        retry_first_s: the longest delay after a first failed attempt; it doubles with each further one.
        retry_most_s: no delay is longer.
        heartbeat_s: how often the broker is told that a task is still being worked on.
        clock: seconds since the epoch.
        rng: for the jitter.
    """

    broker: Broker
    platform: Platform
    retry_first_s: float = 1.0
    retry_most_s: float = 30.0
    heartbeat_s: float = HEARTBEAT_S
    clock: Callable[[], float] = time.time
    rng: random.Random = field(default_factory=random.Random)
    _held: dict[str, Delivery] = field(default_factory=dict)
    _lapsed: Lapsed = field(default_factory=Lapsed)

    async def run(self) -> None:
        """Work until cancelled."""
        tasks, name = topics.platform_tasks(self.platform.name), f"bridge-{self.platform.name}"
        async with task_group() as group:
            for subject in ("job", "round"):
                group.create_task(self._lapsed.follow(self.broker, subject), name=f"{name}.lapsed.{subject}")
            group.create_task(self._heartbeat(), name=f"{name}.heartbeat")
            async with self.broker.subscribe(tasks, durable=name, prefetch=self.platform.concurrency) as deliveries:
                async for delivery in deliveries:
                    group.create_task(self._handle(delivery), name=f"{name}.{delivery.sequence}")

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_s)
            for delivery in list(self._held.values()):
                try:
                    await delivery.working()
                except BrokerError as exc:
                    log.warning("the broker does not hear that a task is being worked on", error=str(exc))

    async def _handle(self, delivery: Delivery) -> None:
        payload = b""
        try:
            payload = await delivery.read()
            task = self._task(payload, delivery.topic)
        except (DecodeError, BadTopic) as exc:
            await self._bury(delivery, payload, str(exc))
            return
        with structlog.contextvars.bound_contextvars(job=task.job, round=task.round, client=task.client_id):
            if not await self._is_known(task, delivery):
                await self._work_on(task, delivery)

    def _task(self, payload: bytes, topic: str) -> RoundTask:
        """The task in a delivery; anyone may publish to any topic, so it must be its own."""
        task = cloudevents.data_of(payload, RoundTask)
        if topic != topics.task(self.platform.name, task.client_id):
            raise DecodeError(f"a task for {task.client_id} does not belong there")
        return task

    async def _is_known(self, task: RoundTask, delivery: Delivery) -> bool:
        """Whether this very task is being worked on already."""
        held = self._held.get(task.id)
        if held is None:
            return False
        if held.sequence == delivery.sequence:
            # The broker lost patience with us: from now on the newer delivery is the one to acknowledge.
            self._held[task.id] = delivery
        else:
            await delivery.ack()
        return True

    async def _work_on(self, task: RoundTask, delivery: Delivery) -> None:
        self._held[task.id] = delivery
        try:
            await self._attempt(task, delivery.attempt)
        except BrokerError as exc:
            # Not acknowledged, so it comes again: to us, or to the bridge that takes over.
            log.warning("the broker is out of reach; the task will be delivered again", error=str(exc))
        finally:
            del self._held[task.id]

    async def _attempt(self, task: RoundTask, attempt: int) -> None:
        started_s = self.clock()
        record = _Record(self, task, attempt, started_s)
        if self._lapsed.has(task.job, task.round) or started_s >= task.deadline_s:
            await self._give_up(record, "expired", "its round was over before it began")
            return
        try:
            async with asyncio.timeout(task.deadline_s - started_s):
                await self._invoke(task, attempt, record)
        except TimeoutError:
            await self._give_up(record, "expired", "the round's deadline passed")
        except InvocationFailed as exc:
            await self._failed(record, exc)
        else:
            await self._held[task.id].ack()

    async def _invoke(self, task: RoundTask, attempt: int, record: "_Record") -> None:
        async with aclosing(self.platform.invoke(task, attempt)) as activations:
            async for activation in activations:
                await record.note(activation.state, activation)

    async def _failed(self, record: "_Record", failure: InvocationFailed) -> None:
        activation = Activation(failure.activation, "accepted")
        if not failure.retryable or record.attempt >= record.task.max_attempts:
            await self._give_up(record, "dead", failure.reason, activation)
            return
        first_s, most_s = self.retry_first_s, self.retry_most_s
        delay_s = backoff.delay_s(record.attempt - 1, self.rng.uniform, first_s=first_s, most_s=most_s)
        log.warning("invocation failed", attempt=record.attempt, reason=failure.reason, again_in_s=round(delay_s, 3))
        await record.note("failed", activation, failure.reason)
        await self._held[record.task.id].nak(delay_s)

    async def _give_up(
        self, record: "_Record", outcome: Outcome, reason: str, activation: Activation | None = None
    ) -> None:
        log.warning("task given up", outcome=outcome, attempt=record.attempt, reason=reason)
        delivery = self._held[record.task.id]
        if outcome == "dead":
            topic = topics.dead(self.platform.name, record.task.client_id)
            await self.broker.publish(topic, await delivery.read(), dedupe=f"{record.task.id}.dead")
        await record.note(outcome, activation or Activation("", "accepted"), reason)
        await delivery.ack()

    async def _bury(self, delivery: Delivery, payload: bytes, reason: str) -> None:
        """What is no task is no client's either; keep it where a person can look at it."""
        log.error("no task", topic=delivery.topic, sequence=delivery.sequence, reason=reason)
        await self.broker.publish(topics.dead(self.platform.name, UNREADABLE), payload or reason.encode())
        await delivery.ack()


@dataclass(frozen=True, slots=True)
class _Record:
    """Writes down what becomes of one attempt."""

    runner: Runner
    task: RoundTask
    attempt: int
    started_s: float

    async def note(self, outcome: Outcome, activation: Activation, reason: str = "") -> None:
        task, now_s, platform = self.task, self.runner.clock(), self.runner.platform.name
        invocation = Invocation(
            job=task.job,
            round=task.round,
            client=task.client_id,
            platform=platform,
            attempt=self.attempt,
            outcome=outcome,
            activation=activation.id,
            cold=activation.cold,
            reason=reason,
            seconds=now_s - self.started_s,
        )
        name = f"{task.id}.{task.token[:16]}.{self.attempt}.{outcome}"
        envelope = Envelope(name, f"/bridges/{platform}", f"invocation.{outcome}", now_s, task.client_id)
        topic = topics.invocation(platform, task.client_id)
        await self.runner.broker.publish(topic, cloudevents.encode(envelope, invocation), dedupe=name)
