"""Turns the messages of plain MQTT clients into events.

`mosquitto_pub -t fl/jobs/submit -f job.json` retains nothing. So a consumer of such a topic keeps a persistent session
on the broker, named after its durable. A message that comes while no consumer is connected waits in the session, and
is acknowledged after it is retained as an event.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from broker.errors import BrokerError, ConnectFailed, Disconnected
from broker.families import Writer, family_of
from broker.mqtt import client as mqtt_client
from broker.mqtt import storage
from broker.mqtt.client import Client, Message
from broker.mqtt.link import Link
from broker.mqtt.storage import Entry, NameFactory
from broker.reconnect import CALL_S, pause
from broker.support import loggers
from broker.support.tasks import task_group

MAX_REQUESTS: Final = 1024
"""Most requests of plain clients that are remembered; older ones get no reply."""

SESSION_TAKEN: Final = "Session taken over"
"""The broker's reason when another client connects with the same client id."""

_NO_INBOXES: Final = ("fl", "flt", "fk")
"""First levels of our own topics. Whoever asks for a reply there may not be allowed to write there; we are."""

_log = loggers.get_logger(__name__)


class InboundSession:
    """A persistent session that retains the messages of plain clients as events.

    Args:
        link: the link to the broker.
        topic_filter: filter of the topics.
        durable: the durable that reads the events.
        names: names the events.

    Attributes:
        ready: event that is set after the first subscription.
    """

    def __init__(self, link: Link, topic_filter: str, durable: str, names: NameFactory) -> None:
        self._link = link
        self._filter = topic_filter
        self._session = f"fedkeeper-{durable}"
        self._names = names
        self._family = family_of(topic_filter)
        self._requests: dict[str, tuple[str, bytes]] = {}
        self._request_order: deque[str] = deque()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Retain messages until this is cancelled, or until another program takes the session over."""
        for tries in itertools.count():
            try:
                if await self._serve():
                    return
            except (ConnectFailed, Disconnected) as exc:
                _log.debug("no session", session=self._session, error=str(exc))
            await asyncio.sleep(pause(min(tries, 8)))

    async def answer(self, entry: Entry, payload: bytes) -> None:
        """Reply to the client that published an event, if its message was a request (MQTT 5).

        Args:
            entry: the event.
            payload: the reply.
        """
        request = self._requests.pop(entry.key, None)
        if request is None:
            return
        topic, correlation = request
        try:
            connection = await self._link.connection()
            await connection.publish(topic, payload, retain=False, correlation=correlation)
        except BrokerError as exc:
            # The topic is the plain client's, so a failure must not end the consumer.
            _log.warning("reply not published", topic=topic, error=str(exc))

    async def _serve(self) -> bool:
        """Serve one connection. True: another program has taken the session over."""
        # A new queue for each connection: unacknowledged messages come again on the next one.
        queue: asyncio.Queue[Message] = asyncio.Queue()
        session = mqtt_client.open_client(
            self._link.address,
            self._session,
            version=self._link.version,
            receive=queue.put_nowait,
            session_s=self._family.max_age_s,
        )
        async with session as client:
            await client.subscribe([storage.mqtt_topic(self._filter)], qos=1, retained=True)
            self.ready.set()
            async with task_group() as group:
                task = group.create_task(
                    self._retain_messages(client, queue), name=f"mqtt inbound session of {self._filter}"
                )
                await client.lost.wait()
                task.cancel()
        if SESSION_TAKEN in client.reason:
            _log.warning("another program receives the messages of plain clients now", filter=self._filter)
            return True
        return False

    async def _retain_messages(self, client: Client, queue: asyncio.Queue[Message]) -> None:
        while True:
            message = await queue.get()
            topic = storage.plain_topic(self._filter, message.topic)
            if topic is not None and message.payload:
                await self._retain(topic, message)
            client.ack(message.packet_id)

    async def _retain(self, topic: str, message: Message) -> None:
        """Retain a message as an event, and remember where to send the reply."""
        key = storage.entry_key(topic, self._names.next())
        if message.reply_to is not None and not is_inbox(message.reply_to[0]):
            _log.warning("a request is not answered: its response topic is no inbox", topic=message.reply_to[0])
        elif message.reply_to is not None:
            self._requests[key] = message.reply_to
            self._request_order.append(key)
            if len(self._request_order) > MAX_REQUESTS:
                self._requests.pop(self._request_order.popleft(), None)
        payload, kind = storage.escape(message.payload), message.content_type
        await self._link.publish(key, payload, expires_s=self._family.max_age_s, content_type=kind)
        if message.retained:
            # Delete it, or it would come again with every subscription.
            await self._link.publish(message.topic, b"")


def is_inbox(topic: str) -> bool:
    """Whether a response topic may be answered: not ours, none of the broker's own, and no filter."""
    is_ours = topic.partition("/")[0] in _NO_INBOXES
    return bool(topic) and not is_ours and not topic.startswith("$") and not set("+#\0") & set(topic)


@contextlib.asynccontextmanager
async def open_session(
    link: Link, topic_filter: str, durable: str, names: NameFactory
) -> AsyncIterator[InboundSession | None]:
    """Run an inbound session during the block. Yields None if plain clients do not write to these topics.

    Args:
        link: the link to the broker.
        topic_filter: filter of the topics.
        durable: the durable that reads the events.
        names: names the events.

    Raises:
        Denied: this user may not read these topics.
        Disconnected: the broker did not reply in time.
    """
    if Writer.ANYONE not in family_of(topic_filter).writers:
        yield None
        return
    session = InboundSession(link, topic_filter, durable, names)
    async with task_group() as group:
        task = group.create_task(session.run(), name=f"mqtt session of {durable}")
        try:
            async with asyncio.timeout(CALL_S):
                await session.ready.wait()
        except TimeoutError as exc:
            raise Disconnected(f"{topic_filter}: no session after {CALL_S} s") from exc
        yield session
        task.cancel()
