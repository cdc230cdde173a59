"""The iterators that subscribers receive: deliveries with and without acknowledgement, and changes of values."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import msgspec
from nats.aio.msg import Msg

from broker.deliveries import Deleted, Delivery, Load, Reader, Value
from broker.nats.link import Link
from broker.nats.pull import Arrival, Feed
from broker.nats.replies import ReplyMatcher, is_inbox
from broker.support import loggers
from broker.support.position import Position

T = TypeVar("T")

ASK_AGAIN_S: Final = 1.0
"""After this time without the awaited message, ask again which one is the newest."""

_NS: Final = 1_000_000_000

log = loggers.get_logger(__name__)


class _FeedReader(Reader[T]):
    """Reads a replay's feed.

    Args:
        feed: the feed.
        begin: the sequence after which the feed begins.
        last_sequence: returns the sequence of the newest message under the feed's filter; 0 if there is none.
    """

    def __init__(self, feed: Feed, begin: int, last_sequence: Callable[[], Awaitable[int]]) -> None:
        self._feed = feed
        self._last_sequence = last_sequence
        self._taken = 0
        self._read = Position(begin)

    async def catch_up(self) -> None:
        while (end := await self._last_sequence()) > self._read.reached:
            # What is deleted meanwhile never comes, so the end is asked for again.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_AGAIN_S):
                    await self._read.wait_for(end)
                    return

    async def _next(self) -> Arrival:
        self._read.advance(self._taken)
        arrival = await self._feed.next()
        self._taken = arrival.sequence
        return arrival


class ReplayDeliveries(_FeedReader[Delivery]):
    """The deliveries of a replay; there is nothing to acknowledge.

    Args:
        feed: the feed.
        begin: the sequence after which the feed begins.
        last_sequence: returns the sequence of the newest message under the feed's filter; 0 if there is none.
        load: reads a payload.
    """

    def __init__(self, feed: Feed, begin: int, last_sequence: Callable[[], Awaitable[int]], load: Load) -> None:
        super().__init__(feed, begin, last_sequence)
        self._load = load

    async def __anext__(self) -> Delivery:
        arrival = await self._next()
        return Delivery(
            arrival.message.subject,
            arrival.message.data,
            self._load,
            sequence=arrival.sequence,
            attempt=1,
            time_s=arrival.time_s,
        )


class ValueChanges(_FeedReader[Value | Deleted]):
    """The current values and their changes; values that were deleted before the start are left out."""

    def __init__(self, feed: Feed, begin: int, last_sequence: Callable[[], Awaitable[int]]) -> None:
        super().__init__(feed, begin, last_sequence)
        self._is_past_start = False

    async def __anext__(self) -> Value | Deleted:
        while True:
            arrival = await self._next()
            is_change, self._is_past_start = self._is_past_start, self._is_past_start or arrival.pending == 0
            change = to_change(arrival)
            if is_change or isinstance(change, Value):
                return change


def to_change(arrival: Arrival) -> Value | Deleted:
    """Convert a message of a LAST topic; an empty payload is the tombstone of a deleted value."""
    message = arrival.message
    if not message.data:
        return Deleted(message.subject, arrival.sequence)
    return Value(message.subject, message.data, arrival.sequence, arrival.time_s)


class ReplyInbox:
    """Sends answers to the publishers of requests on an INBOX topic."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._matcher = ReplyMatcher()
        self._loop = asyncio.get_running_loop()

    async def on_request(self, message: Msg) -> None:
        """Handle a request that came directly from its publisher; answer it if the answer is known already."""
        reply = message.reply
        if reply and not is_inbox(reply):
            log.warning("a request is not answered: its reply subject is no inbox", reply=reply)
            reply = ""
        answer = self._matcher.add_request(message.data, reply, self._loop.time())
        if answer is not None and reply:
            await self._link.send(reply, answer)

    async def answer(self, payload: bytes, answer: bytes) -> None:
        """Answer a request.

        Args:
            payload: payload of the request.
            answer: the answer to send.
        """
        reply = self._matcher.add_answer(payload, answer, self._loop.time())
        if reply:
            await self._link.send(reply, answer)


class DurableDeliveries(AsyncIterator[Delivery]):
    """The deliveries to one subscriber of a durable."""

    def __init__(self, feed: Feed, link: Link, load: Load, inbox: ReplyInbox | None) -> None:
        self._feed = feed
        self._link = link
        self._load = load
        self._inbox = inbox

    async def __anext__(self) -> Delivery:
        return _AckableDelivery(await self._feed.next(), self._feed, self._link, self._load, self._inbox)


class _AckableDelivery(Delivery):
    """A delivery that the subscriber acknowledges or gives back before `ack_wait` ends."""

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
        # Before it is sent: the next delivery may arrive at once, and is in use from then on.
        self._feed.release(self.sequence)
        await self._link.send(self._reply, b"-NAK " + msgspec.json.encode({"delay": int(delay_s * _NS)}))

    async def working(self) -> None:
        await self._link.send(self._reply, b"+WPI")
        self._feed.extend(self.sequence)

    async def answer(self, payload: bytes) -> None:
        if self._inbox is not None:
            await self._inbox.answer(self._message, payload)
