"""One MQTT connection: a paho client from its connect to its end.

It never reconnects: `broker.mqtt.link` opens a new client instead. So a message whose publisher has given up is never
sent later.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from paho.mqtt.client import Client as Paho
from paho.mqtt.client import MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.deliveries import Will
from broker.errors import BrokerError, ConnectFailed, Disconnected, PayloadTooLarge
from broker.mqtt import errors, storage, tls
from broker.mqtt.errors import CutOff, OldProtocol, check, check_connected, map_connect_errors
from broker.mqtt.paho_loop import KEEP_ALIVE_S, PahoLoop
from broker.url import BrokerUrl

VERSIONS: Final = {"5": int(MQTTv5), "3.1.1": int(MQTTv311)}
"""The versions of MQTT as addresses name them, the newest first, and as paho numbers them."""

CONNECT_S: Final = 5.0
REQUEST_S: Final = 10.0
"""A broker that writes its whole store at every change may take seconds for each request."""

IN_FLIGHT: Final = 64
"""Most messages that are published and not yet acknowledged."""

PACKET_BYTES: Final = 4 << 20
"""Largest payload of one message if the broker announces no limit."""

HEADROOM_BYTES: Final = 4 << 10
"""Room for topic and properties, which count towards the broker's packet limit."""

SUSPECT_BYTES: Final = 64 << 10
"""If the connection ends while a larger message is sent, the message's size may be the cause."""


@dataclass(frozen=True, slots=True)
class Message:
    """A received message.

    Attributes:
        topic: MQTT topic.
        payload: the payload; empty: the retained message of this topic was deleted.
        retained: whether the broker had retained the message before the subscription.
        packet_id: packet identifier, for `Client.ack`.
        reply_to: the response topic and the correlation data of a request (MQTT 5); None: not a request.
        expires_s: what was left of the message's expiry interval when the broker sent it, in seconds (MQTT 5, section
            3.3.2.3.3); None: it has none.
        content_type: media type of the payload, as its publisher says (MQTT 5); empty: it says none.
    """

    topic: str
    payload: bytes
    retained: bool = False
    packet_id: int = 0
    reply_to: tuple[str, bytes] | None = None
    expires_s: int | None = None
    content_type: str = ""


Receive = Callable[[Message], None]


class Client:
    """An MQTT connection that works until `lost` is set.

    Args:
        address: the broker's address.
        name: the MQTT client id.
        version: 5, or 4 for MQTT 3.1.1.
        receive: called with every message; must not raise.
        session_s: how long the broker keeps the session after a disconnect, in seconds; 0: not at all. If it keeps
            the session, every message must be acknowledged with `ack`.
        will: value that the broker retains for us if the connection ends without a disconnect.

    Attributes:
        lost: event that is set when the connection has ended.
        reason: why the connection ended.
        max_message_bytes: largest payload of one message.
    """

    def __init__(
        self,
        address: BrokerUrl,
        name: str,
        *,
        version: int,
        receive: Receive,
        session_s: float = 0.0,
        will: Will | None = None,
    ) -> None:
        self.lost = asyncio.Event()
        self.reason = ""
        self.version = version
        self.max_message_bytes = PACKET_BYTES
        self._address = address
        self._session_s = session_s
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._replies: dict[tuple[str, int], asyncio.Future[list[ReasonCode]]] = {}
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)
        self._paho = self._new_paho(name, will)
        self._paho_loop = PahoLoop(self._paho, address.address, lost=self.lost, on_lost=self._lose)

    async def open(self) -> None:
        """Connect.

        Raises:
            ConnectFailed: there is no broker at the address, or it refuses the connection.
            OldProtocol: the broker does not support this version of MQTT.
            BadUrl: a file that the address names cannot be read.
        """
        await asyncio.to_thread(self._read_credentials)
        try:
            with map_connect_errors(self._address, within_s=CONNECT_S, is_open=lambda: self._paho_loop.is_open):
                async with asyncio.timeout(CONNECT_S):
                    await asyncio.to_thread(self._connect)
                    await self._connected
        except BaseException:
            await self.close()
            raise
        self._paho_loop.keep_alive()

    async def close(self) -> None:
        """Disconnect."""
        self._paho.disconnect()
        self._paho_loop.stop()
        self._lose("it was closed")
        self._paho._sock_close()
        if self._connected.done() and not self._connected.cancelled():
            self._connected.exception()  # asyncio logs an exception that is never retrieved

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool,
        expires_s: float = 0.0,
        correlation: bytes | None = None,
        content_type: str = "",
    ) -> None:
        """Publish with QoS 1, and return when the broker has acknowledged the message.

        Args:
            topic: MQTT topic.
            payload: the payload; empty and retained: delete the topic's retained message.
            retain: whether the broker retains the message.
            expires_s: lifetime of the message in seconds (MQTT 5 only); 0: unlimited.
            correlation: correlation data of a reply (MQTT 5 only).
            content_type: media type of the payload (MQTT 5 only); empty: none.

        Raises:
            Denied: this user may not publish there; MQTT 3.1.1 does not report it.
            PayloadTooLarge: the broker does not accept a message of this size.
            CutOff: the connection ended meanwhile; the size of the message may be the cause.
            Disconnected: the connection ended, or the broker did not reply in time.
        """
        if len(payload) > self.max_message_bytes:
            raise PayloadTooLarge(topic, len(payload), self.max_message_bytes)
        properties = self._publish_properties(expires_s if payload else 0.0, correlation, content_type)
        async with self._in_flight:
            self._check_open()
            info = self._paho.publish(topic, payload, qos=1, retain=retain, properties=properties)
            try:
                [reason] = await self._reply("publish", topic, info.rc, info.mid)
            except Disconnected as exc:
                if self.lost.is_set() and len(payload) > SUSPECT_BYTES:
                    raise CutOff(topic, len(payload), self.reason) from exc
                raise
        check(topic, reason, len(payload))

    async def subscribe(self, filters: Sequence[str], *, qos: int, retained: bool) -> None:
        """Subscribe.

        Args:
            filters: MQTT filters.
            qos: 0 or 1.
            retained: whether to receive the retained messages too; with MQTT 3.1.1 they always come.

        Raises:
            Denied: this user may not subscribe to that.
            Disconnected: the connection ended, or the broker did not reply in time.
        """
        self._check_open()
        subscriptions: list[Any] = [(topic_filter, qos) for topic_filter in filters]
        if self.version == MQTTv5:
            handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if retained else SubscribeOptions.RETAIN_DO_NOT_SEND
            subscriptions = [(each, SubscribeOptions(qos=qos, retainHandling=handling)) for each in filters]
        rc, mid = self._paho.subscribe(subscriptions)
        for topic_filter, reason in zip(filters, await self._reply("subscribe", filters[0], rc, mid), strict=False):
            check(topic_filter, reason)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe, and return when the broker's last message has arrived.

        Raises:
            Disconnected: the connection ended, or the broker did not reply in time.
        """
        self._check_open()
        rc, mid = self._paho.unsubscribe(list(filters))
        await self._reply("unsubscribe", filters[0], rc, mid)

    def unsubscribe_nowait(self, filters: Sequence[str]) -> None:
        """Unsubscribe without waiting for the broker's reply."""
        if filters and not self.lost.is_set():
            self._paho.unsubscribe(list(filters))

    def ack(self, packet_id: int) -> None:
        """Acknowledge a message; only for a client whose session is kept."""
        self._paho.ack(packet_id, 1)

    def _new_paho(self, name: str, will: Will | None) -> Paho:
        paho = Paho(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            clean_session=None if self.version == MQTTv5 else not self._session_s,
            protocol=MQTTProtocolVersion(self.version),
            reconnect_on_failure=False,
            manual_ack=self._session_s > 0,
        )
        if will is not None:
            paho.will_set(storage.mqtt_topic(will.topic), will.payload, qos=1, retain=True)
        paho.max_inflight_messages_set(IN_FLIGHT)
        paho.on_connect = self._on_connect
        paho.on_disconnect = lambda _client, _data, _flags, reason, _properties: self._lose(str(reason))
        paho.on_message = self._on_message
        paho.on_publish = lambda _c, _d, mid, reason, _p: self._on_reply("publish", mid, [reason])
        paho.on_subscribe = lambda _c, _d, mid, reasons, _p: self._on_reply("subscribe", mid, reasons)
        paho.on_unsubscribe = lambda _c, _d, mid, reasons, _p: self._on_reply("unsubscribe", mid, reasons)
        return paho

    def _read_credentials(self) -> None:
        if self._address.user is not None:
            self._paho.username_pw_set(self._address.user, self._address.secret())
        if self._address.scheme == "mqtts":
            self._paho.tls_set_context(tls.context(self._address))

    def _connect(self) -> None:
        properties = _properties(PacketTypes.CONNECT) if self.version == MQTTv5 else None
        if properties is not None:
            properties.ReceiveMaximum = IN_FLIGHT
            properties.SessionExpiryInterval = int(self._session_s)
        self._paho.connect_timeout = CONNECT_S
        # paho accepts `clean_start` with MQTT 5 only; by default it is true for the first connection only.
        clean: Any = {"clean_start": not self._session_s} if self.version == MQTTv5 else {}
        self._paho.connect(
            self._address.host, self._address.port, keepalive=KEEP_ALIVE_S, properties=properties, **clean
        )

    def _on_connect(self, _client: Paho, _data: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        if self._connected.done():
            return
        try:
            check_connected(self._address, reason)
        except BrokerError as exc:
            self._connected.set_exception(exc)
            return
        limit = getattr(properties, "MaximumPacketSize", 0)
        if limit:
            self.max_message_bytes = min(PACKET_BYTES, limit) - HEADROOM_BYTES
        if getattr(properties, "RetainAvailable", 1) == 0:
            self._connected.set_exception(ConnectFailed(self._address.address, errors.KEEPS_NOTHING))
            return
        self._connected.set_result(None)

    def _on_message(self, _client: Paho, _data: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        response_topic = getattr(message.properties, "ResponseTopic", None)
        correlation = getattr(message.properties, "CorrelationData", b"")
        reply_to = None if response_topic is None else (response_topic, correlation)
        expires_s = getattr(message.properties, "MessageExpiryInterval", None)
        content_type = getattr(message.properties, "ContentType", "")
        payload = bytes(message.payload)
        self._receive(Message(topic, payload, message.retain, message.mid, reply_to, expires_s, content_type))

    def _publish_properties(self, expires_s: float, correlation: bytes | None, content_type: str) -> Properties | None:
        if self.version != MQTTv5:
            return None
        properties = _properties(PacketTypes.PUBLISH)
        if expires_s:
            properties.MessageExpiryInterval = int(expires_s)
        if correlation is not None:
            properties.CorrelationData = correlation
        if content_type:
            properties.ContentType = content_type
        return properties

    def _check_open(self) -> None:
        if self.lost.is_set():
            raise Disconnected(f"{self._address.address}: the connection is gone: {self.reason}")

    async def _reply(self, kind: str, topic: str, rc: MQTTErrorCode, mid: int | None) -> list[ReasonCode]:
        """Wait for the broker's reply to a request that paho has sent with the message id `mid`."""
        if rc != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise Disconnected(f"{topic}: {rc.name}")
        reply: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        self._replies[kind, mid] = reply
        try:
            async with asyncio.timeout(REQUEST_S):
                return await reply
        except TimeoutError as exc:
            raise Disconnected(f"{topic}: no answer within {REQUEST_S} s") from exc
        finally:
            del self._replies[kind, mid]

    def _on_reply(self, kind: str, mid: int, reasons: list[ReasonCode]) -> None:
        reply = self._replies.get((kind, mid))
        if reply is not None and not reply.done():
            reply.set_result(reasons)

    def _lose(self, reason: str) -> None:
        if not self.lost.is_set():
            self.reason = reason
            self.lost.set()
        if not self._connected.done():
            # A broker that does not know MQTT 5 may close the connection instead of replying.
            self._connected.set_exception(OldProtocol(errors.no_mqtt(self._address)))
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(Disconnected(f"{self._address.address}: the connection is gone: {reason}"))


@contextlib.asynccontextmanager
async def open_client(
    address: BrokerUrl, name: str, *, version: int, receive: Receive, session_s: float = 0.0
) -> AsyncIterator[Client]:
    """Open a client for the time of the block.

    Args:
        address: the broker's address.
        name: the MQTT client id.
        version: 5, or 4 for MQTT 3.1.1.
        receive: called with every message; must not raise.
        session_s: how long the broker keeps the session after a disconnect, in seconds; 0: not at all.

    Raises:
        ConnectFailed: there is no broker at the address, or it refuses the connection.
        OldProtocol: the broker does not support this version of MQTT.
        BadUrl: a file that the address names cannot be read.
    """
    client = Client(address, name, version=version, receive=receive, session_s=session_s)
    await client.open()
    try:
        yield client
    finally:
        await client.close()


async def detect_version(address: BrokerUrl, name: str) -> int:
    """Return the newest version of MQTT that the broker supports, or that the address demands: 5, or 4 for 3.1.1.

    Args:
        address: the broker's address.
        name: an MQTT client id.

    Raises:
        ConnectFailed: there is no broker at the address, or it refuses the connection.
    """
    versions = [VERSIONS[address.version]] if address.version else list(VERSIONS.values())
    for version in versions:
        try:
            async with open_client(address, name, version=version, receive=lambda _: None):
                return version
        except OldProtocol as exc:
            if version == versions[-1]:
                raise ConnectFailed(address.address, str(exc)) from exc
    raise AssertionError  # the last version returns or raises


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call] # paho's constructor has no annotations
