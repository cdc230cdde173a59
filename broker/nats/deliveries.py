"""What subscribers get: deliveries with or without acknowledgement, and values."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from nats.aio.msg import Msg

from broker.base import Deleted, Delivery, Load, Value
from broker.nats.link import Link
from broker.nats.pull import Arrival, Feed
from broker.nats.replies import Pairing

_NS: Final = 1_000_000_000


class Replayed(AsyncIterator[Delivery]):
    """The log for one subscriber alone."""

    def __init__(self, feed: Feed, load: Load) -> None:
        self._feed = feed
        self._load = load

    async def __anext__(self) -> Delivery:
        arrival = await self._feed.next()
        return Delivery(
            arrival.message.subject,
            arrival.message.data,
            self._load,
            sequence=arrival.sequence,
            attempt=1,
            time_s=arrival.time_s,
        )


class Watched(AsyncIterator[Value | Deleted]):
    """Values as they are and as they change; those that were deleted before are no news."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._is_news = False

    async def __anext__(self) -> Value | Deleted:
        while True:
            arrival = await self._feed.next()
            is_news, self._is_news = self._is_news, self._is_news or arrival.pending == 0
            change = change_of(arrival)
            if is_news or isinstance(change, Value):
                return change


def change_of(arrival: Arrival) -> Value | Deleted:
    """What a message of a LAST topic says; an empty one is the tombstone of a deleted value."""
    message = arrival.message
    if not message.data:
        return Deleted(message.subject, arrival.sequence)
    return Value(message.subject, message.data, arrival.sequence)


class ReplyInbox:
    """Answers for those who sent a request to a topic that a stream keeps."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._pairing = Pairing()
        self._loop = asyncio.get_running_loop()

    async def overhear(self, message: Msg) -> None:
        """A message, as its publisher sent it."""
        answer = self._pairing.asked(message.data, message.reply, self._loop.time())
        if answer is not None and message.reply:
            await self._link.send(message.reply, answer)

    async def answer(self, payload: bytes, answer: bytes) -> None:
        """Answer whoever sent that payload."""
        reply = self._pairing.answered(payload, answer, self._loop.time())
        if reply:
            await self._link.send(reply, answer)


class Shared(AsyncIterator[Delivery]):
    """One subscriber's share of a durable's messages."""

    def __init__(self, feed: Feed, link: Link, load: Load, inbox: ReplyInbox | None) -> None:
        self._feed = feed
        self._link = link
        self._load = load
        self._inbox = inbox

    async def __anext__(self) -> Delivery:
        return _Held(await self._feed.next(), self._feed, self._link, self._load, self._inbox)


class _Held(Delivery):
    """A message that a subscriber has until it acknowledges it or `ack_wait` is over."""

    def __init__(self, arrival: Arrival, feed: Feed, link: Link, load: Load, inbox: ReplyInbox | None) -> None:
        super().__init__(
            arrival.message.subject,
            arrival.message.data,
            load,
            sequence=arrival.sequence,
            attempt=arrival.attempt,
            time_s=arrival.time_s,
        )
        self._reply = arrival.message.reply
        self._feed = feed
        self._link = link
        self._inbox = inbox

    async def ack(self) -> None:
        await self._link.send(self._reply, b"+ACK")
        self._feed.release(self.sequence)

    async def nak(self, delay_s: float = 0.0) -> None:
        await self._link.send(self._reply, b"-NAK " + msgspec.json.encode({"delay": int(delay_s * _NS)}))
        self._feed.release(self.sequence)

    async def working(self) -> None:
        await self._link.send(self._reply, b"+WPI")
        self._feed.extend(self.sequence)

    async def answer(self, payload: bytes) -> None:
        if self._inbox is not None:
            await self._inbox.answer(self._message, payload)
