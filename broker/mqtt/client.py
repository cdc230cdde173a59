"""One paho client from its connect to its end, on the event loop: no thread of paho's ever runs.

It does not reconnect: `broker.mqtt.link` opens another one. So paho's traps are out of reach: an exception in a
callback can't end a thread that nobody watches, and nothing that its publisher has given up is sent later on.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from paho.mqtt.client import Client as Paho
from paho.mqtt.client import MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.base import Will
from broker.errors import BrokerError, ConnectFailed, Disconnected, PayloadTooLarge
from broker.mqtt import storage
from broker.mqtt.errors import CutOff, OldProtocol, check, check_connected, mapped_connect, mapped_files
from broker.url import BrokerUrl

CONNECT_S: Final = 5.0
REQUEST_S: Final = 10.0
"""A broker that writes its whole store at every change may take seconds for each."""

KEEP_ALIVE_S: Final = 5
"""A broker that is frozen is noticed after twice that."""

IN_FLIGHT: Final = 64
PACKET_BYTES: Final = 4 << 20
"""What goes into one message where the broker names no limit."""

HEADROOM_BYTES: Final = 4 << 10
"""Room for the topic and the properties, which count as a part of the packet."""

SUSPECT_BYTES: Final = 64 << 10
"""A connection that ends while so much is sent may have ended because of it."""

SEND_BUFFER_BYTES: Final = 1 << 20

_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came.

    Attributes:
        topic: MQTT topic.
        payload: empty: what was retained there is gone.
        retained: it lay there, and was not published just now.
        packet: what to acknowledge.
        answer_to: where its publisher waits for an answer, and the mark to put on it (MQTT 5).
    """

    topic: str
    payload: bytes
    retained: bool = False
    packet: int = 0
    answer_to: tuple[str, bytes] | None = None


Receive = Callable[[Message], None]


class Client:
    """A connection that is up until `lost` is set.

    Args:
        address: of the broker.
        name: the MQTT client id.
        version: 5, or 4 for MQTT 3.1.1.
        receive: called with every message; must not raise.
        session_s: how long the broker keeps the session when we are gone; 0: not at all. If it does, messages
            must be acknowledged with `ack`.
        will: what the broker retains for us when we end without a goodbye.
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
        self._socket: socket.socket | None = None
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._answers: dict[tuple[str, int], asyncio.Future[list[ReasonCode]]] = {}
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)
        self._timer: asyncio.TimerHandle | None = None
        self._paho = Paho(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            clean_session=None if version == MQTTv5 else not session_s,
            protocol=MQTTProtocolVersion(version),
            reconnect_on_failure=False,
            manual_ack=session_s > 0,
        )
        if will is not None:
            self._paho.will_set(storage.mqtt(will.topic), will.payload, qos=1, retain=True)
        self._install()

    async def open(self) -> None:
        """Connect.

        Raises:
            ConnectFailed: nobody answers there, or refuses us.
            OldProtocol: the broker does not speak this version.
            BadUrl: a file that the address names can't be read.
        """
        await asyncio.to_thread(self._prepare)
        try:
            with mapped_connect(self._address.address):
                async with asyncio.timeout(CONNECT_S):
                    await asyncio.to_thread(self._connect)
                    await self._connected
        except BaseException:
            await self.close()
            raise
        self._tick()

    async def close(self) -> None:
        """Say goodbye and end it."""
        if self._timer is not None:
            self._timer.cancel()
        self._paho.disconnect()
        if self._socket is not None:
            self._paho.loop_write()
        self._lose("it was closed")
        self._paho._sock_close()
        if self._connected.done() and not self._connected.cancelled():
            self._connected.exception()  # nobody else may have looked

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool,
        expires_s: float = 0.0,
        mark: bytes | None = None,
        content_type: str = "",
    ) -> None:
        """Publish with QoS 1, and return when the broker has it.

        Args:
            topic: MQTT topic.
            payload: empty and retained: forget what lies there.
            retain: whether the broker keeps it.
            expires_s: for how long (MQTT 5 only); 0: for ever.
            mark: correlation data of an answer (MQTT 5 only).
            content_type: media type of the payload (MQTT 5 only); empty: it is not said.

        Raises:
            Denied: we may not; MQTT 3.1.1 does not tell.
            PayloadTooLarge: the broker takes no such message.
            CutOff: the connection ended meanwhile, maybe because the broker takes no such message.
            Disconnected: the connection ended, or no answer came in time.
        """
        if len(payload) > self.max_message_bytes:
            raise PayloadTooLarge(topic, len(payload), self.max_message_bytes)
        properties = self._publish_properties(expires_s if payload else 0.0, mark, content_type)
        async with self._in_flight:
            self._check_up()
            info = self._paho.publish(topic, payload, qos=1, retain=retain, properties=properties)
            try:
                [reason] = await self._answer("publish", topic, info.rc, info.mid)
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
            retained: whether what is retained is to come too; with MQTT 3.1.1 it always does.

        Raises:
            Denied: we may not.
            Disconnected: the connection ended, or no answer came in time.
        """
        self._check_up()
        rc, mid = self._paho.subscribe(self._subscriptions(filters, qos, retained=retained))
        for topic_filter, reason in zip(filters, await self._answer("subscribe", filters[0], rc, mid), strict=False):
            check(topic_filter, reason)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Subscribe no longer; whatever the broker sent before it took note of that has come by then.

        Raises:
            Disconnected: the connection ended, or no answer came in time.
        """
        self._check_up()
        rc, mid = self._paho.unsubscribe(list(filters))
        await self._answer("unsubscribe", filters[0], rc, mid)

    def leave(self, filters: Sequence[str]) -> None:
        """Subscribe no longer, and do not wait for it."""
        if filters and not self.lost.is_set():
            self._paho.unsubscribe(list(filters))

    def ack(self, packet: int) -> None:
        """Acknowledge a message; only where the session is kept."""
        self._paho.ack(packet, 1)

    def _prepare(self) -> None:
        """Everything that reads files."""
        if self._address.user is not None:
            self._paho.username_pw_set(self._address.user, self._address.secret())
        if self._address.scheme == "mqtts":
            with mapped_files(self._address.address):
                self._paho.tls_set_context(_tls(self._address))

    def _connect(self) -> None:
        properties = _properties(PacketTypes.CONNECT) if self.version == MQTTv5 else None
        if properties is not None:
            properties.ReceiveMaximum = IN_FLIGHT
            properties.SessionExpiryInterval = int(self._session_s)
        self._paho.connect_timeout = CONNECT_S
        # paho reads `clean_start` with MQTT 5 only; its default is "the first time".
        clean: Any = {"clean_start": not self._session_s} if self.version == MQTTv5 else {}
        self._paho.connect(
            self._address.host, self._address.port, keepalive=KEEP_ALIVE_S, properties=properties, **clean
        )

    def _install(self) -> None:
        paho = self._paho
        paho.max_inflight_messages_set(IN_FLIGHT)
        paho.on_connect = self._on_connect
        paho.on_disconnect = lambda _client, _data, _flags, reason, _properties: self._lose(str(reason))
        paho.on_message = self._on_message
        paho.on_publish = lambda _c, _d, mid, reason, _p: self._answered("publish", mid, [reason])
        paho.on_subscribe = lambda _c, _d, mid, reasons, _p: self._answered("subscribe", mid, reasons)
        paho.on_unsubscribe = lambda _c, _d, mid, reasons, _p: self._answered("unsubscribe", mid, reasons)
        # Connecting happens in another thread, and these two are called there.
        paho.on_socket_open = lambda _c, _d, opened: self._call(self._opened, opened)
        paho.on_socket_register_write = lambda _c, _d, _s: self._call(self._watch_writes)
        paho.on_socket_unregister_write = lambda _c, _d, _s: self._unwatch_writes()
        paho.on_socket_close = lambda _c, _d, _s: self._closed()

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        # The loop is closed if someone gave up connecting, and the program ended meanwhile.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _opened(self, opened: socket.socket) -> None:
        if self.lost.is_set() or opened.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = opened
        self._loop.add_reader(opened, self._read)
        self._watch_writes()

    def _closed(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket = None

    def _watch_writes(self) -> None:
        if self._socket is not None and self._paho.want_write():
            self._loop.add_writer(self._socket, self._guarded, self._paho.loop_write)

    def _unwatch_writes(self) -> None:
        if self._socket is not None:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        self._guarded(self._paho.loop_read)
        if self._socket is not None and _QUICKACK is not None:
            # Mosquitto sends with Nagle's algorithm: without this, an answer of two packets takes 40 ms.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        # TLS may have decrypted more than one packet, of which the socket knows nothing any more.
        while isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            self._guarded(self._paho.loop_read)

    def _tick(self) -> None:
        """Let paho look after its keep-alive."""
        self._guarded(self._paho.loop_misc)
        if not self.lost.is_set():
            self._timer = self._loop.call_later(KEEP_ALIVE_S / 5, self._tick)

    def _guarded(self, step: Callable[[], MQTTErrorCode]) -> None:
        try:
            code = step()
        except Exception as exc:
            # The outermost loop of paho: a packet that it can't digest ends this connection and nothing else.
            log.exception("connection given up", address=self._address.address)
            self._lose(f"{type(exc).__name__}: {exc}")
            self._paho._sock_close()
            return
        if code not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
            self._lose(code.name)

    def _on_connect(self, _client: Paho, _data: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        if self._connected.done():
            return
        try:
            check_connected(self._address.address, reason)
        except BrokerError as exc:
            self._connected.set_exception(exc)
            return
        limit = getattr(properties, "MaximumPacketSize", 0)
        self.max_message_bytes = min(PACKET_BYTES, limit or PACKET_BYTES + HEADROOM_BYTES) - (
            HEADROOM_BYTES if limit else 0
        )
        if getattr(properties, "RetainAvailable", 1) == 0:
            self._connected.set_exception(ConnectFailed(self._address.address, "this broker keeps no messages"))
            return
        self._connected.set_result(None)

    def _on_message(self, _client: Paho, _data: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._receive(Message(topic, bytes(message.payload), message.retain, message.mid, _answer_to(message)))

    def _publish_properties(self, expires_s: float, mark: bytes | None, content_type: str) -> Properties | None:
        if self.version != MQTTv5:
            return None
        properties = _properties(PacketTypes.PUBLISH)
        if expires_s:
            properties.MessageExpiryInterval = int(expires_s)
        if mark is not None:
            properties.CorrelationData = mark
        if content_type:
            properties.ContentType = content_type
        return properties

    def _subscriptions(self, filters: Sequence[str], qos: int, *, retained: bool) -> list[Any]:
        if self.version != MQTTv5:
            return [(topic_filter, qos) for topic_filter in filters]
        handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if retained else SubscribeOptions.RETAIN_DO_NOT_SEND
        return [(topic_filter, SubscribeOptions(qos=qos, retainHandling=handling)) for topic_filter in filters]

    def _check_up(self) -> None:
        if self.lost.is_set():
            raise Disconnected(f"{self._address.address}: the connection is gone: {self.reason}")

    async def _answer(self, kind: str, topic: str, rc: MQTTErrorCode, mid: int | None) -> list[ReasonCode]:
        if rc != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise Disconnected(f"{topic}: {rc.name}")
        with self._expecting(kind, mid) as answer:
            try:
                async with asyncio.timeout(REQUEST_S):
                    return await answer
            except TimeoutError as exc:
                raise Disconnected(f"{topic}: no answer within {REQUEST_S} s") from exc

    @contextlib.contextmanager
    def _expecting(self, kind: str, mid: int) -> Iterator["asyncio.Future[list[ReasonCode]]"]:
        answer: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        self._answers[kind, mid] = answer
        try:
            yield answer
        finally:
            del self._answers[kind, mid]

    def _answered(self, kind: str, mid: int, reasons: list[ReasonCode]) -> None:
        answer = self._answers.get((kind, mid))
        if answer is not None and not answer.done():
            answer.set_result(reasons)

    def _lose(self, reason: str) -> None:
        if not self.lost.is_set():
            self.reason = reason
            self.lost.set()
        if not self._connected.done():
            # A broker that knows no MQTT 5 may as well hang up.
            old = self.version == MQTTv5 and self._socket is not None
            failed = ConnectFailed(self._address.address, reason)
            self._connected.set_exception(OldProtocol(reason) if old else failed)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Disconnected(f"{self._address.address}: the connection is gone: {reason}"))


@contextlib.asynccontextmanager
async def opened(
    address: BrokerUrl, name: str, *, version: int, receive: Receive, session_s: float = 0.0
) -> AsyncIterator[Client]:
    """A client that is up when this is entered; see Client."""
    client = Client(address, name, version=version, receive=receive, session_s=session_s)
    await client.open()
    try:
        yield client
    finally:
        await client.close()


async def version_of(address: BrokerUrl, name: str) -> int:
    """The newest version of MQTT that the broker speaks: 5, or 4 for 3.1.1.

    Raises:
        ConnectFailed: nobody answers there, or refuses us.
    """
    for version in (MQTTv5, MQTTv311):
        try:
            async with opened(address, name, version=version, receive=lambda _: None):
                return int(version)
        except OldProtocol as exc:
            if version == MQTTv311:
                raise ConnectFailed(address.address, f"it speaks neither MQTT 5 nor 3.1.1: {exc}") from exc
    raise AssertionError  # the last version returns or raises


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call] # paho's own has no annotations


def _tls(address: BrokerUrl) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=address.ca_file)
    if address.cert_file is not None:
        context.load_cert_chain(address.cert_file, address.key_file)
    return context


def _answer_to(message: MQTTMessage) -> tuple[str, bytes] | None:
    topic = getattr(message.properties, "ResponseTopic", None)
    return None if topic is None else (topic, getattr(message.properties, "CorrelationData", b""))
