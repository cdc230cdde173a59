"""A connection to an MQTT broker that is always there again: replaced when it ends, and calls repeated across that."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Iterable
from typing import Final

from paho.mqtt.client import topic_matches_sub

from broker import reconnect
from broker.base import Will
from broker.errors import Disconnected, PayloadTooLarge
from broker.mqtt import client as mqtt_client
from broker.mqtt.client import Client, Message, Receive
from broker.mqtt.errors import CutOff
from broker.support.tasks import task_group
from broker.url import BrokerUrl

MOST_CUTS: Final = 3
"""Connections that may end because of one message."""


class Connection:
    """Two clients that come and go together: one publishes and hears what happens, one fetches what is retained.

    A fetch is a subscription that ends at once. Were it made by the client that listens, it would end that
    client's own subscription to the same filter.
    """

    def __init__(self, address: BrokerUrl, name: str, version: int, will: Will | None = None) -> None:
        self.will = will
        self.address = address
        self.name = name
        self.lost = asyncio.Event()
        self._live = Client(address, _client_id(name), version=version, receive=self._heard, will=will)
        self._fetching = Client(address, _client_id(f"{name}-reads"), version=version, receive=self._fetched)
        self._ears: dict[str, list[Receive]] = {}
        self._fetches: dict[int, tuple[tuple[str, ...], dict[str, Message]]] = {}
        self._fetched_now: set[str] = set()
        self._turn = asyncio.Condition()
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            ConnectFailed: nobody answers there, or refuses us.
        """
        try:
            async with task_group() as group:
                for client in (self._live, self._fetching):
                    group.create_task(client.open(), name=f"mqtt connect of {self.name}")
        except BaseException:
            await self.close()
            raise
        self._watch = asyncio.create_task(self._watched(), name=f"mqtt watch of {self.name}")

    async def close(self) -> None:
        """End it."""
        self.lost.set()
        if self._watch is not None:
            self._watch.cancel()
        for client in (self._live, self._fetching):
            await client.close()

    @property
    def max_message_bytes(self) -> int:
        """The largest payload that goes into one message."""
        return self._live.max_message_bytes

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = True,
        expires_s: float = 0.0,
        mark: bytes | None = None,
        content_type: str = "",
    ) -> None:
        """See Client.publish."""
        await self._live.publish(
            topic, payload, retain=retain, expires_s=expires_s, mark=mark, content_type=content_type
        )

    async def fetch(self, *filters: str) -> dict[str, Message]:
        """What is retained under MQTT filters, by topic.

        With QoS 0, because then the acknowledgement of the unsubscription comes after everything else; and because
        Mosquitto cuts a queue of QoS 1 off after a thousand messages, if nobody configured it otherwise.

        Raises:
            Denied: we may not read that.
            Disconnected: the connection ended, or not everything came in time.
        """
        found: dict[str, Message] = {}
        async with self._having(set(filters)):
            self._fetches[id(found)] = (filters, found)
            try:
                await asyncio.gather(
                    self._fetching.subscribe(filters, qos=0, retained=True), self._fetching.unsubscribe(filters)
                )
            finally:
                del self._fetches[id(found)]
        return {topic: message for topic, message in found.items() if message.payload}

    @contextlib.asynccontextmanager
    async def hearing(self, filters: Iterable[str], receive: Receive) -> AsyncIterator[None]:
        """Have everything handed over, in order, that is published from now on; `receive` must not raise.

        Raises:
            Denied: we may not listen to that.
            Disconnected: the connection ended, or the broker did not answer in time.
        """
        wanted = tuple(filters)
        for topic_filter in wanted:
            self._ears.setdefault(topic_filter, []).append(receive)
        try:
            await self._live.subscribe(wanted, qos=1, retained=False)
            yield
        finally:
            self._live.leave([topic_filter for topic_filter in wanted if self._is_deaf_to(topic_filter, receive)])

    def _is_deaf_to(self, topic_filter: str, receive: Receive) -> bool:
        """Take an ear off; True if it was the last one."""
        self._ears[topic_filter].remove(receive)
        if self._ears[topic_filter]:
            return False
        del self._ears[topic_filter]
        return True

    @contextlib.asynccontextmanager
    async def _having(self, filters: set[str]) -> AsyncIterator[None]:
        """Nobody else fetches the same filter: the end of its subscription would be the end of ours."""
        async with self._turn:
            await self._turn.wait_for(lambda: not self._fetched_now & filters)
            self._fetched_now |= filters
        try:
            yield
        finally:
            self._fetched_now -= filters
            async with self._turn:
                self._turn.notify_all()

    def _fetched(self, message: Message) -> None:
        for filters, found in self._fetches.values():
            if any(topic_matches_sub(topic_filter, message.topic) for topic_filter in filters):
                found[message.topic] = message

    def _heard(self, message: Message) -> None:
        # MQTT 3.1.1 sends what is retained with every subscription; we fetch it.
        if not message.retained:
            for topic_filter, ears in list(self._ears.items()):
                if topic_matches_sub(topic_filter, message.topic):
                    for receive in list(ears):
                        receive(message)

    async def _watched(self) -> None:
        ends = [asyncio.ensure_future(client.lost.wait()) for client in (self._live, self._fetching)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        self.lost.set()


class Link(reconnect.Link[Connection]):
    """See broker.reconnect.Link.

    Args:
        address: of the broker.
        name: who we are.
        version: 5, or 4 for MQTT 3.1.1.
        will: what the broker retains for us when we vanish.
    """

    def __init__(self, address: BrokerUrl, name: str, version: int, will: Will | None) -> None:
        super().__init__(lambda: Connection(address, name, version, will))
        self.version = version

    def reconsider(self, failures: list[Disconnected]) -> None:
        """Brokers that take no such message say nothing and end the connection; sent again, it would end again.

        Raises:
            PayloadTooLarge: the connection ended again and again while a large message was sent.
        """
        cuts = [failure for failure in failures if isinstance(failure, CutOff)]
        if len(cuts) == MOST_CUTS:
            raise PayloadTooLarge(cuts[-1].topic, cuts[-1].size) from cuts[-1]

    async def publish(self, topic: str, payload: bytes, *, expires_s: float = 0.0, content_type: str = "") -> None:
        """Retain a message, an empty one to forget what is there, however often the connection ends meanwhile."""
        await self.retry(
            lambda connection: connection.publish(topic, payload, expires_s=expires_s, content_type=content_type)
        )

    async def fetch(self, *filters: str) -> dict[str, Message]:
        """See Connection.fetch."""
        return await self.retry(lambda connection: connection.fetch(*filters))


@contextlib.asynccontextmanager
async def opened(address: BrokerUrl, name: str, will: Will | None = None) -> AsyncIterator[Link]:
    """A link that is up when it is entered.

    Raises:
        ConnectFailed: nobody answers there, or refuses us.
    """
    version = await mqtt_client.version_of(address, _client_id(f"{name}-asks"))
    made = Link(address, name, version, will)
    async with made.running():
        yield made


def _client_id(name: str) -> str:
    # nats-server takes no '.' in a client id.
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', name)}-{secrets.token_hex(6)}"
