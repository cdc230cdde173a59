"""What plain MQTT clients publish to a topic that a durable reads becomes an event like any other.

`mosquitto_pub -t fl/jobs/submit -f job.json` retains nothing. So whoever serves such a topic keeps a session on the
broker, of the durable's name: what comes while nobody is there waits in it, and is acknowledged once it is retained.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import structlog

from broker.errors import BrokerError, ConnectFailed, Disconnected
from broker.families import Writer, family_of
from broker.mqtt import client as mqtt_client
from broker.mqtt import storage
from broker.mqtt.client import Client, Message
from broker.mqtt.link import Link
from broker.mqtt.storage import Entry, Names
from broker.reconnect import CALL_S, pause
from broker.support.tasks import task_group

MOST_WAITING: Final = 1024
SESSION_TAKEN: Final = "Session taken over"

_log = structlog.get_logger(__name__)


class InboundSession:
    """Use it as `async with taking_in(...) as inbound_session`."""

    def __init__(self, link: Link, topic_filter: str, durable: str, names: Names) -> None:
        self._link = link
        self._filter = topic_filter
        self._session = f"fedkeeper-{durable}"
        self._names = names
        self._family = family_of(topic_filter)
        self._waiting: dict[str, tuple[str, bytes]] = {}
        self._order: deque[str] = deque()
        self.opened = asyncio.Event()

    async def run(self) -> None:
        """Take in what comes until cancelled, or until another one has taken over."""
        for tries in itertools.count():
            try:
                if await self._served():
                    return
            except (ConnectFailed, Disconnected) as exc:
                _log.debug("no session", session=self._session, error=str(exc))
            await asyncio.sleep(pause(min(tries, 8)))

    async def answer(self, entry: Entry, payload: bytes) -> None:
        """Answer whoever published that, if it said where it waits (MQTT 5)."""
        waiting = self._waiting.pop(entry.key, None)
        if waiting is None:
            return
        topic, mark = waiting
        try:
            connection = await self._link.connection()
            await connection.publish(topic, payload, retain=False, mark=mark)
        except BrokerError as exc:
            # It is a stranger's topic, and only a courtesy.
            _log.warning("not answered", topic=topic, error=str(exc))

    async def _served(self) -> bool:
        """Serve one connection; True if another one has taken the session over."""
        # One for each connection: what was not acknowledged comes again with the next.
        queue: asyncio.Queue[Message] = asyncio.Queue()
        session = mqtt_client.opened(
            self._link.address,
            self._session,
            version=self._link.version,
            receive=queue.put_nowait,
            session_s=self._family.max_age_s,
        )
        async with session as client:
            await client.subscribe([storage.mqtt(self._filter)], qos=1, retained=True)
            self.opened.set()
            async with task_group() as group:
                taking = group.create_task(
                    self._take_all(client, queue), name=f"mqtt inbound_session of {self._filter}"
                )
                await client.lost.wait()
                taking.cancel()
        if SESSION_TAKEN in client.reason:
            _log.warning("another one takes in what plain clients publish", filter=self._filter)
            return True
        return False

    async def _take_all(self, client: Client, queue: asyncio.Queue[Message]) -> None:
        while True:
            message = await queue.get()
            topic = storage.bare(self._filter, message.topic)
            if topic is not None and message.payload:
                await self._keep(topic, message)
            client.ack(message.packet)

    async def _keep(self, topic: str, message: Message) -> None:
        entry = Entry("", topic, self._names.next(), message.payload)
        key = storage.entry_key(topic, entry.name)
        if message.answer_to is not None:
            self._note(key, message.answer_to)
        await self._link.publish(key, storage.escaped(message.payload), expires_s=self._family.max_age_s)
        if message.retained:
            # It would come again with every subscription.
            await self._link.publish(message.topic, b"")

    def _note(self, key: str, answer_to: tuple[str, bytes]) -> None:
        self._waiting[key] = answer_to
        self._order.append(key)
        if len(self._order) > MOST_WAITING:
            self._waiting.pop(self._order.popleft(), None)


@contextlib.asynccontextmanager
async def taking_in(link: Link, topic_filter: str, durable: str, names: Names) -> AsyncIterator[InboundSession | None]:
    """Take in what plain clients publish under a filter; None where strangers do not write.

    Raises:
        Denied: we may not read that.
        Disconnected: the broker did not get it done in time.
    """
    if Writer.ANYONE not in family_of(topic_filter).writers:
        yield None
        return
    inbound_session = InboundSession(link, topic_filter, durable, names)
    async with task_group() as group:
        task = group.create_task(inbound_session.run(), name=f"mqtt session of {durable}")
        try:
            async with asyncio.timeout(CALL_S):
                await inbound_session.opened.wait()
        except TimeoutError as exc:
            raise Disconnected(f"{topic_filter}: no session after {CALL_S} s") from exc
        yield inbound_session
        task.cancel()
