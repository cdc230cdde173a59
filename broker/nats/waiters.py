"""The waiting calls of one connection; they fail when the connection ends or the server denies their subject."""

import asyncio
import contextlib
from collections.abc import Iterator

from nats.aio.msg import Msg

from broker.errors import BrokerError, Denied


class _Waiter:
    """A future that fails with an error of the connection or of its subjects."""

    def __init__(self, subjects: tuple[str, ...]) -> None:
        # The server names the subject of an error in lower case.
        self.subjects = tuple(subject.lower() for subject in subjects)
        self.future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    def fail(self, error: BrokerError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Waiters:
    """All waiting calls of a connection.

    Attributes:
        failure: the error with which every new call fails at once; None while the connection works.
    """

    def __init__(self) -> None:
        self.failure: BrokerError | None = None
        self._waiters: set[_Waiter] = set()
        self._by_reply: dict[str, _Waiter] = {}

    @contextlib.contextmanager
    def watch(self, *subjects: str) -> Iterator["asyncio.Future[Msg]"]:
        """Yield a future that fails when the connection ends or one of the subjects is denied."""
        with self._register(subjects) as waiter:
            yield waiter.future

    @contextlib.contextmanager
    def expect(self, reply: str, subject: str) -> Iterator["asyncio.Future[Msg]"]:
        """Yield a future for a message; it also fails as those of `watch` do.

        Args:
            reply: subject of the expected message.
            subject: subject of the request.
        """
        with self._register((subject,)) as waiter:
            self._by_reply[reply] = waiter
            try:
                yield waiter.future
            finally:
                del self._by_reply[reply]

    def resolve(self, message: Msg) -> None:
        """Pass a message to the call that expects it."""
        waiter = self._by_reply.get(message.subject)
        if waiter is not None and not waiter.future.done():
            waiter.future.set_result(message)

    def deny(self, denied: Denied) -> None:
        """Fail the calls that use a denied subject."""
        for waiter in list(self._waiters):
            if denied.topic in waiter.subjects:
                waiter.fail(denied)

    def fail_all(self, error: BrokerError, later: BrokerError | None = None) -> None:
        """Fail all calls, and every later call.

        Args:
            error: the error of the current calls.
            later: the error of later calls; None for the same error.
        """
        if self.failure is None:
            self.failure = later or error
        for waiter in list(self._waiters):
            waiter.fail(error)

    @contextlib.contextmanager
    def _register(self, subjects: tuple[str, ...]) -> Iterator[_Waiter]:
        waiter = _Waiter(subjects)
        self._waiters.add(waiter)
        if self.failure is not None:
            waiter.fail(self.failure)
        try:
            yield waiter
        finally:
            self._waiters.discard(waiter)
            # asyncio logs a future whose exception was never retrieved.
            if not waiter.future.cancel() and not waiter.future.cancelled():
                waiter.future.exception()
