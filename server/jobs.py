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
from broker.messages import codec, job_record, progress, tensors
from broker.messages.job_record import JobRecord
from broker.messages.progress import Event
from broker.messages.register import ClientRecord
from broker.messages.round import BlobRef
from broker.messages.round import nonce as round_nonce
from broker.support.tasks import task_group
from server import aggregator, cohort, invitations, job_events, strategy, timing
from server.announcer import Announcer
from server.collecting import Collection, Collector
from server.errors import JobFailed, LearningFailed
from server.evaluation import Evaluation
from server.gate import Expected
from server.job_events import Inbox, TimeUp
from server.job_store import Ledger
from server.learning import Learning
from server.presence import Attendance
from server.registry import Registry
from server.rounds import State
from server.strategy import Finished, GlobalState

log = structlog.get_logger(__name__)

_BROKEN: Final = (CorruptPayload, Denied, PayloadTooLarge, StorageFull)
"""What a broker says that no waiting will mend."""


@dataclass(frozen=True, slots=True)
class Surroundings:
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
    attendance: Attendance
    learning: Learning
    clock: Callable[[], float]
    secret: Callable[[], str]


async def run(job: str, around: Surroundings) -> None:
    """Run a job to its end, from wherever its record stands."""
    while not await _run_once(job, around):
        log.info("another server moved this job; going on from its record", job=job)


async def _run_once(job: str, around: Surroundings) -> bool:
    found = await around.broker.get(topics.pointer(job))
    if found is None or found.payload is None:
        return True
    record = codec.decode(JobRecord, found.payload)
    if record.over:
        return True
    ledger = Ledger(around.broker, record, found.revision)
    try:
        await _Running(ledger, around).to_the_end()
    except Conflict:
        return False
    return True


class _Running:
    """A job that this server runs."""

    def __init__(self, ledger: Ledger, around: Surroundings) -> None:
        record = ledger.record
        self.job = record.job
        self._ledger = ledger
        self._around = around
        self._strategy = strategy.of(record.job)
        self._state = GlobalState({})
        self._secret = ""
        self._evaluation = Evaluation(
            record.evaluated, record.accuracy, around.learning, around.announcer, around.clock
        )

    @property
    def record(self) -> JobRecord:
        """Where the job stands."""
        return self._ledger.record

    @property
    def _model(self) -> BlobRef:
        if self.record.model is None:
            raise JobFailed("it has no model yet")
        return self.record.model

    @property
    def _nonce(self) -> str:
        """What the tokens of the open round are made from."""
        return round_nonce(self._secret, self.record.id, self.record.round)

    async def to_the_end(self) -> None:
        """Every step until the job has ended, and everybody may know it."""
        if not self.record.ended:
            await self._ledger.tidy()
            try:
                await self._train()
            except (JobFailed, LearningFailed, *_BROKEN) as exc:
                await self._end("failed", str(exc))
        await self._said(self._end_event())
        await self._ledger.clean_up()
        await self._ledger.move(announced=True)

    async def _train(self) -> None:
        record, around = self.record, self._around
        self._secret = await self._ledger.secret(around.secret)
        since_s = record.opened_s or record.created_s
        if record.phase == "accepted":
            await self._said(progress.JobAccepted(name=self.job.name, job=self.job))
        sources = around.broker, around.registry, around.attendance
        async with job_events.reading(*sources, job=record.id, since_s=since_s, clock=around.clock) as box:
            await self._begin()
            async with task_group() as background:
                await self._steps(box, background)

    async def _begin(self) -> None:
        """The model: a new one, or the one that the record names."""
        if self.record.phase == "accepted":
            await self._start()
        else:
            self._state = await self._ledger.recall()
        if self.record.last is not None:
            # It may have been committed, but not said, before a server went down.
            self._say(self.record.last, self.record.last.round)

    async def _start(self) -> None:
        initial = await asyncio.to_thread(self._around.learning.initial, self.job)
        self._state = self._strategy.init(initial.weights)
        model, slots = await self._ledger.publish(self._state)
        parameters = sum(array.size for array in initial.weights.values())
        await self._said(progress.JobStarted(model=model, parameters=parameters))
        await self._ledger.move(
            phase="running", model=model, slots=slots, frozen=initial.frozen, buffers=initial.buffers
        )

    async def _steps(self, box: Inbox, background: asyncio.TaskGroup) -> None:
        while not self.record.ended:
            await self._evaluate_if_due(background)
            if self.record.cohort:
                await self._round(box, background)
            elif not await self._stop():
                await self._open(box)

    async def _open(self, box: Inbox) -> None:
        """Choose the next round's cohort as soon as there are clients enough."""
        candidates = await self._candidates(box)
        if box.cancel_asked:
            await self._end("cancelled")
            return
        now_s, round_ = self._around.clock(), self.record.round + 1
        await self._ledger.move(
            round=round_,
            cohort=cohort.choose(self.job, round_, candidates),
            opened_s=now_s,
            deadline_s=now_s + self.job.cohort.deadline_s,
            invited=False,
            closed=None,
            evaluated=self._evaluation.round,
            accuracy=self._evaluation.accuracy,
        )

    async def _candidates(self, box: Inbox) -> list[ClientRecord]:
        """Clients enough for a cohort; or fewer, if the job was cancelled meanwhile."""
        need, until_s = self.job.cohort.clients, self._around.clock() + self.job.cohort.wait_s
        found = self._eligible()
        if len(found) < need:
            self._say_waiting(len(found), until_s)
        while len(found) < need and not box.cancel_asked:
            await self._wait(box, until_s)
            found = self._eligible()
        return found

    def _eligible(self) -> list[ClientRecord]:
        return cohort.eligible(self.job, self._around.registry.clients, self._around.attendance.is_present)

    async def _wait(self, box: Inbox, until_s: float) -> None:
        if isinstance(await box.next(until_s), TimeUp):
            wanted = self.job.cohort
            raise JobFailed(
                f"too few clients after {wanted.wait_s:g} s: {self._short_of()}; "
                "stage the data and register clients with `fedkeeper stage`, or start `fedkeeper bridge local`"
            )

    def _short_of(self) -> str:
        """How many of the clients are registered, and how many of them have no bridge."""
        registered, there = cohort.holding(self.job, self._around.registry.clients), self._eligible()
        absent = sorted({client.platform for client in registered} - {client.platform for client in there})
        said = f"{len(registered)} of {self.job.cohort.clients} clients that hold {self.job.data.key!r} are registered"
        without = len(registered) - len(there)
        return said + (f", {without} of them on {', '.join(absent)}, whose bridge is not there" if without else "")

    async def _round(self, box: Inbox, background: asyncio.TaskGroup) -> None:
        """From the open cohort in the record to the next global model, or to a failed round."""
        before = self.record
        collector = Collector(
            before, self._expected(), self._around.announcer, self._around.clock, self._around.attendance.gone_s
        )
        invited_s = await self._invite()
        if before.closed is None:
            collection = await collector.run(box)
            await self._close(collection, invited_s)
        else:
            await self._commit(await collector.replay(box, before.closed), invited_s)
        background.create_task(self._ledger.forget(before), name=f"{before.id}.forget.{before.round}")

    async def _invite(self) -> float:
        """See to it that every member of the cohort has a task; returns when that was."""
        record = self.record
        event = progress.RoundOpened(
            round=record.round,
            cohort=tuple(member.id for member in record.cohort),
            quorum=min(self.job.cohort.needed, len(record.cohort)),
            deadline_s=record.deadline_s,
            resumed=record.invited,
        )
        self._say(event, record.round, *(["resumed"] if record.invited else []))
        if record.invited:
            return record.opened_s
        await invitations.send(self._around.broker, record, self._nonce, self._strategy)
        invited_s = self._around.clock()
        await self._ledger.move(invited=True)
        return invited_s

    def _expected(self) -> Expected:
        record, most = self.record, self.job.cohort.max_samples
        trained = {name: array for name, array in self._state.weights.items() if name not in record.frozen}
        total = sum(member.samples or most for member in record.cohort)
        return Expected(
            job=record.id,
            round=record.round,
            base=self._model.sha256,
            nonce=self._nonce,
            members={member.id: member for member in record.cohort},
            plan=aggregator.plan(trained, tensors.layout(trained), frozenset(record.buffers), total),
            max_samples=most,
        )

    async def _close(self, collection: Collection, invited_s: float) -> None:
        match collection.round.state:
            case State.CLOSED:
                # From here on a replay counts the same updates, even if a clock decided.
                await self._ledger.move(closed=collection.sequence)
                await self._commit(collection, invited_s)
            case State.CANCELLED:
                await self._end("cancelled")
            case _:
                await self._miss(collection)

    async def _commit(self, collection: Collection, invited_s: float) -> None:
        """Make the sum the next global model."""
        record, aggregate = self.record, collection.aggregate
        finished = Finished(record.round, aggregate.mean(), aggregate.samples, aggregate.updates)
        self._state = self._strategy.apply(self._state, finished)
        model, slots = await self._ledger.publish(self._state)
        said = self._completed(collection, model, invited_s)
        states = {client: h.state for client, h in collection.headers.items() if h.state is not None}
        await self._evaluation.settled()
        await self._ledger.move(
            model=model,
            slots=slots,
            cohort=(),
            states=record.states | states,
            failures=0,
            done=record.done + 1,
            last=said,
            evaluated=self._evaluation.round,
            accuracy=self._evaluation.accuracy,
        )
        self._say(said, said.round)

    def _completed(self, collection: Collection, model: BlobRef, invited_s: float) -> progress.RoundCompleted:
        record, headers = self.record, collection.headers
        return progress.RoundCompleted(
            round=record.round,
            counted=tuple(sorted(headers)),
            missing=tuple(sorted({member.id for member in record.cohort} - headers.keys())),
            samples=collection.aggregate.samples,
            model=model,
            split=timing.split(
                opened_s=record.opened_s,
                invited_s=invited_s,
                training_s=collection.training_s,
                last_s=collection.last_s,
                committed_s=self._around.clock(),
            ),
            trained_s=sum(header.seconds.get("train", 0.0) for header in headers.values()),
            metrics=timing.weighted({client: (h.samples, h.metrics) for client, h in headers.items()}),
            bytes_in=collection.bytes_in,
            bytes_out=sum(header.fetched for header in headers.values()),
        )

    async def _miss(self, collection: Collection) -> None:
        """The round has no quorum: do as the job's policy says."""
        record, policy = self.record, self.job.cohort.on_failure
        reason = f"{len(collection.headers)} of {collection.round.needed} needed updates"
        counted = tuple(sorted(collection.headers))
        event = progress.RoundFailed(round=record.round, reason=reason, counted=counted, policy=policy)
        await self._said(event, record.round)
        failures = record.failures + 1
        if policy == "stop" or failures >= self.job.cohort.max_failures:
            raise JobFailed(f"round {record.round} failed: {reason} ({failures} in a row)")
        await self._ledger.move(cohort=(), failures=failures)

    async def _evaluate_if_due(self, background: asyncio.TaskGroup) -> None:
        """Judge the newest model: here if the stop rule asks for it, else while the next round starts."""
        record, judge = self.record, self._evaluation.judge
        last = self._rounds_over() and not record.cohort
        if record.last is None or not self._evaluation.due(self.job, record.last.round, record.done, last=last):
            return
        about = (record.id, self.job, record.last.round, self._ledger.weights)
        if last or self.job.stop.target_accuracy is not None:
            await judge(*about, in_background=False)
        else:
            name = f"{record.id}.evaluate.{record.last.round}"
            background.create_task(judge(*about, in_background=True), name=name)

    def _rounds_over(self) -> bool:
        counted = self.record.round if self.job.cohort.on_failure == "skip" else self.record.done
        return counted >= self.job.stop.rounds

    async def _stop(self) -> bool:
        """End the job if its stop rule is met."""
        target, accuracy = self.job.stop.target_accuracy, self._evaluation.accuracy
        if target is not None and accuracy is not None and accuracy >= target:
            await self._end("completed", f"test accuracy {accuracy:.4f} reached the target {target:g}")
        elif self._rounds_over():
            await self._end("completed", f"{self.record.done} rounds are done")
        return self.record.ended

    async def _end(self, phase: job_record.Phase, reason: str = "") -> None:
        accuracy, evaluated = self._evaluation.accuracy, self._evaluation.round
        await self._ledger.move(phase=phase, cohort=(), reason=reason, accuracy=accuracy, evaluated=evaluated)

    def _end_event(self) -> Event:
        record = self.record
        match record.phase:
            case "failed":
                return progress.JobFailed(reason=record.reason)
            case "cancelled":
                return progress.JobCancelled(rounds=record.done, model=record.model)
            case _:
                accuracy = record.accuracy
                return progress.JobCompleted(
                    reason=record.reason, rounds=record.done, accuracy=accuracy, model=self._model
                )

    def _say_waiting(self, have: int, until_s: float) -> None:
        reason, need = self._short_of(), self.job.cohort.clients
        event = progress.JobWaiting(reason=reason, data=self.job.data.key, have=have, need=need, until_s=until_s)
        self._say(event, self.record.round)

    def _say(self, event: Event, *about: object) -> None:
        self._around.announcer.say(self.record.id, event, *about)

    async def _said(self, event: Event, *about: object) -> None:
        """Say what must not be lost, before the record moves on."""
        await self._around.announcer.said(self.record.id, event, *about)
