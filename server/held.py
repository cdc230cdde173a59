"""What a server holds of its jobs, to put it back if the broker's store has lost its last moments.

Mosquitto acknowledges up to a second before it stores. A server that lives on knows what it has written: each job's
newest record, what the job needs to go on, and the last events.
"""

import functools
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from broker import topics
from broker.base import Broker
from broker.errors import Conflict
from broker.messages import codec, job_record
from broker.messages.errors import DecodeError
from broker.messages.job_record import JobRecord
from broker.messages.progress import Progress
from broker.messages.state_table import StateTable
from broker.support import loggers
from server.room import publish_event, until_there_is_room
from server.state_tables import StateTables

log = loggers.get_logger(__name__)

Change = Literal["older", "emptied", "another"]
"""How a store has changed; see `broker.errors.StoreChanged`."""

HELD_S: Final = 30.0
"""So long an ended job and an event are held. No broker writes its store as late as that. Seconds."""

MOST_EVENTS: Final = 10_000

_SAME_STORE: Final = ("older", "emptied")


@dataclass
class HeldJob:
    """What is held of one job.

    Attributes:
        record: the newest record that this server has written or taken over.
        secret: the job's secret; empty: not known.
        blobs: what the job needs to go on, by topic.
    """

    record: JobRecord
    secret: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)


class Held:
    """What a server holds of its jobs. It outlives the server's connections."""

    def __init__(self) -> None:
        self._jobs: dict[str, HeldJob] = {}
        self._events: deque[Progress] = deque(maxlen=MOST_EVENTS)
        self._change: Change | None = None

    def note_record(self, record: JobRecord) -> None:
        """Hold a record that the broker has, instead of an earlier one of the job, and forget what it does not need."""
        held = self._jobs.setdefault(record.id, HeldJob(record))
        needed = {blob.topic for blob in job_record.blobs(record)}
        for blob in job_record.blobs(held.record):
            if blob.topic not in needed:
                held.blobs.pop(blob.topic, None)
        held.record = record

    def note_blob(self, job: str, topic: str, content: bytes) -> None:
        """Hold what a job's next record needs.

        Args:
            job: the job's id.
            topic: where it is on the broker.
            content: the bytes.
        """
        if job in self._jobs:
            self._jobs[job].blobs[topic] = content

    def note_secret(self, job: str, secret: str) -> None:
        """Hold a job's secret.

        Args:
            job: the job's id.
            secret: from which its tokens are made.
        """
        if job in self._jobs:
            self._jobs[job].secret = secret

    def note_event(self, event: Progress) -> None:
        """Hold an event that the broker has."""
        self._events.append(event)

    def forget(self, job: str) -> None:
        """Forget a job that was deleted."""
        self._jobs.pop(job, None)

    def forget_old(self, now_s: float) -> None:
        """Forget events and finished jobs that the broker must have stored long ago.

        Args:
            now_s: the time, in seconds since the epoch.
        """
        while self._events and self._events[0].time_s < now_s - HELD_S:
            self._events.popleft()
        for job, held in list(self._jobs.items()):
            if held.record.is_finished and held.record.ended_s < now_s - HELD_S:
                del self._jobs[job]

    def store_changed(self, change: Change) -> None:
        """Note how the broker's store has changed. In another store nothing of the old one belongs."""
        self._change = change
        if change == "another":
            self._jobs.clear()
            self._events.clear()

    async def put_back(self, broker: Broker) -> None:
        """Put back what the broker's store has lost; call this before anything else is done with the broker.

        A record that is there, but older than ours, is replaced. One that is missing is written again only if we know
        that the store is the same one: else it may have been deleted.

        Args:
            broker: has the store.
        """
        restored = [job for job in list(self._jobs) if await self._put_back(broker, self._jobs[job])]
        if self._change is not None or restored:
            for event in self._events:
                await publish_event(broker, event)
        if restored:
            log.error(
                "the broker's store had lost its last moments; this server has put back what it holds",
                jobs=[f"{job} ({self._jobs[job].record.done} rounds done)" for job in restored],
                events=len(self._events),
            )
        self._change = None

    async def _put_back(self, broker: Broker, held: HeldJob) -> bool:
        """Write a job's record again, after what it names. Return whether that was necessary."""
        value = await broker.get(topics.job_record(held.record.id))
        if not self._has_lost(held.record, None if value is None else value.payload):
            return False
        record = _reopened(held.record)
        if not await _has_states(broker, held):
            # Our events would tell the bridges that the rounds to come are over.
            self._forget_events(held.record.id)
            if value is not None:
                log.warning("clients' states are lost; the job goes on from the round that has them", job=record.id)
                self.forget(record.id)
                return False
            record = _from_the_start(held.record)
        if held.secret and not held.record.has_ended:
            await until_there_is_room(
                functools.partial(broker.put, topics.secret(held.record.id), held.secret.encode())
            )
        for topic, content in held.blobs.items():
            await until_there_is_room(functools.partial(broker.put, topic, content))
        put = functools.partial(broker.put, topics.job_record(record.id), codec.encode_readable(record))
        try:
            await until_there_is_room(functools.partial(put, revision=0 if value is None else value.revision))
        except Conflict:
            log.info("another server has put the job back", job=record.id)
            return False
        held.record = record
        return True

    def _forget_events(self, job: str) -> None:
        self._events = deque((event for event in self._events if event.job != job), maxlen=MOST_EVENTS)

    def _has_lost(self, ours: JobRecord, stored: bytes | None) -> bool:
        """Whether the store has lost the newest version of a record, or something of its open round."""
        if stored is None:
            return self._change in _SAME_STORE
        try:
            theirs = codec.decode(JobRecord, stored)
        except DecodeError:
            return False
        if theirs.created_s != ours.created_s or theirs.changes > ours.changes:
            return False  # another job with this id, or another server has gone on
        return theirs.changes < ours.changes or (self._change in _SAME_STORE and bool(ours.cohort))


async def _has_states(broker: Broker, held: HeldJob) -> bool:
    """Whether the store has the client states that a job's next tasks name: the clients wrote them, not this server."""
    record, states = held.record, StateTables(held.record)
    if record.has_ended:
        return True
    for table in record.state_tables:
        if table.topic not in held.blobs:
            return False  # this server has not read it yet
        states.read(codec.decode(StateTable, held.blobs[table.topic]))
    named = states.topics()
    return not named or named <= await broker.stored_topics(topics.job_states(record.id))


def _from_the_start(record: JobRecord) -> JobRecord:
    """Return a job's record as when it was accepted. Trained again, it gets the same model."""
    defaults = JobRecord(id=record.id, job=record.job, created_s=record.created_s, submission=record.submission)
    return msgspec.structs.replace(defaults, changes=record.changes + 1)


def _reopened(record: JobRecord) -> JobRecord:
    """Return a record whose open round sends its tasks again: the store may have lost tasks and updates of it."""
    changes = record.changes + 1
    if not record.cohort:
        return msgspec.structs.replace(record, changes=changes)
    return msgspec.structs.replace(record, changes=changes, invited=False, closed=None, counted={})
