"""Collects one round's updates: each is checked, counted once and added to the sum."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from broker import topics
from broker.base import Delivery
from broker.errors import CorruptPayload
from broker.messages import progress
from broker.messages.invocation import Invocation
from broker.messages.job_record import JobRecord
from broker.messages.update import UpdateHeader
from server import client_events, cohort, gate, rounds
from server.aggregator import Aggregate
from server.announcer import Announcer
from server.errors import JobCannotContinue, Refused
from server.gate import Expectation
from server.job_events import CancelRequested, InvocationReported, JobEvents, TimedOut, UpdateArrived
from server.judging import Judging
from server.refusals import Refusals
from server.rounds import Round, State

log = structlog.get_logger(__name__)

REPLAY_S: Final = 300.0
"""Far more than a replay of the log takes: 230 MB take half a second."""


@dataclass
class Collection:
    """What a round has collected.

    Attributes:
        round: the round's state.
        aggregate: the sum of the counted updates.
        headers: the metadata of the counted updates, by client id.
        judging: what clients say of the round's model: those that train, and those that only judge.
        failures: why clients were given up, by client id.
        sequence: position of the last counted update in the log.
        bytes_in: size of the counted updates.
        training_s: when the first client began to train, seconds since the epoch; None: no bridge has reported it.
        last_s: when the last counted update arrived, seconds since the epoch.
    """

    round: Round
    aggregate: Aggregate
    headers: dict[str, UpdateHeader] = field(default_factory=dict)
    judging: Judging = field(default_factory=Judging)
    failures: dict[str, str] = field(default_factory=dict)
    sequence: int = 0
    bytes_in: int = 0
    training_s: float | None = None
    last_s: float = 0.0


class Collector:
    """Applies a job's events to the open round, and announces the results.

    Args:
        record: the job's record while the round is open.
        expectation: what the round expects of an update.
        announcer: publishes progress events.
        clock: seconds since the epoch.
        give_up_s: returns when to give up the clients of a platform, seconds since the epoch; None: never.
        weight: returns the weight of an update.

    Attributes:
        collection: what the round has collected.
    """

    def __init__(
        self,
        record: JobRecord,
        expectation: Expectation,
        announcer: Announcer,
        clock: Callable[[], float],
        give_up_s: Callable[[str], float | None],
        *,
        weight: Callable[[UpdateHeader], int],
    ) -> None:
        self.collection = Collection(_round_of(record), Aggregate(expectation.plan))
        self._record = record
        self._expectation = expectation
        self._announcer = announcer
        self._clock = clock
        is_required = record.job.cohort.presence == "required"
        self._platforms = {member.platform for member in record.cohort} if is_required else set()
        self._give_up_s = give_up_s
        self._weight = weight
        self._absent: set[str] = set()
        self._reported: set[tuple[str, int, str]] = set()
        self._refusals = Refusals()

    async def run(self, events: JobEvents) -> Collection:
        """Collect until the round is over."""
        while self.collection.round.is_open:
            deadlines = [self._give_up_s(platform) for platform in self._platforms - self._absent]
            until_s = min([self.collection.round.next_tick_s, *(at_s for at_s in deadlines if at_s is not None)])
            match await events.next(until_s):
                case UpdateArrived(delivery):
                    await self._take_update(delivery)
                case InvocationReported(invocation):
                    self._take_invocation(invocation)
                case CancelRequested():
                    self._move_to(rounds.cancel(self.collection.round, self._clock()))
                case TimedOut():
                    self._move_to(rounds.tick(self.collection.round, self._clock()))
                case _:
                    pass  # the register or the bridges have changed
            if self.collection.round.is_open:
                self._give_up_absent()
        self._announce_other_refusals()
        return self.collection

    async def replay(self, events: JobEvents, closed: int) -> Collection:
        """Count again what was counted before a crash. The clock plays no part.

        Args:
            events: the job's events.
            closed: position of the last counted update in the log.

        Raises:
            JobCannotContinue: the log does not hold the updates any more.
        """
        until_s = self._clock() + REPLAY_S
        while self.collection.sequence < closed:
            match await events.next(until_s):
                case UpdateArrived(delivery) if delivery.sequence <= closed:
                    await self._take_update(delivery)
                case TimedOut():
                    raise JobCannotContinue(f"the updates of round {self._record.round} are in the log no longer")
                case _:
                    pass
        return self.collection

    async def _take_update(self, delivery: Delivery) -> None:
        """Check an update and add it to the sum, or announce why it is refused."""
        collection = self.collection
        try:
            topic = gate.parse_topic(delivery.topic)
            gate.admit(topic, self._expectation, collection.judging.headers)
            update = await delivery.read(at_most=self._expectation.max_bytes)
            checked = gate.check(update, topic, self._expectation)
        except CorruptPayload as exc:
            self._refuse(delivery, Refused("malformed", str(exc)))
            return
        except Refused as refusal:
            self._refuse(delivery, refusal)
            return
        header = checked.header
        collection.judging.add(header, checked.sums)
        if self._expectation.members[header.client].purpose == "train":
            collection.aggregate.add(checked.tensors, self._weight(header))
            collection.headers[header.client] = header
        collection.bytes_in += len(update)
        collection.sequence = delivery.sequence
        collection.last_s = self._clock()
        self._announce_counted(header)
        if collection.round.is_open:
            self._move_to(rounds.add_answer(collection.round, header.client, self._clock()))

    def _announce_counted(self, header: UpdateHeader) -> None:
        purpose = self._expectation.members[header.client].purpose
        counted = len(self.collection.headers)
        if purpose == "evaluate":
            counted = len(self.collection.judging.headers) - counted
        event = client_events.update_counted(header, counted, len(cohort.ids(self._record.cohort, purpose)), purpose)
        self._announcer.announce(self._record.id, event, header.round, header.client)

    def _refuse(self, delivery: Delivery, refusal: Refused) -> None:
        if not self._refusals.add(_client_of(delivery.topic)):
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

    def _take_invocation(self, invocation: Invocation) -> None:
        """Announce an invocation's outcome once. A final failure makes the client lost."""
        report = (invocation.client, invocation.attempt, invocation.outcome)
        member = self._expectation.members.get(invocation.client)
        if member is None or member.platform != invocation.platform:
            # Whoever may write to another platform's topics has nothing to say about this platform's clients.
            return
        if invocation.round != self._record.round or report in self._reported:
            return
        self._reported.add(report)
        event = client_events.from_invocation(invocation)
        if event is None:
            return
        key: tuple[object, ...] = (invocation.round, *report)
        if isinstance(event, progress.ClientTraining):
            key = (invocation.round, invocation.client, invocation.attempt)
            if self.collection.training_s is None:
                self.collection.training_s = self._clock()
        self._announcer.announce(self._record.id, event, *key)
        if isinstance(event, progress.ClientFailed) and event.final:
            self.collection.failures[invocation.client] = event.reason
            self._move_to(rounds.add_loss(self.collection.round, invocation.client, self._clock()))

    def _give_up_absent(self) -> None:
        """Give up the clients whose bridge is gone. Their updates still count if they arrive in time.

        The round keeps waiting for clients that the quorum needs: their site may come back before the deadline.
        """
        now_s, before = self._clock(), self._absent
        self._absent = {platform for platform in self._platforms if self._is_given_up(platform, now_s)}
        newly_absent = self._absent - before
        for member in self._record.cohort:
            round_ = self.collection.round
            is_dispensable = member.id in round_.outstanding and round_.can_do_without(member.id)
            if member.platform in newly_absent and is_dispensable and round_.is_open:
                event = client_events.bridge_absent(member, self._record.round)
                self._announcer.announce(self._record.id, event, self._record.round, member.id, "absent")
                self._move_to(rounds.add_loss(round_, member.id, self._clock()))

    def _is_given_up(self, platform: str, now_s: float) -> bool:
        give_up_s = self._give_up_s(platform)
        return give_up_s is not None and give_up_s <= now_s

    def _move_to(self, after: Round) -> None:
        """Replace the round by its next state, and announce the quorum when it is reached."""
        has_quorum = after.state is State.GRACE and self.collection.round.state is State.COLLECTING
        self.collection.round = after
        if has_quorum:
            event = progress.RoundQuorum(round=self._record.round, counted=len(after.counted), grace_s=after.grace_s)
            self._announcer.announce(self._record.id, event, self._record.round)


def _client_of(topic: str) -> str:
    try:
        return gate.parse_topic(topic).client
    except Refused:
        return ""


def _round_of(record: JobRecord) -> Round:
    trainers = frozenset(cohort.ids(record.cohort, "train"))
    evaluators = frozenset(cohort.ids(record.cohort, "evaluate"))
    rules = record.job.cohort
    if not trainers:
        needed = min(rules.needed, len(evaluators))
        return rounds.to_judge(evaluators, needed, rules.grace_s, record.deadline_s)
    needed = min(rules.needed, len(trainers))
    return Round(trainers, needed, rules.grace_s, record.deadline_s, evaluators=evaluators)
