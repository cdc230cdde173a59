"""Collects one round's updates: each is checked, counted once and added to the sum."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from broker import topics
from broker.deliveries import Delivery
from broker.errors import CorruptPayload
from broker.messages import progress
from broker.messages.invocation import Invocation
from broker.messages.job_record import JobRecord
from broker.messages.update import UpdateHeader
from broker.support import loggers
from broker.topics import UpdateTopic
from server import client_events, cohort, gate, rounds
from server.aggregator import Aggregate
from server.announcer import Announcer
from server.collection import Collection
from server.errors import JobCannotContinue, Refused
from server.gate import Checked, Expectation
from server.job_events import (
    CancelRequested,
    InvocationReported,
    JobEvent,
    JobEvents,
    PresenceChanged,
    TimedOut,
    UpdateArrived,
)
from server.refusals import Refusals
from server.round_clock import RoundClock
from server.rounds import Round, State
from server.shares import Shares
from server.strategies.share import Share

log = loggers.get_logger(__name__)

CONFIRM_S: Final = 5.0
"""After this time without a look at the record, another server may have gone on with the round: this one was paused."""


@dataclass(frozen=True, slots=True)
class _Loss:
    """A client that is to be given up, as soon as everything was read that the broker held when we learned of it.

    Attributes:
        attempt: the attempt that is over; a later one may still answer.
        noted_s: when we learned of it, in seconds on the round's clock.
    """

    attempt: float
    noted_s: float


class Collector:
    """Applies a job's events to the open round, and announces the results.

    Args:
        record: the job's record while the round is open.
        expectation: what the round expects of an update.
        shares: decides how each update enters the sum.
        announcer: publishes progress events.
        clock: the round's time.
        give_up_s: returns when to give up the clients of a platform, in seconds on the round's clock; None: never.
        confirm: raises Conflict if another server has changed the record.

    Attributes:
        collection: what the round has collected.
    """

    def __init__(
        self,
        record: JobRecord,
        expectation: Expectation,
        shares: Shares,
        announcer: Announcer,
        clock: RoundClock,
        *,
        give_up_s: Callable[[str], float | None],
        confirm: Callable[[], Awaitable[None]],
    ) -> None:
        round_, aggregate = _round_of(record, clock.deadline_s), Aggregate(expectation.plan)
        self.collection = Collection(round_, aggregate, opened_s=clock.opened_s, invited_s=clock.opened_s)
        self._record = record
        self._expectation = expectation
        self._announcer = announcer
        self._clock = clock
        is_required = record.job.cohort.presence == "required"
        self._platforms = {member.platform for member in record.cohort} if is_required else set()
        self._give_up_s = give_up_s
        self._shares = shares
        self._confirm = confirm
        self._confirmed_s = clock.now_s()
        self._absent: set[str] = set()
        self._reported: set[tuple[str, int, str]] = set()
        self._unreported: set[tuple[str, int]] = set()
        self._attempts: dict[str, int] = {}
        self._losses: dict[str, _Loss] = {}
        self._refusals = Refusals()

    async def run(self, events: JobEvents) -> Collection:
        """Collect until the round is over.

        Raises:
            Conflict: another server has gone on with the round.
        """
        while self.collection.round.is_open:
            match await events.next(self._until_s()):
                case TimedOut(read_s):
                    await self._confirm_record()
                    self._give_up(read_s)
                case event:
                    await self._apply(event, events)
        if self.collection.round.state is not State.CANCELLED:
            self._take_reports(await events.reports_so_far())
        self._announce_other_refusals()
        return self.collection

    @property
    def awaited(self) -> frozenset[str]:
        """The ids of the clients that the round waits for; empty if it is over."""
        return frozenset(self.collection.round.outstanding) if self.collection.round.is_open else frozenset()

    async def catch_up(self, events: JobEvents) -> None:
        """Apply what the broker holds already. The clock plays no part.

        Args:
            events: the job's events.
        """
        while self.collection.round.is_open:
            event = await events.next(-math.inf)
            if isinstance(event, TimedOut):
                return
            await self._apply(event, events)

    async def _apply(self, event: JobEvent, events: JobEvents) -> None:
        match event:
            case UpdateArrived(delivery):
                await self._take_update(delivery, events)
            case InvocationReported() as report:
                self._take_reports([report])
            case CancelRequested():
                self._move_to(rounds.cancel(self.collection.round, self._clock.now_s()))
            case PresenceChanged():
                # Who is back can be given up again.
                self._absent = {platform for platform in self._absent if self._is_silent(platform)}
            case _:
                pass  # the register has changed

    async def replay(self, events: JobEvents, closed: int, counted: Mapping[str, int]) -> Collection:
        """Count again what was counted before a crash. The clock plays no part.

        Args:
            events: the job's events.
            closed: position of the last counted update in the log.
            counted: the attempts whose updates count, by client id; empty: all up to that position do.

        Raises:
            JobCannotContinue: the log does not hold the updates any more.
        """
        while self.collection.attempts != counted if counted else self.collection.sequence < closed:
            match await events.next(-math.inf):
                case UpdateArrived(delivery) if self._counts(delivery, closed, counted):
                    await self._take_update(delivery, events)
                case InvocationReported() as report:
                    self._take_reports([report])
                case TimedOut():
                    raise JobCannotContinue(f"the updates of round {self._record.round} are in the log no longer")
                case _:
                    pass
        self._take_reports(await events.reports_so_far())
        return self.collection

    def _counts(self, delivery: Delivery, closed: int, counted: Mapping[str, int]) -> bool:
        """Whether an update is one of those that the closed round has counted."""
        if not counted:
            return delivery.sequence <= closed
        try:
            topic = gate.parse_topic(delivery.topic)
        except Refused:
            return False
        return topic.round == self._record.round and counted.get(topic.client) == topic.attempt

    def _until_s(self) -> float:
        """Return when a decision is due at the latest, unless something happens before."""
        silences = (self._give_up_s(platform) for platform in self._platforms - self._absent)
        losses = (loss.noted_s for loss in self._losses.values())
        return min((self.collection.round.next_tick_s, *(at_s for at_s in silences if at_s is not None), *losses))

    def _give_up(self, read_s: float) -> None:
        """Decide what was due when the log was last read to its end: the round's end, and clients that are lost."""
        for client, loss in list(self._losses.items()):
            if loss.noted_s <= read_s:
                del self._losses[client]
                if self._attempts.get(client, 0) <= loss.attempt:
                    self._lose(client)
        if self.collection.round.is_open:
            self._move_to(rounds.tick(self.collection.round, read_s))
        self._give_up_absent(read_s)

    def _note_loss(self, client: str, reason: str, attempt: float, *, is_hopeless: bool) -> None:
        if client in self.collection.round.outstanding:
            self.collection.failures[client] = reason
            if is_hopeless:
                self.collection.hopeless.add(client)
            self._losses[client] = _Loss(attempt, self._clock.now_s())

    def _lose(self, client: str) -> None:
        if self.collection.round.is_open:
            self._move_to(rounds.add_loss(self.collection.round, client, self._clock.now_s()))

    async def _take_update(self, delivery: Delivery, events: JobEvents) -> None:
        """Check an update and add it to the sum, or announce why it is refused."""
        if self._clock.now_s() - self._confirmed_s > CONFIRM_S:
            await self._confirm_record()
        topic = None
        try:
            topic = gate.parse_topic(delivery.topic)
            gate.admit(topic, self._expectation, self.collection.judging.headers)
            update = await delivery.read(at_most=self._expectation.max_bytes)
            checked = gate.check(update, topic, self._expectation)
            share = self._share(checked)
        except CorruptPayload as exc:
            self._refuse(delivery, Refused("malformed", str(exc)), topic)
            return
        except Refused as refusal:
            if refusal.code == "early":
                # If it is no forgery, another server has opened that round.
                await self._confirm_record()
            self._refuse(delivery, refusal, topic)
            return
        if checked.header.client not in self.collection.training:
            # Its training is announced first, if a bridge has reported it.
            self._take_reports(await events.reports_so_far())
        if share is not None and self.collection.spool is not None:
            # In a thread: a large model takes its time, and the job must hear its clock and its broker.
            await asyncio.to_thread(self.collection.spool.add, checked.header.client, checked.tensors)
        self._count(checked, share, len(update), delivery)

    def _share(self, checked: Checked) -> Share | None:
        """Return how an update enters the sum; None: its client only judges the round's model."""
        if self._expectation.members[checked.header.client].purpose == "evaluate":
            return None
        try:
            return self._shares.share(checked)
        except Refused as refusal:
            raise Refused(refusal.code, refusal.reason, is_answer=True) from refusal

    def _count(self, checked: Checked, share: Share | None, size: int, delivery: Delivery) -> None:
        collection, header = self.collection, checked.header
        collection.judging.add(header, checked.sums)
        if share is not None:
            collection.aggregate.add(checked.tensors, share.weight, self._shares.factors(share))
            collection.headers[header.client] = header
            collection.shares[header.client] = share
        collection.bytes_in += size
        collection.sequence = delivery.sequence
        collection.last_s = self._clock.time_of(delivery.time_s)
        collection.failures.pop(header.client, None)
        collection.hopeless.discard(header.client)
        if header.client not in collection.training:
            self._announce_training_of(header)
        self._announce_counted(header)
        if collection.round.is_open:
            self._move_to(rounds.add_answer(collection.round, header.client, self._clock.now_s()))

    async def _confirm_record(self) -> None:
        await self._confirm()
        self._confirmed_s = self._clock.now_s()

    def _announce_training_of(self, header: UpdateHeader) -> None:
        """Announce a training of which only the update tells. When it began is not known, until a bridge reports it."""
        self.collection.training.add(header.client)
        self._unreported.add((header.client, header.attempt))
        event = client_events.training_of(header, self._expectation.members[header.client])
        self._announcer.announce(self._record.id, event, header.round, header.client, header.attempt)

    def _announce_counted(self, header: UpdateHeader) -> None:
        purpose = self._expectation.members[header.client].purpose
        counted, invited = len(self.collection.headers), len(self.collection.round.cohort)
        if purpose == "evaluate":
            counted, invited = len(self.collection.judging.headers) - counted, len(self.collection.round.evaluators)
        event = client_events.update_counted(header, counted, invited, purpose)
        self._announcer.announce(self._record.id, event, header.round, header.client)

    def _refuse(self, delivery: Delivery, refusal: Refused, topic: UpdateTopic | None) -> None:
        if refusal.is_answer and topic is not None:
            # The bridge has done its task with this, so nobody else answers for the client.
            reason = f"its update was refused ({refusal.code}): {refusal.reason}"
            self._note_loss(topic.client, reason, topic.attempt, is_hopeless=refusal.code in gate.PERMANENT)
        if not self._refusals.add("" if topic is None else topic.client):
            return
        log.warning("update refused", job=self._record.id, topic=delivery.topic, code=refusal.code)
        event = progress.UpdateRefused(topic=delivery.topic, code=refusal.code, reason=refusal.reason)
        self._announcer.announce(self._record.id, event, delivery.sequence)

    def _announce_other_refusals(self) -> None:
        """Announce how many refusals were not announced one by one."""
        topic = topics.round_updates(self._record.id, self._record.round)
        for client, count in self._refusals.rest().items():
            reason = f"{count} more updates of {client or 'nobody'} were refused in round {self._record.round}"
            log.warning("updates refused", job=self._record.id, client=client, updates=count)
            event = progress.UpdateRefused(topic=topic, code="flood", reason=reason)
            self._announcer.announce(self._record.id, event, self._record.round, client, "more")

    def _take_reports(self, reports: Iterable[InvocationReported]) -> None:
        """Announce each outcome of an invocation once. A final failure makes the client lost."""
        for report in reports:
            invocation = report.invocation
            key = (invocation.client, invocation.attempt, invocation.outcome)
            member = self._expectation.members.get(invocation.client)
            if member is None or member.platform != invocation.platform:
                # Whoever may write to another platform's topics has nothing to say about this platform's clients.
                continue
            if invocation.round == self._record.round and key not in self._reported:
                self._reported.add(key)
                self._take_invocation(invocation, report.time_s)

    def _take_invocation(self, invocation: Invocation, time_s: float) -> None:
        client, attempt, outcome = invocation.client, invocation.attempt, invocation.outcome
        under_way = attempt + (outcome == "failed")  # then it is invoked again
        self._attempts[client] = max(under_way, self._attempts.get(client, 0))
        event = client_events.from_invocation(invocation)
        if event is None:
            return
        key: tuple[object, ...] = (invocation.round, client, attempt, outcome)
        if isinstance(event, progress.ClientTraining):
            key = (invocation.round, client, attempt)
            self.collection.training.add(client)
            if self.collection.training_s is None:
                self.collection.training_s = self._clock.time_of(time_s)
            if (client, attempt) in self._unreported:
                return  # announced with its update
        self._announcer.announce(self._record.id, event, *key)
        if isinstance(event, progress.ClientFailed) and event.final:
            # A bridge gives up before the last attempt if another one would fail in the same way.
            is_hopeless = outcome == "dead" and attempt < self._record.job.cohort.max_attempts
            self._note_loss(client, event.reason, math.inf, is_hopeless=is_hopeless)

    def _give_up_absent(self, read_s: float) -> None:
        """Give up the clients whose bridge is gone. Their updates still count if they arrive in time.

        The round keeps waiting for clients that the quorum needs: their site may come back before the deadline.
        """
        before = self._absent
        self._absent = {platform for platform in self._platforms if self._is_silent(platform, read_s)}
        newly_absent = self._absent - before
        for member in self._record.cohort:
            round_ = self.collection.round
            is_dispensable = member.id in round_.outstanding and round_.can_do_without(member.id)
            if member.platform in newly_absent and is_dispensable and round_.is_open:
                event = client_events.bridge_absent(member, self._record.round)
                self._announcer.announce(self._record.id, event, self._record.round, member.id, "absent")
                self.collection.failures[member.id] = event.reason
                self._lose(member.id)

    def _is_silent(self, platform: str, at_s: float | None = None) -> bool:
        give_up_s = self._give_up_s(platform)
        return give_up_s is not None and give_up_s <= (self._clock.now_s() if at_s is None else at_s)

    def _move_to(self, after: Round) -> None:
        """Replace the round by its next state, and announce the quorum when it is reached."""
        has_quorum = after.state is State.GRACE and self.collection.round.state is State.COLLECTING
        self.collection.round = after
        if has_quorum:
            event = progress.RoundQuorum(round=self._record.round, counted=len(after.counted), grace_s=after.grace_s)
            self._announcer.announce(self._record.id, event, self._record.round)


def _round_of(record: JobRecord, deadline_s: float) -> Round:
    trainers, evaluators = cohort.ids(record.cohort, "train"), cohort.ids(record.cohort, "evaluate")
    needed, grace_s = record.job.cohort.needed, record.job.cohort.grace_s
    if not trainers:
        needed = min(needed, len(evaluators))
        return rounds.to_judge(evaluators, needed=needed, grace_s=grace_s, deadline_s=deadline_s)
    needed = min(needed, len(trainers))
    return rounds.opened(trainers, evaluators, needed=needed, grace_s=grace_s, deadline_s=deadline_s)
