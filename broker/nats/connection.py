"""One nats-py client from its connect to its end. It does not reconnect: `broker.nats.link` opens another one.

nats-py's own reconnection gives up for good on some errors, keeps requests that can't be answered any more waiting,
and sends what was published meanwhile although the publisher has given up. With one way to lose a connection and
one way to get it back, none of that happens.
"""

import asyncio
import contextlib
import itertools
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, TypeVar

import msgspec
import nats.aio.client
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.nuid import NUID

from broker.errors import BadUrl, ConnectFailed, Denied, Disconnected, PayloadTooLarge
from broker.nats import names
from broker.nats.errors import Busy, decoded, denied_subject, mapped, mapped_connect
from broker.nats.traffic import Progress
from broker.url import BrokerUrl

T = TypeVar("T")

Receive = Callable[[Msg], Awaitable[None]]

CONNECT_S: Final = 5.0
REQUEST_S: Final = 5
"""Requests in flight fail at once when the connection ends; this is for answers that get lost."""

SLOW_S: Final = 300.0
"""An answer may take so long while large messages move on a slow link."""

CLOSE_S: Final = 2.0
PING_S: Final = 5
PINGS_UNANSWERED: Final = 2
PENDING_BYTES: Final = 64 << 20
LARGE_BYTES: Final = 256 << 10
LARGE_AT_ONCE: Final = 4
"""Large requests under way at once, in each direction. More are no faster: asyncio copies what is not sent yet."""

HEADROOM_BYTES: Final = 16 << 10
"""Room for headers, which count as payload."""

# nats-py reads 32 kB at a time, and pauses the socket at 64 kB: 70 rounds through the loop for an update of 2.3 MB.
nats.aio.client.DEFAULT_BUFFER_SIZE = 1 << 20

_NO_RESPONDERS: Final = "503"

_log = structlog.get_logger(__name__)


def new_id() -> str:
    """A unique name that is safe in a subject."""
    return NUID().next().decode()


class _Waiting:
    """Someone to be told when the connection ends or a subject turns out to be forbidden."""

    def __init__(self, subjects: tuple[str, ...]) -> None:
        # The server's complaint names the subject in lower case only.
        self.subjects = tuple(subject.lower() for subject in subjects)
        self.future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Connection:
    """A connection that is up until `lost` is set; see `opened`."""

    def __init__(self, address: BrokerUrl, name: str) -> None:
        self.lost = asyncio.Event()
        self.address = address
        self._name = name
        self._client = Client()
        self._loop = asyncio.get_running_loop()
        self._complaints: list[str] = []
        self._deaf: Denied | None = None
        # What may be read is granted per user, so the user is part of the name.
        self._inbox = f"_INBOX_{re.sub(r'[^A-Za-z0-9_-]', '_', address.user or name)}.{new_id()}"
        self._tokens = itertools.count()
        self._requests: dict[str, _Waiting] = {}
        self._waiting: set[_Waiting] = set()
        self._large_out = asyncio.Semaphore(LARGE_AT_ONCE)
        self.large_in = asyncio.Semaphore(LARGE_AT_ONCE)

    async def open(self) -> None:
        """Connect and prepare for answers.

        Raises:
            ConnectFailed: nobody answers there, or refuses us.
            BadUrl: a file that the address names can't be read.
        """
        password = await self._password()
        trust = await asyncio.to_thread(_trust, self.address) if self.address.scheme == "tls" else None
        try:
            with mapped_connect(self.address.address, self._complaints), _uncancelled():
                async with asyncio.timeout(CONNECT_S):
                    await self._connect(password, trust)
                    await self._client.subscribe(f"{self._inbox}.*", cb=self._on_answer, **_UNLIMITED)
        except BaseException:
            await self.close()
            raise
        self._spare(Progress(self._client))

    async def close(self) -> None:
        """End it; bounded, as nats-py waits for a server that may be frozen."""
        self._lose("the connection was closed")
        with contextlib.suppress(TimeoutError), _uncancelled():
            async with asyncio.timeout(CLOSE_S):
                await self._client.close()

    @property
    def max_message_bytes(self) -> int:
        """The largest payload that goes into one message, with room for its headers."""
        return self._client.max_payload - HEADROOM_BYTES

    def new_inbox(self) -> str:
        """A subject that only this connection listens to, and that is no answer to a request."""
        return f"{self._inbox}.to.{new_id()}"

    async def request(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> Msg:
        """Ask and wait for the answer.

        Raises:
            Denied: we may not ask that.
            Disconnected: the connection ended, nobody is there to answer, or no answer came in time.
            PayloadTooLarge: the server would cut the connection.
        """
        reply = f"{self._inbox}.{next(self._tokens)}"
        async with self._large_out if len(payload) > LARGE_BYTES else contextlib.nullcontext():
            with self._expecting(reply, subject) as waiting:
                await self.send(subject, payload, reply=reply, headers=headers)
                answer = await self._outcome(subject, waiting)
        if not answer.data and (answer.headers or {}).get("Status") == _NO_RESPONDERS:
            raise Busy(f"{subject}: nobody answers there")
        return answer

    async def api(self, topic: str, call: str, request: object, response: type[T]) -> T:
        """Ask JetStream something in JSON.

        Args:
            topic: what it is about, for errors.
            call: of its API, such as `STREAM.INFO.<stream>`.
            request: what is encoded.
            response: what the answer is decoded as.

        Raises:
            BrokerError: what the answer says is wrong, about `topic`.
        """
        answer = await self.request(names.api_subject(self.address, call), msgspec.json.encode(request))
        return decoded(topic, answer.data, response)

    async def send(
        self, subject: str, payload: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send without waiting for anything.

        Raises:
            Disconnected: the connection has ended.
            PayloadTooLarge: the server would cut the connection.
        """
        if len(payload) > self.max_message_bytes:
            raise PayloadTooLarge(subject, len(payload), self.max_message_bytes)
        self._notice_end()
        if self.lost.is_set():
            raise Disconnected(f"{self.address.address}: the connection is gone")
        with mapped(subject), _uncancelled():
            await self._client.publish(subject, payload, reply=reply, headers=headers)

    async def deliver(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """Send, and know that the server has read it; what it then does with it, nobody says.

        Raises:
            Denied: we may not send that.
            Disconnected: the connection ended, or the server did not read it in time.
        """
        async with self._taken_note_of(subject):
            await self.send(subject, payload, headers=headers)

    @contextlib.asynccontextmanager
    async def listening(self, subject: str, receive: Receive) -> AsyncIterator[None]:
        """Have every message on a subject handed over, in order, from now on; `receive` must not raise.

        Raises:
            Denied: we may not listen to that.
            Disconnected: the connection ended, or the server did not answer in time.
        """
        async with self._taken_note_of(subject):
            with mapped(subject):
                subscription = await self._client.subscribe(subject, cb=receive, **_UNLIMITED)
        try:
            yield
        finally:
            with contextlib.suppress(Disconnected, TimeoutError):
                await self._stop(subscription)

    async def _stop(self, subscription: Subscription) -> None:
        """Listen no longer, but hand over what is under way: the server counts it as delivered.

        nats-py's `unsubscribe` drops that, and its `drain` relies on `flush`.
        """
        await self._client._send_unsubscribe(subscription._id)
        await self._round_trip()
        async with asyncio.timeout(REQUEST_S):
            await subscription._pending_queue.join()
        with mapped("unsubscribe"):
            await subscription.unsubscribe()

    @contextlib.contextmanager
    def trouble(self, *subjects: str) -> Iterator["asyncio.Future[Msg]"]:
        """A future that fails when the connection ends, or with Denied about one of the subjects."""
        with self._waits(*subjects) as waiting:
            yield waiting.future

    @contextlib.asynccontextmanager
    async def _taken_note_of(self, subject: str) -> AsyncIterator[None]:
        """Do something without an answer, and wait until the server has read it or refused it."""
        with self._waits(subject) as waiting:
            yield
            await self._round_trip()
            if waiting.future.done():
                waiting.future.result()

    async def _round_trip(self) -> None:
        """Wait until the server has read what we sent, and we what it sent: send something to ourselves.

        nats-py's `flush` will not do: its ping overtakes what is not written yet, and if it is cancelled, the
        late pong ends nats-py's read loop. Where we may not write to ourselves, the refusal does as well.
        """
        echo = f"{self._inbox}.{next(self._tokens)}"
        with self._expecting(echo, echo) as returning, contextlib.suppress(Denied):
            await self.send(echo, b"")
            await self._outcome(echo, returning)

    @contextlib.contextmanager
    def _expecting(self, reply: str, subject: str) -> Iterator[_Waiting]:
        with self._waits(subject) as waiting:
            self._requests[reply] = waiting
            try:
                yield waiting
            finally:
                del self._requests[reply]

    async def _outcome(self, subject: str, waiting: _Waiting) -> Msg:
        progress, since_s = Progress(self._client), self._loop.time()
        progress.goes_on()
        while self._loop.time() - since_s < SLOW_S:
            if (await asyncio.wait([waiting.future], timeout=REQUEST_S))[0]:
                return waiting.future.result()
            if not progress.goes_on():
                break
        self._notice_end()
        raise Disconnected(f"{subject}: no answer within {self._loop.time() - since_s:.0f} s")

    def _spare(self, progress: Progress) -> None:
        """A pong waits behind what is under way: as long as that moves, the server is there."""
        if self.lost.is_set():
            return
        if progress.goes_on():
            self._client._pings_outstanding = 0
        self._loop.call_later(PING_S, self._spare, progress)

    @contextlib.contextmanager
    def _waits(self, *subjects: str) -> Iterator[_Waiting]:
        waiting = _Waiting(subjects)
        self._waiting.add(waiting)
        if self._deaf is not None:
            waiting.fail(self._deaf)
        if self.lost.is_set():
            waiting.fail(Disconnected(f"{self.address.address}: the connection is gone"))
        try:
            yield waiting
        finally:
            self._waiting.discard(waiting)
            # Nobody may have looked at its error, and asyncio complains about that.
            if not waiting.future.cancel() and not waiting.future.cancelled():
                waiting.future.exception()

    async def _connect(self, password: Callable[[], str] | None, trust: ssl.SSLContext | None) -> None:
        scheme, host = self.address.scheme, self.address.address.partition("://")[2]
        await self._client.connect(
            servers=[f"{scheme}://{host}"],
            name=self._name,
            user=self.address.user,
            password=password,
            tls=trust,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=2,
            ping_interval=PING_S,
            max_outstanding_pings=PINGS_UNANSWERED,
            pending_size=PENDING_BYTES,
            flush_timeout=REQUEST_S,
            error_cb=self._on_error,
            closed_cb=self._on_closed,
        )
        self._check_encrypted()
        if not self._client.is_connected:
            raise ConnectFailed(self.address.address, "the server's greeting is not understood")

    def _check_encrypted(self) -> None:
        # nats-py encrypts only if the server asks for it.
        if self.address.scheme == "tls" and not self._client._server_info.get("tls_required"):
            raise ConnectFailed(self.address.address, "the server does not offer TLS")

    async def _password(self) -> Callable[[], str] | None:
        secret = await asyncio.to_thread(self.address.secret)
        if secret is None:
            return None

        def reveal() -> str:
            # nats-py asks for it once the server has made itself known, and before it is sent.
            self._check_encrypted()
            return secret

        return reveal

    async def _on_answer(self, message: Msg) -> None:
        waiting = self._requests.get(message.subject)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_result(message)

    async def _on_error(self, error: Exception) -> None:
        # nats-py's read loop ends silently if this raises.
        subject = denied_subject(error)
        if subject is None:
            self._complaints = [str(error)]
            _log.debug("nats complains", error=str(error), address=self.address.address)
            return
        denied = Denied(subject, str(error).removeprefix("nats: "))
        if subject == f"{self._inbox}.*".lower():
            self._deaf = denied
        if not subject.startswith(f"{self._inbox}.".lower()) or self._deaf:
            _log.warning("the broker denies us something", subject=subject, reason=denied.reason)
        for waiting in list(self._waiting):
            if self._deaf is not None or subject in waiting.subjects:
                waiting.fail(denied)

    async def _on_closed(self) -> None:
        self._lose(self._complaints[-1] if self._complaints else "the server closed the connection")

    def _notice_end(self) -> None:
        # While it closes, nats-py waits for the server, which may be frozen, and tells us only afterwards.
        if self._client.is_closed:
            self._lose("the server does not answer")

    def _lose(self, reason: str) -> None:
        if self.lost.is_set():
            return
        self.lost.set()
        for waiting in list(self._waiting):
            waiting.fail(Disconnected(f"{self.address.address}: {reason}"))


_UNLIMITED: Final[dict[str, Any]] = {"pending_msgs_limit": 0, "pending_bytes_limit": 0}
"""nats-py drops messages beyond its limits; what may be under way is bounded by what we ask for."""


@contextlib.contextmanager
def _uncancelled() -> Iterator[None]:
    """Raise the cancellation that nats-py swallows while it connects, closes, or waits for room in its buffer."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        # Whatever nats-py made of it, an error of its own included.
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


def _trust(address: BrokerUrl) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=address.ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise BadUrl(f"{address.address}: can't use the certificates in {address.ca_file}: {exc}") from exc
