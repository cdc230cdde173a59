"""One round's updates, from the first to the one that closes it: checked, counted once, added."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from broker.base import Delivery
from broker.errors import CorruptPayload
from broker.messages import progress
from broker.messages.invocation import Invocation
from broker.messages.job_record import JobRecord, Member
from broker.messages.update import UpdateHeader
from broker.topics import UpdateTopic
from server import gate, rounds
from server.aggregator import Aggregate
from server.announcer import Announcer
from server.errors import JobFailed, Refused
from server.gate import Expected
from server.job_events import CancelAsked, Invoked, JobEvent, JobEvents, TimeUp, UpdateArrived
from server.rounds import Round, State

log = structlog.get_logger(__name__)

REPLAY_S: Final = 300.0
"""Far more than it takes to read what is in the log; 230 MB take half a second."""

_LOST: Final = frozenset({"dead", "expired"})


@dataclass
class Collection:
    """What a round has brought so far.

    Attributes:
        round: where the round stands.
        aggregate: the sum of what was counted.
        headers: the metadata of what was counted, by client.
        sequence: place in the log of the last update that was counted.
        bytes_in: size of what was counted.
        training_s: when the first client began to train, seconds since the epoch; None: nobody said so.
        last_s: when the last counted update was here.
    """

    round: Round
    aggregate: Aggregate
    headers: dict[str, UpdateHeader] = field(default_factory=dict)
    sequence: int = 0
    bytes_in: int = 0
    training_s: float | None = None
    last_s: float = 0.0


class Collector:
    """Turns what happens into a round's steps, and says what it did."""

    def __init__(
        self,
        record: JobRecord,
        expected: Expected,
        announcer: Announcer,
        clock: Callable[[], float],
        gone_s: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        cohort = record.job.cohort
        needed = min(cohort.needed, len(record.cohort))
        members = frozenset(member.id for member in record.cohort)
        self._record = record
        self._expected = expected
        self._announcer = announcer
        self._clock = clock
        self._platforms = {member.platform for member in record.cohort} if cohort.presence == "required" else set()
        self._gone_s = gone_s
        self._given_up: set[str] = set()
        self._heard: set[tuple[str, int, str]] = set()
        self.collection = Collection(
            Round(members, needed, cohort.grace_s, record.deadline_s), Aggregate(expected.plan)
        )

    async def run(self, inbox: JobEvents) -> Collection:
        """Collect until the round is over."""
        while self.collection.round.open:
            await self._take(await inbox.next(self._wakes_s()))
            if self.collection.round.open:
                self._give_up_absent()
        return self.collection

    def _wakes_s(self) -> float:
        """When something may have to be done, whatever happens until then."""
        gone = [self._gone_s(platform) for platform in self._platforms - self._given_up]
        return min([self.collection.round.wakes_s, *(at_s for at_s in gone if at_s is not None)])

    def _give_up_absent(self) -> None:
        """Do not wait for clients whose bridge has gone; an update that comes all the same still counts.

        Where the quorum needs them, they are waited for: a site may come back before the deadline.
        """
        now_s = self._clock()
        gone = {platform for platform in self._platforms if (self._gone_s(platform) or now_s + 1) <= now_s}
        fresh, self._given_up = gone - self._given_up, gone
        for member in self._record.cohort if fresh else ():
            round_ = self.collection.round
            enough = len(round_.cohort) - len(round_.lost) > round_.needed
            if member.platform in fresh and member.id in self._outstanding and round_.open and enough:
                self._bridge_gone(member)

    @property
    def _outstanding(self) -> frozenset[str]:
        round_ = self.collection.round
        return round_.cohort - round_.lost - self.collection.headers.keys()

    def _bridge_gone(self, member: Member) -> None:
        event = progress.ClientFailed(
            round=self._record.round,
            client=member.id,
            platform=member.platform,
            attempt=0,
            reason=f"no bridge of {member.platform} is there any more",
            final=True,
        )
        self._announcer.announce(self._record.id, event, self._record.round, member.id, "absent")
        self._step(rounds.lost(self.collection.round, member.id, self._clock()))

    async def replay(self, inbox: JobEvents, closed: int) -> Collection:
        """Count what was counted before: everything up to `closed` in the log, whatever the clock says now.

        Raises:
            JobFailed: the log does not hold it any more.
        """
        until_s = self._clock() + REPLAY_S
        while self.collection.sequence < closed:
            match await inbox.next(until_s):
                case UpdateArrived(delivery) if delivery.sequence <= closed:
                    await self._update(delivery)
                case TimeUp():
                    raise JobFailed(f"the updates of round {self._record.round} are in the log no longer")
                case _:
                    pass
        return self.collection

    async def _take(self, happened: JobEvent) -> None:
        match happened:
            case UpdateArrived(delivery):
                await self._update(delivery)
            case Invoked(invocation):
                self._invoked(invocation)
            case CancelAsked():
                self._step(rounds.cancelled(self.collection.round, self._clock()))
            case TimeUp():
                self._step(rounds.tick(self.collection.round, self._clock()))
            case _:
                pass

    async def _update(self, delivery: Delivery) -> None:
        try:
            where = gate.address(delivery.topic)
            gate.admit(where, self._expected, self.collection.headers)
            self._count(await self._read(delivery), where, delivery.sequence)
        except Refused as refusal:
            self._refuse(delivery, refusal)

    async def _read(self, delivery: Delivery) -> bytes:
        try:
            return await delivery.read(at_most=self._expected.largest)
        except CorruptPayload as exc:
            raise Refused("malformed", str(exc)) from exc

    def _count(self, update: bytes, where: UpdateTopic, sequence: int) -> None:
        header, tensors = gate.check(update, where, self._expected)
        self.collection.aggregate.add(tensors, header.samples)
        self.collection.headers[where.client] = header
        self.collection.bytes_in += len(update)
        self.collection.sequence = sequence
        self.collection.last_s = self._clock()
        self._announce_counted(header)
        if self.collection.round.open:
            self._step(rounds.answered(self.collection.round, where.client, self._clock()))

    def _announce_counted(self, header: UpdateHeader) -> None:
        event = progress.UpdateCounted(
            round=header.round,
            client=header.client,
            attempt=header.attempt,
            samples=header.samples,
            counted=len(self.collection.headers),
            of=len(self._record.cohort),
            trained_s=header.seconds.get("train", 0.0),
            metrics=header.metrics,
        )
        self._announcer.announce(self._record.id, event, header.round, header.client)

    def _refuse(self, delivery: Delivery, refusal: Refused) -> None:
        log.warning("update refused", job=self._record.id, topic=delivery.topic, code=refusal.code)
        event = progress.UpdateRefused(topic=delivery.topic, code=refusal.code, reason=refusal.reason)
        self._announcer.announce(self._record.id, event, delivery.sequence)

    def _invoked(self, invocation: Invocation) -> None:
        what = (invocation.client, invocation.attempt, invocation.outcome)
        if invocation.round != self._record.round or what in self._heard:
            return
        self._heard.add(what)
        match invocation.outcome:
            case "running":
                self._training(invocation)
            case "refused" | "restored":
                self._repaired(invocation)
            case "failed" | "dead" | "expired":
                self._failed(invocation)
            case _:
                pass

    def _repaired(self, invocation: Invocation) -> None:
        """The bridge met an obstacle on the way to the function, and goes on."""
        kind = progress.ClientRefused if invocation.outcome == "refused" else progress.ClientRestored
        event = kind(
            round=invocation.round,
            client=invocation.client,
            platform=invocation.platform,
            attempt=invocation.attempt,
            reason=invocation.reason,
        )
        about = (invocation.round, invocation.client, invocation.attempt, invocation.outcome)
        self._announcer.announce(self._record.id, event, *about)

    def _training(self, invocation: Invocation) -> None:
        if self.collection.training_s is None:
            self.collection.training_s = self._clock()
        event = progress.ClientTraining(
            round=invocation.round,
            client=invocation.client,
            platform=invocation.platform,
            activation=invocation.activation,
            attempt=invocation.attempt,
            cold=invocation.cold,
        )
        self._announcer.announce(self._record.id, event, invocation.round, invocation.client, invocation.attempt)

    def _failed(self, invocation: Invocation) -> None:
        final = invocation.outcome in _LOST
        event = progress.ClientFailed(
            round=invocation.round,
            client=invocation.client,
            platform=invocation.platform,
            attempt=invocation.attempt,
            reason=invocation.reason,
            final=final,
        )
        about = (invocation.round, invocation.client, invocation.attempt, invocation.outcome)
        self._announcer.announce(self._record.id, event, *about)
        if final:
            self._step(rounds.lost(self.collection.round, invocation.client, self._clock()))

    def _step(self, after: Round) -> None:
        reached = after.state is State.GRACE and self.collection.round.state is State.COLLECTING
        self.collection.round = after
        if reached:
            counted = len(after.counted)
            event = progress.RoundQuorum(round=self._record.round, counted=counted, grace_s=after.grace_s)
            self._announcer.announce(self._record.id, event, self._record.round)
