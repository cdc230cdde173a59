"""A connection to an MQTT broker that is replaced when it ends, and calls that are retried on the new one."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from paho.mqtt.client import MQTTv5, topic_matches_sub

from broker import reconnect
from broker.deliveries import Will
from broker.errors import BrokerError, Disconnected, PayloadTooLarge
from broker.mqtt import client as mqtt_client
from broker.mqtt import storage
from broker.mqtt.client import Client, Message, Receive
from broker.mqtt.errors import CutOff
from broker.mqtt.store_check import StoreCheck
from broker.support.tasks import task_group
from broker.url import BrokerUrl

RESEND_S: Final = 2.0
"""Time after which a message to ourselves that has not come back is sent again, in seconds."""

MAX_CUTS: Final = 3
"""After so many connections that ended while one message was sent, the message counts as too large."""


class Connection:
    """Two clients that are opened and closed together: one publishes and listens, the other fetches retained messages.

    A fetch is a short subscription. If the listening client made it, it would end that client's own subscription to
    the same filter.

    Args:
        address: the broker's address.
        name: name of this program; the MQTT client ids start with it.
        version: 5, or 4 for MQTT 3.1.1.
        on_write: called after the broker has acknowledged a retained message.
        will: value that the broker retains for us if the connection ends without a disconnect.

    Attributes:
        lost: event that is set when one of the clients has lost its connection.
        counter_topic: MQTT topic of this connection's counter of its writes. One for each connection: what the last
            one has sent may arrive after the first message of the next one.
    """

    def __init__(
        self,
        address: BrokerUrl,
        name: str,
        version: int,
        on_write: Callable[[], None] = lambda: None,
        will: Will | None = None,
    ) -> None:
        self.counter_topic = storage.MARKS + secrets.token_hex(8)
        self._on_write = on_write
        self.will = will
        self.address = address
        self.name = name
        self.lost = asyncio.Event()
        self._live = Client(address, _client_id(name), version=version, receive=self._on_published, will=will)
        self._fetching = Client(address, _client_id(f"{name}-reads"), version=version, receive=self._on_fetched)
        self._receivers: dict[str, list[Receive]] = {}
        self._fetches: dict[int, tuple[tuple[str, ...], dict[str, bytes]]] = {}
        self._busy_filters: set[str] = set()
        self._filters_freed = asyncio.Condition()
        self._watch_task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect both clients.

        Raises:
            ConnectFailed: there is no broker at the address, or it refuses the connection.
        """
        try:
            async with task_group() as group:
                for client in (self._live, self._fetching):
                    group.create_task(client.open(), name=f"mqtt connect of {self.name}")
        except BaseException:
            await self.close()
            raise
        self._watch_task = asyncio.create_task(self._watch(), name=f"mqtt watch of {self.name}")

    async def close(self) -> None:
        """Disconnect both clients."""
        self.lost.set()
        if self._watch_task is not None:
            self._watch_task.cancel()
        for client in (self._live, self._fetching):
            await client.close()

    @property
    def max_message_bytes(self) -> int:
        """Largest payload of one message, in bytes."""
        return self._live.max_message_bytes

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = True,
        expires_s: float = 0.0,
        correlation: bytes | None = None,
        content_type: str = "",
    ) -> None:
        """Publish a message, by default a retained one; arguments and errors are those of `Client.publish`."""
        await self._live.publish(
            topic, payload, retain=retain, expires_s=expires_s, correlation=correlation, content_type=content_type
        )
        if retain and not topic.startswith(storage.MARKS):
            self._on_write()

    async def fetch(self, *filters: str) -> dict[str, bytes]:
        """Return the payloads of the retained messages under MQTT filters, by MQTT topic.

        The subscription has QoS 0: then the reply to the unsubscription comes after all messages, and Mosquitto's
        default limit of a thousand queued messages (for QoS 1) does not apply.

        Raises:
            Denied: this user may not read that.
            Disconnected: the connection ended, or not all messages came in time.
        """
        payloads: dict[str, bytes] = {}
        # Two fetches of one filter take turns: the first unsubscription would end the subscription of both.
        async with self._filters_freed:
            await self._filters_freed.wait_for(lambda: self._busy_filters.isdisjoint(filters))
            self._busy_filters.update(filters)
        self._fetches[id(payloads)] = (filters, payloads)
        try:
            await asyncio.gather(
                self._fetching.subscribe(filters, qos=0, retained=True), self._fetching.unsubscribe(filters)
            )
        finally:
            del self._fetches[id(payloads)]
            self._busy_filters.difference_update(filters)
            async with self._filters_freed:
                self._filters_freed.notify_all()
        return {topic: payload for topic, payload in payloads.items() if payload}

    async def receive_all(self) -> None:
        """Return when `listen` has received everything that the broker had before this call.

        MQTT messages have no numbers, so a message of our own shows it: the broker keeps the order of messages to one
        client. It is sent again and again, because a broker drops messages to a client for which too many wait.

        Raises:
            Disconnected: the connection ended.
        """
        came_back = asyncio.Event()
        topic = storage.MARKS + secrets.token_hex(8)
        async with self.listen((topic,), lambda _: came_back.set()):
            while not came_back.is_set():
                await self._live.publish(topic, b"-", retain=False)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RESEND_S):
                        await came_back.wait()

    @contextlib.asynccontextmanager
    async def listen(self, filters: Iterable[str], receive: Receive) -> AsyncIterator[None]:
        """Receive the messages that are published during the block, in order.

        Args:
            filters: MQTT filters.
            receive: called with every message; must not raise.

        Raises:
            Denied: this user may not subscribe to that.
            Disconnected: the connection ended, or the broker did not reply in time.
        """
        filters = tuple(filters)
        for topic_filter in filters:
            self._receivers.setdefault(topic_filter, []).append(receive)
        try:
            await self._live.subscribe(filters, qos=1, retained=False)
            yield
        finally:
            for topic_filter in filters:
                self._receivers[topic_filter].remove(receive)
            unused = [topic_filter for topic_filter in filters if not self._receivers[topic_filter]]
            for topic_filter in unused:
                del self._receivers[topic_filter]
            self._live.unsubscribe_nowait(unused)

    def _on_fetched(self, message: Message) -> None:
        for filters, payloads in self._fetches.values():
            if any(topic_matches_sub(topic_filter, message.topic) for topic_filter in filters):
                payloads[message.topic] = message.payload

    def _on_published(self, message: Message) -> None:
        # MQTT 3.1.1 sends the retained messages with every subscription; `fetch` has them.
        if not message.retained:
            for topic_filter, receivers in list(self._receivers.items()):
                if topic_matches_sub(topic_filter, message.topic):
                    for receive in list(receivers):
                        receive(message)

    async def _watch(self) -> None:
        """Set `lost` when one of the clients is lost."""
        waits = [asyncio.ensure_future(client.lost.wait()) for client in (self._live, self._fetching)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self.lost.set()


class Link(reconnect.Link[Connection]):
    """A connection that is replaced when it ends.

    Args:
        address: the broker's address.
        name: name of this program.
        version: 5, or 4 for MQTT 3.1.1.
        will: value that the broker retains for us if the connection ends without a disconnect.

    Attributes:
        version: 5, or 4 for MQTT 3.1.1.
        store: what we know of the broker's store.
    """

    def __init__(self, address: BrokerUrl, name: str, version: int, will: Will | None) -> None:
        self.store = StoreCheck(address.address)
        super().__init__(lambda: Connection(address, name, version, self.store.note, will))
        self.version = version

    @property
    def is_late(self) -> bool:
        """Whether the broker may show a retained message only a moment after its acknowledgement.

        nats-server does; it and others that know only MQTT 3.1.1 store a message after they have passed it on.
        """
        return self.version != MQTTv5

    async def check_store(self, connection: Connection) -> None:
        """Implements `reconnect.Link.check_store`."""
        await self.store.check(connection, is_late=self.is_late)

    @contextlib.asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """Count our writes at the broker during the block, so that `check_store` can find them missing."""
        async with task_group() as group:
            counting = group.create_task(
                self.store.run(self.connection), name=f"mqtt counter of {self.address.address}"
            )
            try:
                yield
            finally:
                counting.cancel()
                connection = self._connection
                if not connection.lost.is_set():
                    with contextlib.suppress(BrokerError):
                        await self.store.forget(connection)

    def raise_if_permanent(self, failures: list[Disconnected]) -> None:
        """Implements `reconnect.Link.raise_if_permanent`: give up a message that has ended several connections.

        Some brokers end the connection if a message is too large, without an error. A retry would end the next one.

        Raises:
            PayloadTooLarge: several connections ended while a large message was sent.
        """
        cuts = [failure for failure in failures if isinstance(failure, CutOff)]
        if len(cuts) == MAX_CUTS:
            raise PayloadTooLarge(cuts[-1].topic, cuts[-1].size) from cuts[-1]

    async def publish(self, topic: str, payload: bytes, *, expires_s: float = 0.0, content_type: str = "") -> None:
        """Publish a retained message, with retries on new connections.

        Args:
            topic: MQTT topic.
            payload: the payload; empty: delete the topic's retained message.
            expires_s: lifetime of the message in seconds (MQTT 5 only); 0: unlimited.
            content_type: media type of the payload (MQTT 5 only); empty: none.
        """
        await self.retry(
            lambda connection: connection.publish(topic, payload, expires_s=expires_s, content_type=content_type)
        )

    async def fetch(self, *filters: str) -> dict[str, bytes]:
        """Return the payloads of the retained messages under MQTT filters, with retries on new connections."""
        return await self.retry(lambda connection: connection.fetch(*filters))


@contextlib.asynccontextmanager
async def open_link(address: BrokerUrl, name: str, will: Will | None = None) -> AsyncIterator[Link]:
    """Open a link for the time of the block.

    Args:
        address: the broker's address.
        name: name of this program.
        will: value that the broker retains for us if the connection ends without a disconnect.

    Raises:
        ConnectFailed: there is no broker at the address, or it refuses the connection.
    """
    version = await mqtt_client.detect_version(address, _client_id(f"{name}-asks"))
    link = Link(address, name, version, will)
    async with link.running():
        yield link


def _client_id(name: str) -> str:
    # nats-server accepts no '.' in a client id.
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', name)}-{secrets.token_hex(6)}"
