"""Runs a job from its acceptance to its end: initial model, rounds, commits, evaluations.

The record is changed by compare-and-set before anything that follows from the change is done, and every step can be
repeated. A server that takes a job over after a crash continues from the record and gets the same model.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from broker import topics
from broker.errors import Conflict, CorruptPayload, Denied, PayloadTooLarge, StorageFull
from broker.messages import codec, job_record, progress
from broker.messages.job_record import JobRecord, Member
from broker.messages.progress import Event
from broker.messages.register import ClientRecord
from broker.messages.round import nonce as round_nonce
from broker.messages.tensors import Tensors
from broker.support import heap, loggers
from broker.support.tasks import task_group
from server import (
    attempts,
    beginning,
    cohort,
    evaluators,
    findings,
    history,
    invitations,
    own_places,
    round_facts,
    selection,
    strategies,
)
from server.collecting import Collector
from server.collection import Collection
from server.errors import JobCancelled, JobCannotContinue, LearningFailed, NoRoomForUpdates
from server.evaluation import Evaluation
from server.job_context import JobContext
from server.job_events import JobEvents, open_job_events
from server.job_store import JobStore, get_or_create_secret
from server.pauses import Outcome, Pauses, remedy_of
from server.recruiting import Recruiter
from server.round_clock import RoundClock
from server.round_rules import RoundRules
from server.rounds import State
from server.selection import History
from server.strategies.base import Finished, GlobalState, ModelInfo

log = loggers.get_logger(__name__)

_PERMANENT: Final = (CorruptPayload, Denied, PayloadTooLarge)
"""Broker errors that a retry cannot fix; they fail the job."""

_ENDS: Final[dict[Outcome, job_record.Phase]] = {Outcome.CANCELLED: "cancelled", Outcome.TOO_LONG: "failed"}
"""The phase in which a pause ends a job."""


async def run(job: str, context: JobContext) -> None:
    """Run a job to its end, starting from its record.

    Args:
        job: the job's id.
        context: what the job uses.

    Raises:
        DecodeError: the record is unreadable.
        SchemaTooNew: a newer server has changed the record.
        Disconnected: the broker was unreachable for longer than a call may take.
    """
    started: set[str] = set()
    pauses, outcome = Pauses(context.broker, context.announcer, context.clock), Outcome.AGAIN
    reason = ""
    while True:
        value = await context.broker.get(topics.job_record(job))
        if value is None:
            return
        record = codec.decode(JobRecord, value.payload)
        if record.is_finished:
            return
        store = JobStore(context.broker, record, value.revision, started, context.held)
        try:
            if outcome in _ENDS and not record.has_ended:
                await store.change(phase=_ENDS[outcome], cohort=(), reason=reason)
            with context.announcer.epoch(job, record.epoch):
                await _JobRun(store, context).run()
        except Conflict:
            log.info("another server changed the record; continuing from it", job=job)
        except (StorageFull, NoRoomForUpdates) as exc:
            outcome = await pauses.wait(store.record, exc)
            reason = f"{exc}: {remedy_of(exc)}" if outcome is Outcome.TOO_LONG else ""
        else:
            return


class _JobRun:
    """One run of a job on this server. The methods stand in the order of a job's life."""

    def __init__(self, store: JobStore, context: JobContext) -> None:
        record = store.record
        self.job = record.job
        self._store = store
        self._context = context
        self._recruiter = Recruiter(record.job, context.registry, context.presence, context.clock, context.timer)
        self._strategy = strategies.create(record.job)
        self._selection = selection.create(record.job)
        self._drawn_from = record.job.data.clients
        self._history: History = {}
        self._state = GlobalState({})
        self._secret = ""
        self._announced: tuple[progress.JobStarted | None, progress.RoundFailed | None] = None, None
        self._evaluating: asyncio.Task[None] | None = None
        self._evaluation = Evaluation(store, context.learning, context.announcer, context.clock)

    @property
    def record(self) -> JobRecord:
        return self._store.record

    async def run(self) -> None:
        """Train until the job ends, announce the end, and delete what is no longer needed."""
        if not self.record.has_ended:
            await self._store.delete_last_updates()
            try:
                await self._train()
            except JobCancelled:
                await self._end("cancelled")
            except (JobCannotContinue, LearningFailed, *_PERMANENT) as exc:
                if round_facts.is_to_judge(self.record):
                    await self._end("completed", f"{self.record.reason}; clients could not judge the last model: {exc}")
                else:
                    await self._end("failed", str(exc))
        await self._announce_decided()
        await self._announce_and_wait(round_facts.end_event(self.record))
        await self._store.clean_up()
        await self._store.change(announced=True, superseded=(), ended_s=self._context.clock())
        log.info("the job has ended", job=self.record.id, **round_facts.end_facts(self.record))

    async def _train(self) -> None:
        """Start or resume the job, and run rounds until it ends."""
        record, context = self.record, self._context
        self._secret = await get_or_create_secret(context.broker, record.id, context.make_secret)
        context.held.note_secret(record.id, self._secret)
        if record.phase == "accepted":
            await self._announce_and_wait(progress.JobAccepted(name=self.job.name, job=self.job))
        sources = context.broker, context.registry, context.presence
        since_s = record.opened_s or record.created_s
        async with open_job_events(*sources, job=record.id, since_s=since_s, clock=context.timer) as events:
            if record.phase == "accepted":
                await self._publish_initial_model(events)
            else:
                self._state = await self._store.load_state(await self._make_frozen(events))
                if record.last is not None:
                    # The server may have crashed after the commit and before the announcement.
                    self._announce(record.last, record.last.round)
                await self._announce_decided()
                if self._selection.needs_history:
                    self._history = await history.read(context.broker, record)
            async with task_group() as background:
                while not self.record.has_ended:
                    await self._evaluate_if_due(events, background)
                    if self.record.cohort:
                        await self._run_round(events, background)
                    elif reason := self._stop_reason():
                        await self._open_last_round(reason)
                    else:
                        await self._open_round(events)
                if self.record.phase == "cancelled" and self._evaluating is not None:
                    # Nobody needs its result any more, and it may take long.
                    self._evaluating.cancel()

    async def _publish_initial_model(self, events: JobEvents) -> None:
        learning, broker = self._context.learning, self._context.broker
        build = attempts.run(
            self._store, "the construction of the model", lambda: beginning.begin(self.job, learning, broker)
        )
        initial, start = await events.unless_cancelled(build)
        self.job = msgspec.structs.replace(self.job, model=msgspec.structs.replace(self.job.model, code=initial.code))
        info = ModelInfo(initial.weights, frozenset(initial.frozen), frozenset(initial.buffers))
        self._state = self._store.take(self._strategy.init(info))
        frozen = await self._store.publish_frozen({name: initial.weights[name] for name in initial.frozen})
        published = await self._store.publish(self._state, self._strategy.along(self._state), initial.frozen)
        parameters = sum(array.size for array in initial.weights.values())
        await self._store.change(
            phase="running",
            job=self.job,
            frozen=initial.frozen,
            buffers=initial.buffers,
            personal=initial.personal,
            started=progress.JobStarted(model=published.model, parameters=parameters, start=start),
            **frozen,
            **published._asdict(),
        )
        await self._announce_decided()

    async def _make_frozen(self, events: JobEvents) -> Tensors | None:
        """Make the tensors again that were never published: each site makes them itself."""
        record, learning = self.record, self._context.learning
        if not record.frozen_digest:
            return None
        step = "the construction of the frozen tensors"
        return await events.unless_cancelled(
            attempts.run(self._store, step, lambda: beginning.made_by_sites(record, learning))
        )

    async def _evaluate_if_due(self, events: JobEvents, background: asyncio.TaskGroup) -> None:
        """Evaluate the newest model: now if a rule of the job needs the result, else while the next round runs."""
        record, completed = self.record, self.record.last
        is_last = _has_done_all_rounds(record) and not record.cohort
        if completed is None or not self._evaluation.is_due(self.job, completed.round, record.done, is_last=is_last):
            return
        in_background = not is_last and not findings.needs_results(self.job)
        evaluation = self._evaluation.evaluate(
            record.id, self.job, completed.round, self._store.weights, in_background=in_background
        )
        if in_background:
            name = f"{record.id}.evaluate.{completed.round}"
            self._evaluating = background.create_task(evaluation, name=name)
        else:
            await events.unless_cancelled(evaluation)

    def _stop_reason(self) -> str:
        """Say why the job's stop rule is met; empty if it is not met."""
        if reason := findings.stop_reason(self._evaluation.found, self.job):
            return reason
        return f"{self.record.done} rounds are done" if _has_done_all_rounds(self.record) else ""

    async def _open_round(self, events: JobEvents) -> None:
        """Wait for enough clients, and choose the next round's cohort."""
        is_first = self.record.round == 0
        candidates = await self._recruiter.wait_for_candidates(events, self._wait, is_first=is_first)
        if events.cancel_requested:
            await self._end("cancelled")
            return
        if is_first:
            own_places.check(self.job, candidates)
        if len(candidates) != self._drawn_from:
            self._drawn_from = len(candidates)
            self._recruiter.warn_of_draw(self._drawn_from)
        chosen, round_ = self._chosen(candidates), self.record.round + 1
        judges = evaluators.of_round(self.job, candidates, chosen, round_, self.record.done)
        await self._store.change(**self._opening((*cohort.members(chosen), *judges)))

    async def _wait(self, event: progress.JobWaiting) -> None:
        """Put it on record that the job waits for clients, and announce it."""
        if not self.record.waiting:
            await self._store.change(waiting=event.reason)
        log.info("the job waits for clients", job=self.record.id, reason=event.reason)
        self._announce(event, self.record.round)

    async def _open_last_round(self, reason: str) -> None:
        """Ask clients to judge the last model, or end the job at once if none are to."""
        judges = evaluators.of_last_model(self.job, self._chosen(self._recruiter.eligible()))
        if judges and self.record.last is not None:
            await self._store.change(reason=reason, **self._opening(judges))
        else:
            note = "; no client was there to judge the last model" if self.job.is_judged_by_clients else ""
            await self._end("completed", reason + note)

    def _chosen(self, candidates: Sequence[ClientRecord]) -> list[ClientRecord]:
        """Return the clients that the next round invites to train."""
        return self._selection.choose(self._history, candidates, self.record.round + 1)

    def _opening(self, members: tuple[Member, ...]) -> dict[str, Any]:
        """Return the changes of the record that open the next round."""
        now_s = self._context.clock()
        return {
            "round": self.record.round + 1,
            "cohort": members,
            "holders": len(self._recruiter.holders()),
            "opened_s": now_s,
            "deadline_s": now_s + self.job.cohort.deadline_s,
            "invited": False,
            "renewed_s": 0.0,
            "closed": None,
            "counted": {},
            "started": None,
            "failed": None,
            "waiting": "",
            **self._evaluation.changes,
        }

    async def _run_round(self, events: JobEvents, background: asyncio.TaskGroup) -> None:
        """Invite the cohort, collect its updates, and commit their mean as the next global model."""
        opened, context = self.record, self._context
        nonce = round_nonce(self._secret, opened.id, opened.round)
        rules = RoundRules.of(opened, self._state, self._strategy, nonce)
        clock = RoundClock.of(opened, context.clock, context.timer)
        sources = rules.expectation, rules.shares, context.announcer, clock
        collector = Collector(opened, *sources, give_up_s=context.presence.give_up_s, confirm=self._store.confirm)
        event = round_facts.opened_event(opened)
        if event.resumed:
            # What was said before must not delay this: another server may go on with the round at any time.
            await context.announcer.settle(opened.id)
        # Another server may have gone on while this one was paused: then it says nothing.
        await self._store.confirm()
        self._announce(event, opened.round, *(["resumed"] if event.resumed else []))
        with rules.spooling(collector.collection):
            if not opened.invited:
                if opened.renewed_s:
                    await collector.catch_up(events)
                await self._invite(collector, nonce, clock.left_s)
            await self._collect(collector, rules, events)
        background.create_task(self._store.delete_superseded(opened), name=f"{opened.id}.delete.{opened.round}")

    async def _invite(self, collector: Collector, nonce: str, lasts_s: float) -> None:
        """Send the open round's tasks to the clients that it waits for."""
        record, context = self.record, self._context
        await invitations.send(context.broker, record, nonce, lasts_s, self._store.states, only=collector.awaited)
        collector.collection.invited_s = context.timer()
        # Once this is on record, a crash is followed by `resumed`: nobody announces the opening again.
        await context.announcer.settle(record.id)
        await self._store.change(invited=True)

    async def _collect(self, collector: Collector, rules: RoundRules, events: JobEvents) -> None:
        """Collect the open round's updates, or count again those that were counted before a crash, and close it."""
        opened = self.record
        if opened.closed is not None:
            await self._close(await collector.replay(events, opened.closed, opened.counted), rules, events)
        else:
            collection = await collector.run(events)
            match collection.round.state:
                case State.CLOSED:
                    # After this, a replay counts the same updates even if the clock closed the round.
                    await self._store.change(closed=collection.sequence, counted=collection.attempts)
                    await self._close(collection, rules, events)
                case State.CANCELLED:
                    await self._end("cancelled")
                case _:
                    await self._fail_round(collection)

    async def _close(self, collection: Collection, rules: RoundRules, events: JobEvents) -> None:
        """Make the next global model, or end the job if the round was only to judge the last one."""
        if not round_facts.is_to_judge(self.record):
            await self._commit(collection, rules, events)
            return
        await events.unless_cancelled(self._evaluation.score(collection.judging, in_background=False))
        await events.unless_cancelled(self._context.announcer.settle(self.record.id))
        answered, asked = len(collection.judging.headers), len(self.record.cohort)
        note = "" if answered == asked else f"; {answered} of {asked} clients have judged the last model"
        await self._end("completed", self.record.reason + note)

    async def _commit(self, collection: Collection, rules: RoundRules, events: JobEvents) -> None:
        """Make the next global model of a round's updates."""
        record = self.record
        self._state = self._store.take(await self._apply(await rules.finish(collection), collection))
        heap.give_back(len(self._store.weights))
        published = await self._store.publish(self._state, self._strategy.along(self._state), record.frozen)
        states, model = round_facts.client_states(record, collection), published.model
        tables = await self._store.publish_states(states)
        event = round_facts.completed_event(record, collection, model, committed_s=self._context.timer())
        await events.unless_cancelled(self._evaluation.wait())
        if self.job.is_judged_by_clients:
            await events.unless_cancelled(self._evaluation.score(collection.judging, in_background=True))
        await events.unless_cancelled(self._context.announcer.settle(record.id))
        await self._store.change(
            cohort=(),
            counted={},
            processors=round_facts.processors(record, collection),
            failures=0,
            done=record.done + 1,
            last=event,
            kept=round_facts.kept_models(record, model),
            superseded=self._store.superseded(record),
            **self._evaluation.changes,
            **published._asdict(),
            **tables,
        )
        self._store.states.take(states)
        self._announce(event, event.round)
        if self._selection.needs_history:
            self._history = selection.fold(self._history, event)

    async def _apply(self, finished: Finished, collection: Collection) -> GlobalState:
        """Return the next global state, and free the sums that it was made of."""
        state = await asyncio.to_thread(self._strategy.apply, self._state, finished)
        collection.aggregate.release()
        return state

    async def _fail_round(self, collection: Collection) -> None:
        """Apply the job's policy to a round without quorum: put it on record, then announce it."""
        holders = [client.id for client in self._recruiter.holders()]
        event, changes = round_facts.after_failure(self.record, collection, holders)
        await self._context.announcer.settle(self.record.id)
        await self._store.change(**changes, **(self._evaluation.changes if event.policy == "stop" else {}))
        if not self.record.has_ended:
            await self._announce_decided()
            if self._selection.needs_history:
                self._history = selection.fold(self._history, event)

    async def _announce_decided(self) -> None:
        """Announce what is on record until the next round is opened: the job's start, or the last round's failure."""
        started, failed = self.record.started, self.record.failed
        if started is not None and started != self._announced[0]:
            await self._announce_and_wait(started)
        if failed is not None and failed != self._announced[1]:
            await self._announce_and_wait(failed, failed.round)
        self._announced = started, failed

    async def _end(self, phase: job_record.Phase, reason: str = "") -> None:
        await self._store.change(phase=phase, cohort=(), reason=reason, **self._evaluation.changes)

    def _announce(self, event: Event, *key: object) -> None:
        self._context.announcer.announce(self.record.id, event, *key)

    async def _announce_and_wait(self, event: Event, *key: object) -> None:
        """Announce an event that must be with the broker before the record changes again."""
        await self._context.announcer.announce_and_wait(self.record.id, event, *key)


def _has_done_all_rounds(record: JobRecord) -> bool:
    rounds = record.round if record.job.cohort.on_failure == "skip" else record.done
    return rounds >= record.job.stop.rounds
