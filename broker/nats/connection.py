"""One nats-py client from connect to close. It does not reconnect; `broker.nats.link` opens a new connection instead.

nats-py's own reconnection stops permanently on some errors, leaves requests waiting that can't be answered any more,
and sends messages later although their publisher has already failed. Without it, these problems do not exist.
"""

import asyncio
import contextlib
import itertools
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

import msgspec
import nats.aio.client
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker.errors import Denied, Disconnected, PayloadTooLarge
from broker.nats import names, tls
from broker.nats.errors import NoAnswer, NobodyAnswers, decode, denied_subject, map_connect_errors, map_errors
from broker.nats.hosts import open_any
from broker.nats.nats_py import close_client, restore_cancellation, send_large
from broker.nats.opening import PING_S, Password, open_client, password_of
from broker.nats.seen import Seen
from broker.nats.traffic import TrafficMonitor
from broker.nats.waiters import Waiters
from broker.support import loggers
from broker.url import BrokerUrl, Host

T = TypeVar("T")

Receive = Callable[[Msg], Awaitable[None]]

CONNECT_S: Final = 5.0
REQUEST_S: Final = 5
"""Timeout of a request. It matters when an answer gets lost; when the connection ends, requests fail at once."""

CLUSTER_REQUEST_S: Final = 2.5
"""The same in a cluster, for a small request: it gets no answer if it was sent to a node that has just died."""

NOT_LONGER_S: Final = 0.01
"""Timeout of requests that were sent together, when one of them has had no answer."""

SETTLE_S: Final = 0.2
"""Time in which a request leaves the buffers of a fast link; what moves later shows that the link is slow."""

SLOW_S: Final = 300.0
"""Timeout of a request while large messages still move on a slow link."""

LARGE_BYTES: Final = 256 << 10
LARGE_AT_ONCE: Final = 4
"""Concurrent large requests, in each direction. More are not faster, because asyncio copies unsent data."""

HEADROOM_BYTES: Final = 16 << 10
"""Room for headers, which NATS counts as payload."""

# By default nats-py reads 32 kB at a time and pauses the socket at 64 kB: 70 loop iterations for an update of 2.3 MB.
nats.aio.client.DEFAULT_BUFFER_SIZE = 1 << 20

_ID_BYTES: Final = 16
_NO_RESPONDERS: Final = "503"
_UNLIMITED: Final[dict[str, Any]] = {"pending_msgs_limit": 0, "pending_bytes_limit": 0}
"""Above its limits nats-py drops messages; we limit the pending messages by what we request."""

_log = loggers.get_logger(__name__)


def new_id() -> str:
    """Return a unique name that is valid in a subject."""
    return secrets.token_hex(_ID_BYTES)


class Connection:
    """A connection to a NATS server, used until `lost` is set.

    Args:
        address: the server's address.
        name: name of this client in the server's logs.
        seen: what this client has seen of the streams, on all of its connections.

    Attributes:
        lost: set when the connection has ended.
        address: the server's address.
        seen: as in Args.
        large_answers: limits the concurrent requests whose answers may be large.
    """

    def __init__(self, address: BrokerUrl, name: str, seen: Seen) -> None:
        self.lost = asyncio.Event()
        self.address = address
        self.seen = seen
        self._name = name
        self._client = Client()
        self._loop = asyncio.get_running_loop()
        self._last_error: Exception | None = None
        self._is_open = False
        self._waiters = Waiters()
        # Users have permissions for their own inbox only, so the user is part of the name.
        self._inbox = f"_INBOX_{re.sub(r'[^A-Za-z0-9_-]', '_', address.user or name)}.{new_id()}"
        self._tokens = itertools.count()
        self._large_requests = asyncio.Semaphore(LARGE_AT_ONCE)
        self.large_answers = asyncio.Semaphore(LARGE_AT_ONCE)

    async def open(self) -> None:
        """Connect to the first host that accepts, in random order, and subscribe to answers.

        Raises:
            ConnectFailed: no host can be reached, or each refuses the connection.
            BadUrl: a file in the address can't be read.
        """
        password = await password_of(self.address)
        context = await asyncio.to_thread(tls.context, self.address) if self.address.scheme == "tls" else None
        await open_any(self.address, lambda host: self._open(host, password, context))

    async def close(self) -> None:
        """Close the connection."""
        self._mark_lost("the connection was closed")
        await close_client(self._client)

    @property
    def is_clustered(self) -> bool:
        """Whether another node than the leader of a stream may answer a direct get, perhaps with an older message."""
        return bool(self._client._server_info.get("cluster")) or (self.address.replicas or 1) > 1

    @property
    def max_message_bytes(self) -> int:
        """Size of the largest payload of one message; leaves room for headers."""
        return self._client.max_payload - HEADROOM_BYTES

    @property
    def has_jetstream(self) -> bool:
        """Whether this server has JetStream. Through a leaf node without it, the JetStream behind its link answers."""
        return bool(self._client._server_info.get("jetstream"))

    @property
    def api_level(self) -> int:
        """Level of the server's JetStream API; 0: it does not say."""
        return int(self._client._server_info.get("api_lvl", 0))

    def new_inbox(self) -> str:
        """Return a new subject that this connection may subscribe to; answers to requests do not use it."""
        return f"{self._inbox}.to.{new_id()}"

    async def request(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None, *, patience: float = 1.0
    ) -> Msg:
        """Send a request and return the answer.

        Args:
            subject: subject of the request.
            payload: payload of the request.
            headers: headers of the request.
            patience: factor of the timeout.

        Raises:
            Denied: this user may not publish to the subject.
            Disconnected: the connection ended, no one serves the subject, or no answer came in time.
            PayloadTooLarge: the payload is larger than the server accepts.
        """
        reply, is_large = f"{self._inbox}.{next(self._tokens)}", len(payload) > LARGE_BYTES
        timeout_s = patience * (CLUSTER_REQUEST_S if self.is_clustered and not is_large else REQUEST_S)
        async with self._large_requests if is_large else contextlib.nullcontext():
            with self._waiters.expect(reply, subject) as future:
                await self.send(subject, payload, reply=reply, headers=headers)
                answer = await self._wait_for_answer(subject, future, timeout_s)
        if not answer.data and (answer.headers or {}).get("Status") == _NO_RESPONDERS:
            raise NobodyAnswers(f"{subject}: nobody answers there")
        return answer

    async def request_all(self, requests: Sequence[tuple[str, bytes, dict[str, str]]]) -> list[Msg | None]:
        """Send small requests in this order, and return their answers. None: denied, or no answer came in time.

        Args:
            requests: subject, payload and headers of each.

        Raises:
            Disconnected: the connection has ended.
            PayloadTooLarge: a payload is larger than the server accepts.
        """
        answers, timeout_s = list[Msg | None](), CLUSTER_REQUEST_S if self.is_clustered else REQUEST_S
        with contextlib.ExitStack() as stack:
            futures = []
            for subject, payload, headers in requests:
                reply = f"{self._inbox}.{next(self._tokens)}"
                futures.append(stack.enter_context(self._waiters.expect(reply, subject)))
                await self.send(subject, payload, reply=reply, headers=headers)
            for (subject, *_), future in zip(requests, futures, strict=True):
                try:
                    answers.append(await self._wait_for_answer(subject, future, timeout_s))
                except NoAnswer:
                    answers.append(None)
                    timeout_s = NOT_LONGER_S
                except Denied:
                    answers.append(None)
        return answers

    async def call_api(self, topic: str, call: str, request: object, response: type[T], *, patience: float = 1.0) -> T:
        """Call JetStream's API.

        Args:
            topic: the topic to name in errors.
            call: the call without prefix, such as `STREAM.INFO.<stream>`.
            request: the request, to encode as JSON.
            response: type of the response.
            patience: factor of the timeout.

        Raises:
            Disconnected: no answer came in time.
            BrokerError: the error in the answer.
        """
        subject = names.api_subject(self.address, call)
        answer = await self.request(subject, msgspec.json.encode(request), patience=patience)
        return decode(topic, answer.data, response)

    async def send(
        self, subject: str, payload: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send a message without confirmation.

        Args:
            subject: subject of the message.
            payload: payload of the message.
            reply: subject for the answer; empty for none.
            headers: headers of the message.

        Raises:
            Disconnected: the connection has ended.
            PayloadTooLarge: the payload is too large; the server would close the connection.
        """
        if len(payload) > self.max_message_bytes:
            raise PayloadTooLarge(subject, len(payload), self.max_message_bytes)
        self._check_closed()
        if self.lost.is_set():
            raise Disconnected(f"{self.address.address}: the connection is gone")
        with map_errors(subject), restore_cancellation():
            if len(payload) > LARGE_BYTES and self._client.is_connected:
                send_large(self._client, subject, payload, reply=reply, headers=headers or {})
            else:
                await self._client.publish(subject, payload, reply=reply, headers=headers)

    async def send_and_confirm(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a message, and return once the server has read it; the server may still fail to process it.

        Args:
            subject: subject of the message.
            payload: payload of the message.
            headers: headers of the message.

        Raises:
            Denied: this user may not publish to the subject.
            Disconnected: the connection ended, or the server did not read the message in time.
            PayloadTooLarge: the payload is too large; the server would close the connection.
        """
        async with self._confirm(subject):
            await self.send(subject, payload, headers=headers)

    @contextlib.asynccontextmanager
    async def listen(self, subject: str, receive: Receive) -> AsyncIterator[None]:
        """Pass every message on a subject to `receive`, in order, during the block.

        Args:
            subject: the subject, which may contain wildcards.
            receive: called with each message; must not raise.

        Raises:
            Denied: this user may not subscribe to the subject.
            Disconnected: the connection ended, or the server did not answer in time.
        """
        async with self._confirm(subject):
            with map_errors(subject):
                subscription = await self._client.subscribe(subject, cb=receive, **_UNLIMITED)
        try:
            yield
        finally:
            with contextlib.suppress(Disconnected, TimeoutError):
                # Messages in transit still go to `receive`, because the server counts them as delivered. nats-py's
                # `unsubscribe` would drop them, and its `drain` relies on `flush`.
                await self._client._send_unsubscribe(subscription._id)
                await self.round_trip()
                async with asyncio.timeout(REQUEST_S):
                    await subscription._pending_queue.join()
                with map_errors("unsubscribe"):
                    await subscription.unsubscribe()

    def watch(self, *subjects: str) -> AbstractContextManager["asyncio.Future[Msg]"]:
        """Return a context with a future that fails when the connection ends or a subject is denied."""
        return self._waiters.watch(*subjects)

    @contextlib.asynccontextmanager
    async def _confirm(self, subject: str) -> AsyncIterator[None]:
        """Wait after the block until the server has read what the block sent, or has denied the subject."""
        with self._waiters.watch(subject) as future:
            yield
            await self.round_trip()
            if future.done():
                future.result()

    async def round_trip(self) -> None:
        """Wait until both sides have read everything sent before: send a message to ourselves.

        nats-py's `flush` is not enough: its ping overtakes data that is not written yet, and if it is cancelled, the
        late pong ends nats-py's read loop. If publishing to our inbox is denied, the denial confirms as well.

        Raises:
            Disconnected: the connection ended, or the server did not answer in time.
        """
        echo = f"{self._inbox}.{next(self._tokens)}"
        with self._waiters.expect(echo, echo) as future, contextlib.suppress(Denied):
            await self.send(echo, b"")
            await self._wait_for_answer(echo, future)

    async def _wait_for_answer(
        self, subject: str, future: "asyncio.Future[Msg]", timeout_s: float | None = None
    ) -> Msg:
        """Wait for `timeout_s` (None: REQUEST_S), or up to SLOW_S while data still moves on the connection."""
        if future.done():
            return future.result()
        traffic, start_s, timeout_s = TrafficMonitor(self._client), self._loop.time(), timeout_s or REQUEST_S
        if (await asyncio.wait([future], timeout=min(SETTLE_S, timeout_s)))[0]:
            return future.result()
        traffic.has_moved()
        while self._loop.time() - start_s < SLOW_S:
            if (await asyncio.wait([future], timeout=timeout_s))[0]:
                return future.result()
            if not traffic.has_moved():
                break
        self._check_closed()
        raise NoAnswer(f"{subject}: no answer within {self._loop.time() - start_s:.1f} s")

    def _forgive_pings(self, traffic: TrafficMonitor) -> None:
        """Reset the count of missing pongs while data moves, because a pong waits behind the data in transit."""
        if self.lost.is_set():
            return
        if traffic.has_moved():
            self._client._pings_outstanding = 0
        self._loop.call_later(PING_S, self._forgive_pings, traffic)

    async def _open(self, host: Host, password: Password | None, context: ssl.SSLContext | None) -> None:
        """Connect to one host; a new client is needed for each, because a client that failed can't be used again."""
        self._client, self._last_error = Client(), None
        mapped = map_connect_errors(self.address, host, within_s=CONNECT_S, last_error=lambda: self._last_error)
        try:
            with mapped, restore_cancellation():
                async with asyncio.timeout(CONNECT_S):
                    await open_client(
                        *(self._client, self.address, host),
                        name=self._name,
                        password=password,
                        context=context,
                        on_error=self._on_error,
                        on_closed=self._on_closed,
                    )
                    await self._client.subscribe(f"{self._inbox}.*", cb=self._on_answer, **_UNLIMITED)
        except BaseException:
            await close_client(self._client)
            raise
        self._is_open = True
        self._check_closed()
        _log.debug("connected", server=str(host))
        self._forgive_pings(TrafficMonitor(self._client))

    async def _on_answer(self, message: Msg) -> None:
        self._waiters.resolve(message)

    async def _on_error(self, error: Exception) -> None:
        # This must not raise: that would end nats-py's read loop silently.
        subject = denied_subject(error)
        if subject is None:
            self._last_error = error
            _log.debug("error from nats", error=str(error), address=self.address.address)
            return
        denied = Denied(subject, str(error).removeprefix("nats: "))
        if subject == f"{self._inbox}.*".lower():
            self._waiters.fail_all(denied)
        else:
            self._waiters.deny(denied)
        # A denied echo of `round_trip` is normal.
        if not subject.startswith(f"{self._inbox}.".lower()) or self._waiters.failure is not None:
            _log.warning("the broker denied a subject", subject=subject, reason=denied.reason)

    async def _on_closed(self) -> None:
        # A host that was tried in vain is no loss.
        if self._is_open:
            self._mark_lost(str(self._last_error or "the server closed the connection"))

    def _check_closed(self) -> None:
        # nats-py calls `_on_closed` only after it has waited for the server, which may not respond.
        if self._client.is_closed:
            self._mark_lost("the server does not answer")

    def _mark_lost(self, reason: str) -> None:
        if self.lost.is_set():
            return
        self.lost.set()
        address = self.address.address
        self._waiters.fail_all(Disconnected(f"{address}: {reason}"), Disconnected(f"{address}: the connection is gone"))
