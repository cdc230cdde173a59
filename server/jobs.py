"""A job from its acceptance to its end: initial model, rounds, commits, evaluations.

The record is moved by compare-and-set before anything that follows from it is done, and every step can be done twice:
whoever picks the record up after a crash goes on from where it stands and gets the same model.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from broker import topics
from broker.base import Broker
from broker.errors import Conflict, CorruptPayload, Denied, PayloadTooLarge, StorageFull
from broker.messages import codec, job_record, progress
from broker.messages.job_record import JobRecord
from broker.messages.progress import Event
from broker.messages.round import nonce as round_nonce
from broker.support.tasks import task_group
from server import cohort, commit, invitations, job_events, strategy
from server.announcer import Announcer
from server.collecting import Collection, Collector
from server.errors import JobFailed, LearningFailed
from server.evaluation import Evaluation
from server.job_events import JobEvents
from server.job_store import JobStore
from server.learning import Learning
from server.presence import BridgePresence
from server.recruiting import Recruiter
from server.registry import Registry
from server.rounds import State
from server.strategy import Finished, GlobalState

log = structlog.get_logger(__name__)

_BROKEN: Final = (CorruptPayload, Denied, PayloadTooLarge, StorageFull)
"""Broker errors that a retry cannot fix; they fail the job."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """What a job is run with.

    Attributes:
        broker: where everything is kept.
        announcer: tells the world.
        registry: who could take part.
        attendance: whose bridge is there.
        learning: builds and judges models.
        clock: seconds since the epoch.
        secret: makes an unguessable text, for a job that has none yet.
    """

    broker: Broker
    announcer: Announcer
    registry: Registry
    attendance: BridgePresence
    learning: Learning
    clock: Callable[[], float]
    secret: Callable[[], str]


async def run(job: str, context: JobContext) -> None:
    """Run a job to its end, from wherever its record stands."""
    while not await _run_once(job, context):
        log.info("another server moved this job; going on from its record", job=job)


async def _run_once(job: str, context: JobContext) -> bool:
    found = await context.broker.get(topics.job_record(job))
    if found is None:
        return True
    record = codec.decode(JobRecord, found.payload)
    if record.is_over:
        return True
    store = JobStore(context.broker, record, found.revision)
    try:
        await _Running(store, context).run_to_the_end()
    except Conflict:
        return False
    return True


class _Running:
    """A job that this server runs.

    The methods stand in the order in which a job comes to them.
    """

    def __init__(self, store: JobStore, context: JobContext) -> None:
        record = store.record
        self.job = record.job
        self._store = store
        self._context = context
        self._recruiter = Recruiter(record.job, context.registry, context.attendance, context.clock)
        self._strategy = strategy.of(record.job)
        self._state = GlobalState({})
        self._secret = ""
        self._evaluation = Evaluation(
            record.evaluated, record.accuracy, context.learning, context.announcer, context.clock
        )

    @property
    def record(self) -> JobRecord:
        """Where the job stands."""
        return self._store.record

    async def run_to_the_end(self) -> None:
        """Take every step until the job has ended, and everybody may know it."""
        if not self.record.has_ended:
            await self._store.tidy()
            try:
                await self._train()
            except (JobFailed, LearningFailed, *_BROKEN) as exc:
                await self._end("failed", str(exc))
        await self._announce_and_wait(_end_event(self.record))
        await self._store.clean_up()
        await self._store.move(announced=True)

    async def _train(self) -> None:
        record, context = self.record, self._context
        self._secret = await self._store.secret(context.secret)
        since_s = record.opened_s or record.created_s
        if record.phase == "accepted":
            await self._announce_and_wait(progress.JobAccepted(name=self.job.name, job=self.job))
        sources = context.broker, context.registry, context.attendance
        async with job_events.reading(*sources, job=record.id, since_s=since_s, clock=context.clock) as box:
            if record.phase == "accepted":
                await self._publish_first_model()
            else:
                await self._resume()
            async with task_group() as background:
                await self._run_rounds(box, background)

    async def _publish_first_model(self) -> None:
        initial = await asyncio.to_thread(self._context.learning.initial, self.job)
        self._state = self._strategy.init(initial.weights)
        model, server_state = await self._store.publish(self._state)
        parameters = sum(array.size for array in initial.weights.values())
        await self._announce_and_wait(progress.JobStarted(model=model, parameters=parameters))
        await self._store.move(
            phase="running", model=model, server_state=server_state, frozen=initial.frozen, buffers=initial.buffers
        )

    async def _resume(self) -> None:
        self._state = await self._store.recall()
        if self.record.last is not None:
            # It may have been committed, but not said, before a server went down.
            self._announce(self.record.last, self.record.last.round)

    async def _run_rounds(self, box: JobEvents, background: asyncio.TaskGroup) -> None:
        while not self.record.has_ended:
            await self._evaluate_if_due(background)
            if self.record.cohort:
                await self._run_round(box, background)
            elif reason := self._stop_reason():
                await self._end("completed", reason)
            else:
                await self._open_round(box)

    async def _evaluate_if_due(self, background: asyncio.TaskGroup) -> None:
        """Judge the newest model: here if the stop rule asks for it, else while the next round starts."""
        record, judge = self.record, self._evaluation.judge
        last = _rounds_over(record) and not record.cohort
        if record.last is None or not self._evaluation.due(self.job, record.last.round, record.done, last=last):
            return
        about = (record.id, self.job, record.last.round, self._store.weights)
        if last or self.job.stop.target_accuracy is not None:
            await judge(*about, in_background=False)
        else:
            name = f"{record.id}.evaluate.{record.last.round}"
            background.create_task(judge(*about, in_background=True), name=name)

    def _stop_reason(self) -> str:
        """Why the job's stop rule is met; empty: it is not."""
        target, accuracy = self.job.stop.target_accuracy, self._evaluation.accuracy
        if target is not None and accuracy is not None and accuracy >= target:
            return f"test accuracy {accuracy:.4f} reached the target {target:g}"
        return f"{self.record.done} rounds are done" if _rounds_over(self.record) else ""

    async def _open_round(self, box: JobEvents) -> None:
        """Choose the next round's cohort as soon as there are clients enough."""
        candidates = await self._recruiter.candidates(box, lambda event: self._announce(event, self.record.round))
        if box.cancel_asked:
            await self._end("cancelled")
            return
        now_s, round_ = self._context.clock(), self.record.round + 1
        await self._store.move(
            round=round_,
            cohort=cohort.choose(self.job, round_, candidates),
            opened_s=now_s,
            deadline_s=now_s + self.job.cohort.deadline_s,
            invited=False,
            closed=None,
            evaluated=self._evaluation.round,
            accuracy=self._evaluation.accuracy,
        )

    async def _run_round(self, box: JobEvents, background: asyncio.TaskGroup) -> None:
        """From the open cohort in the record to the next global model, or to a failed round."""
        before, context = self.record, self._context
        nonce = round_nonce(self._secret, before.id, before.round)
        expected = commit.expected(before, self._state.weights, nonce)
        collector = Collector(before, expected, context.announcer, context.clock, context.attendance.gone_s)
        invited_s = await self._invite(nonce)
        if before.closed is None:
            await self._close_round(await collector.run(box), invited_s)
        else:
            await self._commit_round(await collector.replay(box, before.closed), invited_s)
        background.create_task(self._store.forget(before), name=f"{before.id}.forget.{before.round}")

    async def _invite(self, nonce: str) -> float:
        """See to it that every member of the cohort has a task; returns when that was."""
        record = self.record
        event = progress.RoundOpened(
            round=record.round,
            cohort=tuple(member.id for member in record.cohort),
            quorum=min(self.job.cohort.needed, len(record.cohort)),
            deadline_s=record.deadline_s,
            resumed=record.invited,
        )
        self._announce(event, record.round, *(["resumed"] if record.invited else []))
        if record.invited:
            return record.opened_s
        await invitations.send(self._context.broker, record, nonce, self._strategy)
        invited_s = self._context.clock()
        await self._store.move(invited=True)
        return invited_s

    async def _close_round(self, collection: Collection, invited_s: float) -> None:
        match collection.round.state:
            case State.CLOSED:
                # From here on a replay counts the same updates, even if a clock decided.
                await self._store.move(closed=collection.sequence)
                await self._commit_round(collection, invited_s)
            case State.CANCELLED:
                await self._end("cancelled")
            case _:
                await self._fail_round(collection)

    async def _commit_round(self, collection: Collection, invited_s: float) -> None:
        """Make the sum the next global model."""
        record, aggregate = self.record, collection.aggregate
        finished = Finished(record.round, aggregate.mean(), aggregate.samples, aggregate.updates)
        self._state = self._strategy.apply(self._state, finished)
        model, server_state = await self._store.publish(self._state)
        committed_s = self._context.clock()
        event = commit.completed_event(record, collection, model, invited_s=invited_s, committed_s=committed_s)
        await self._evaluation.settled()
        await self._store.move(
            model=model,
            server_state=server_state,
            cohort=(),
            states=commit.states(record, collection),
            failures=0,
            done=record.done + 1,
            last=event,
            evaluated=self._evaluation.round,
            accuracy=self._evaluation.accuracy,
        )
        self._announce(event, event.round)

    async def _fail_round(self, collection: Collection) -> None:
        """The round has no quorum: do as the job's policy says."""
        record, policy = self.record, self.job.cohort
        event = commit.failed_event(record, collection)
        await self._announce_and_wait(event, record.round)
        failures = record.failures + 1
        if policy.on_failure == "stop" or failures >= policy.max_failures:
            raise JobFailed(f"round {record.round} failed: {event.reason} ({failures} in a row)")
        await self._store.move(cohort=(), failures=failures)

    async def _end(self, phase: job_record.Phase, reason: str = "") -> None:
        accuracy, evaluated = self._evaluation.accuracy, self._evaluation.round
        await self._store.move(phase=phase, cohort=(), reason=reason, accuracy=accuracy, evaluated=evaluated)

    def _announce(self, event: Event, *about: object) -> None:
        self._context.announcer.announce(self.record.id, event, *about)

    async def _announce_and_wait(self, event: Event, *about: object) -> None:
        """Say what must not be lost, before the record moves on."""
        await self._context.announcer.announce_and_wait(self.record.id, event, *about)


def _rounds_over(record: JobRecord) -> bool:
    counted = record.round if record.job.cohort.on_failure == "skip" else record.done
    return counted >= record.job.stop.rounds


def _end_event(record: JobRecord) -> Event:
    match record.phase:
        case "failed":
            return progress.JobFailed(reason=record.reason)
        case "cancelled":
            return progress.JobCancelled(rounds=record.done, model=record.model)
        case _:
            model, accuracy = commit.model_of(record), record.accuracy
            return progress.JobCompleted(reason=record.reason, rounds=record.done, accuracy=accuracy, model=model)
