"""The storage of the memory broker: one log per topic family, and its consumers. No I/O, no clock."""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from broker.deliveries import Receipt
from broker.errors import Conflict
from broker.families import Family, Keep
from broker.support import filters

DEDUPE_WINDOW_S: Final = 120.0
_COMPACT_AT: Final = 1024
"""A log drops the deleted entries of `_order` when they outnumber the kept ones by this number."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One message of a log.

    Attributes:
        topic: the topic of the message.
        sequence: position in the log, from 1.
        time_s: when it was stored. Seconds since the epoch.
        payload: None marks a deleted value.
    """

    topic: str
    sequence: int
    time_s: float
    payload: bytes | None


class Log:
    """The messages of one family, numbered from 1 and kept as the family's `Keep` says."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._last = 0
        self._messages: dict[int, Stored] = {}
        self._order: list[int] = []  # ascending; may contain deleted messages
        self._by_topic: dict[str, int] = {}  # sequence by topic; FIRST and LAST only
        self._dedupe_ids: dict[str, tuple[int, float]] = {}  # sequence and time by id; oldest first

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest message, even if it is deleted; 0 if there was none."""
        return self._last

    def append(self, topic: str, payload: bytes | None, now_s: float, dedupe: str | None = None) -> Receipt:
        """Store a message, unless its id is known or its topic is write-once and has a message.

        Args:
            topic: the topic of the message.
            payload: the payload; None marks a deleted value.
            now_s: the current time, in seconds.
            dedupe: id of the message.
        """
        self._expire(now_s)
        if dedupe is not None and dedupe in self._dedupe_ids:
            return Receipt(self._dedupe_ids[dedupe][0], stored=False)
        existing = self._by_topic.get(topic)
        if existing is not None and self.family.keep is Keep.FIRST:
            return Receipt(existing, stored=False)
        if existing is not None:
            self.discard(existing)
        self._last += 1
        self._messages[self._last] = Stored(topic, self._last, now_s, payload)
        self._order.append(self._last)
        if self.family.keep in (Keep.FIRST, Keep.LAST):
            self._by_topic[topic] = self._last
        if dedupe is not None:
            self._dedupe_ids[dedupe] = (self._last, now_s)
        return Receipt(self._last)

    def put(self, topic: str, payload: bytes | None, now_s: float, revision: int | None) -> int:
        """Store a value and return its revision.

        Args:
            topic: the topic of the value.
            payload: the value; None deletes it.
            now_s: the current time, in seconds.
            revision: for compare-and-set: the revision that the current value must have; 0 for no value.

        Raises:
            Conflict: the current value has another revision.
        """
        current = self.value(topic)
        # 0 and the number of the deletion both stand for a deleted value.
        valid = {
            0 if current is None or current.payload is None else current.sequence,
            current.sequence if current else 0,
        }
        if revision is not None and revision not in valid:
            raise Conflict(topic, revision)
        return self.append(topic, payload, now_s).sequence

    def value(self, topic: str) -> Stored | None:
        """Return the message of a FIRST or LAST topic; its payload is None if the value was deleted."""
        sequence = self._by_topic.get(topic)
        return None if sequence is None else self._messages[sequence]

    def values(self, topic_filter: str) -> list[Stored]:
        """Return the values that match a filter, oldest change first."""
        messages = [self._messages[n] for topic, n in self._by_topic.items() if filters.matches(topic_filter, topic)]
        return sorted((m for m in messages if m.payload is not None), key=lambda message: message.sequence)

    def get(self, sequence: int) -> Stored | None:
        """Return the message with that sequence, or None if it is deleted."""
        return self._messages.get(sequence)

    def after(self, sequence: int, topic_filter: str) -> Iterator[Stored]:
        """Yield the messages that match a filter and follow a sequence, in order.

        Args:
            sequence: the last message to skip; 0 for none.
            topic_filter: filter for the topics.
        """
        for index in range(bisect.bisect_right(self._order, sequence), len(self._order)):
            message = self._messages.get(self._order[index])
            if message is not None and filters.matches(topic_filter, message.topic):
                yield message

    def before(self, time_s: float) -> int:
        """Return the sequence of the last message stored before a time, in seconds; 0 if there is none."""
        older = (n for n in reversed(self._order) if n in self._messages and self._messages[n].time_s < time_s)
        return next(older, 0)

    def purge(self, topic_filter: str) -> None:
        """Delete the messages that match a filter."""
        for message in list(self.after(0, topic_filter)):
            self.discard(message.sequence)

    def discard(self, sequence: int) -> None:
        """Delete one message."""
        message = self._messages.pop(sequence, None)
        if message is not None and self._by_topic.get(message.topic) == sequence:
            del self._by_topic[message.topic]
        if len(self._order) > 2 * len(self._messages) + _COMPACT_AT:
            self._order = [n for n in self._order if n in self._messages]

    def _expire(self, now_s: float) -> None:
        """Delete dedupe ids after DEDUPE_WINDOW_S, and messages after the family's maximum age."""
        ids = self._dedupe_ids
        for dedupe in list(itertools.takewhile(lambda key: ids[key][1] < now_s - DEDUPE_WINDOW_S, ids)):
            del ids[dedupe]
        if not self.family.max_age_s:
            return
        oldest_s = now_s - self.family.max_age_s
        for sequence in list(itertools.takewhile(lambda n: self._messages[n].time_s < oldest_s, self._messages)):
            self.discard(sequence)


@dataclass(slots=True)
class Unacked:
    """A delivery without acknowledgement.

    Attributes:
        attempt: number of the delivery, from 1.
        due_s: when the message is delivered again. Seconds.
        subscriber: the subscriber that has it; None once it has been given back.
    """

    attempt: int
    due_s: float
    subscriber: int | None


@dataclass(slots=True)
class Consumer:
    """The state of a durable: its position in a log, and its unacknowledged deliveries.

    Attributes:
        log: the log that it reads.
        topic_filter: filter for the topics.
        cursor: sequence of the last message that was delivered or skipped.
        unacked: the unacknowledged deliveries, by sequence.
    """

    log: Log
    topic_filter: str
    cursor: int = 0
    unacked: dict[int, Unacked] = field(default_factory=dict)

    def take(self, subscriber: int, now_s: float, ack_wait_s: float) -> tuple[Stored, int] | None:
        """Return the next message for a subscriber and the number of the attempt; None if there is no message.

        Args:
            subscriber: number of the subscriber.
            now_s: the current time, in seconds.
            ack_wait_s: time until the next delivery without acknowledgement, in seconds.
        """
        message = self._overdue(now_s) or next(self.log.after(self.cursor, self.topic_filter), None)
        if message is None:
            self.cursor = self.log.last_sequence
            return None
        self.cursor = max(self.cursor, message.sequence)
        previous = self.unacked.get(message.sequence)
        attempt = 1 if previous is None else previous.attempt + 1
        self.unacked[message.sequence] = Unacked(attempt, now_s + ack_wait_s, subscriber)
        return message, attempt

    def due_times_s(self, subscriber: int, now_s: float) -> list[float]:
        """Return when each delivery of a subscriber is due; overdue ones no longer belong to it.

        Args:
            subscriber: number of the subscriber.
            now_s: the current time, in seconds.
        """
        pending = self.unacked.values()
        return [each.due_s for each in pending if each.subscriber == subscriber and each.due_s > now_s]

    def next_due_s(self) -> float | None:
        """Return the time of the next redelivery in seconds, or None if there is none."""
        return min((pending.due_s for pending in self.unacked.values()), default=None)

    def ack(self, sequence: int) -> None:
        """Acknowledge a message; a QUEUE deletes it."""
        if self.unacked.pop(sequence, None) is not None and self.log.family.keep is Keep.QUEUE:
            self.log.discard(sequence)

    def nak(self, sequence: int, due_s: float) -> None:
        """Give a message back for redelivery.

        Args:
            sequence: the message.
            due_s: earliest time of the redelivery, in seconds.
        """
        if pending := self.unacked.get(sequence):
            pending.due_s, pending.subscriber = due_s, None

    def extend(self, sequence: int, due_s: float) -> None:
        """Postpone the redelivery of a message.

        Args:
            sequence: the message.
            due_s: new time of the redelivery, in seconds.
        """
        if pending := self.unacked.get(sequence):
            pending.due_s = due_s

    def _overdue(self, now_s: float) -> Stored | None:
        """Return the first message whose redelivery is due; forget deliveries of deleted messages."""
        for sequence in sorted(n for n, pending in self.unacked.items() if pending.due_s <= now_s):
            message = self.log.get(sequence)
            if message is not None:
                return message
            del self.unacked[sequence]
        return None
