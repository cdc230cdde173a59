"""A connection to an MQTT broker that is always there again: replaced when it ends, and calls repeated across that."""

import asyncio
import contextlib
import itertools
import random
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, TypeVar

import structlog
from paho.mqtt.client import topic_matches_sub

from broker import backoff, mqtt_client
from broker.base import Will
from broker.concurrency import task_group
from broker.errors import BrokerError, Disconnected, PayloadTooLarge
from broker.mqtt_client import Client, Message, Receive
from broker.mqtt_errors import CutOff
from broker.url import BrokerUrl

T = TypeVar("T")

CALL_S: Final = 30.0
"""Whatever a caller wants of the broker is done by then, or has failed. A broker that crashed is back before."""

MOST_CUTS: Final = 3
"""Connections that may end because of one message."""

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

_log = structlog.get_logger(__name__)
_random = random.SystemRandom()


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
        self, topic: str, payload: bytes, *, retain: bool = True, expires_s: float = 0.0, mark: bytes | None = None
    ) -> None:
        """See Client.publish."""
        await self._live.publish(topic, payload, retain=retain, expires_s=expires_s, mark=mark)

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


@contextlib.asynccontextmanager
async def opened(address: BrokerUrl, name: str, will: Will | None = None) -> AsyncIterator["Link"]:
    """A link that is up when it is entered.

    Raises:
        ConnectFailed: nobody answers there, or refuses us. Only the first connection is that impatient.
    """
    version = await mqtt_client.version_of(address, _client_id(f"{name}-asks"))
    first = Connection(address, name, version, will)
    await first.open()
    link = Link(first, version)
    try:
        async with task_group() as group:
            supervisor = group.create_task(link.supervise(), name=f"mqtt supervisor of {name}")
            yield link
            supervisor.cancel()
    finally:
        await link.close()


class Link:
    """The current connection, and patience.

    Attributes:
        version: 5, or 4 for MQTT 3.1.1.
    """

    def __init__(self, connection: Connection, version: int) -> None:
        self.version = version
        self._connection = connection
        self._up = asyncio.Event()
        self._up.set()
        self._reason = ""

    @property
    def address(self) -> BrokerUrl:
        """Where the broker is."""
        return self._connection.address

    @property
    def max_message_bytes(self) -> int:
        """The largest payload that goes into one message."""
        return self._connection.max_message_bytes

    async def connection(self) -> Connection:
        """The current connection, as soon as there is one."""
        await self._up.wait()
        return self._connection

    async def persist(self, attempt: Callable[[Connection], Awaitable[T]]) -> T:
        """Try something until it works; it must be harmless to do twice.

        Raises:
            Disconnected: it did not work in time.
            PayloadTooLarge: the connection ended again and again while a large message was sent.
            BrokerError: whatever else the attempt raised.
        """
        deadline, cuts = asyncio.get_running_loop().time() + CALL_S, 0
        for tries in itertools.count():
            connection = await self._connection_by(deadline)
            try:
                return await attempt(connection)
            except Disconnected as exc:
                cuts += isinstance(exc, CutOff)
                if isinstance(exc, CutOff) and cuts == MOST_CUTS:
                    # Brokers that say nothing end the connection instead; sent again, it would end again.
                    raise PayloadTooLarge(exc.topic, exc.size) from exc
                pause_s = pause(tries)
                if asyncio.get_running_loop().time() + pause_s > deadline:
                    raise
                _log.debug("trying again", error=str(exc), attempt=tries + 1, pause_s=round(pause_s, 3))
            await asyncio.sleep(pause_s)
        raise AssertionError  # itertools.count() never ends

    async def publish(self, topic: str, payload: bytes, *, expires_s: float = 0.0) -> None:
        """Retain a message, an empty one to forget what is there, however often the connection ends meanwhile."""
        await self.persist(lambda connection: connection.publish(topic, payload, expires_s=expires_s))

    async def fetch(self, *filters: str) -> dict[str, Message]:
        """See Connection.fetch."""
        return await self.persist(lambda connection: connection.fetch(*filters))

    async def supervise(self) -> None:
        """Open another connection whenever the current one ends."""
        while True:
            await self._connection.lost.wait()
            self._up.clear()
            _log.warning("connection lost", address=self.address.address)
            await self._connection.close()
            await self._reopen()
            self._up.set()
            _log.info("connected again", address=self.address.address)

    async def close(self) -> None:
        """End the current connection."""
        await self._connection.close()

    async def _reopen(self) -> None:
        for tries in itertools.count():
            fresh = Connection(self.address, self._connection.name, self.version, self._connection.will)
            try:
                await fresh.open()
            except BrokerError as exc:
                # Refused credentials too: a password file may be renewed while the broker is away.
                self._reason = str(exc)
                _log.debug("can't connect", error=self._reason, attempt=tries + 1)
                await asyncio.sleep(pause(tries))
            else:
                self._connection = fresh
                return

    async def _connection_by(self, deadline: float) -> Connection:
        try:
            async with asyncio.timeout_at(deadline):
                return await self.connection()
        except TimeoutError as exc:
            raise Disconnected(f"no connection for {CALL_S} s: {self._reason}") from exc


def pause(tries: int) -> float:
    """How long to wait before trying again, seconds."""
    return backoff.delay_s(tries, _random.uniform, first_s=FIRST_PAUSE_S, most_s=LONGEST_PAUSE_S)


def _client_id(name: str) -> str:
    # nats-server takes no '.' in a client id.
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', name)}-{secrets.token_hex(6)}"
