"""The topics of a Google Cloud project, through the asyncio client of Google's own library.

Not through its batching publisher: that one refuses every further message to a topic once one has failed, forgets some
that failed, and its threads outlive whoever gave up.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

import grpc
from google.api_core import exceptions
from google.api_core.retry import AsyncRetry
from google.pubsub_v1 import PublisherAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport

from bridges.errors import FunctionGone, InvocationFailed, NotStarted, PlatformAway, PlatformDenied, PlatformFailed
from bridges.gcf.settings import EMULATOR, Settings

AWAY: Final = (
    exceptions.RetryError,
    exceptions.ServerError,
    exceptions.TooManyRequests,
    exceptions.Aborted,
    exceptions.Cancelled,
    TimeoutError,
)
"""What Pub/Sub, its client or our own clock says when the same call may work later."""

DENIED: Final = (exceptions.Unauthorized, exceptions.Forbidden)

RIGHTS: Final = "its account needs roles/pubsub.editor, or roles/pubsub.publisher on topics that others create"

_WHERE: Final = "Pub/Sub"


class Topics:
    """Publishes, and creates and deletes topics. Use it as `async with opened(...) as topics`.

    Every method raises Google's own exceptions, or TimeoutError: see `invoking` and `managing`.
    """

    def __init__(self, publisher: PublisherAsyncClient, call_s: float) -> None:
        self._publisher = publisher
        self._call_s = call_s
        # The library's own policy is to try for 600 s.
        retry = AsyncRetry(initial=0.1, maximum=1.0, timeout=call_s, predicate=lambda exc: isinstance(exc, AWAY))
        self._limits = {"retry": retry, "timeout": call_s}

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        """The id of the message, once Pub/Sub has it."""
        request = {"topic": topic, "messages": [{"data": data, "attributes": dict(attributes)}]}
        return str((await self._call(self._publisher.publish, request)).message_ids[0])

    async def has_subscriber(self, topic: str) -> bool:
        """Whether a message would reach anybody."""
        try:
            found = await self._call(self._publisher.list_topic_subscriptions, {"topic": topic})
        except exceptions.NotFound:
            return False
        return bool(found.subscriptions)

    async def swallows(self, topic: str) -> bool:
        """Whether nobody would get a message; False too if we may not ask."""
        try:
            return not await self.has_subscriber(topic)
        except DENIED:
            return False

    async def create(self, topic: str, labels: Mapping[str, str]) -> None:
        """Have a topic; harmless if it is there."""
        with contextlib.suppress(exceptions.AlreadyExists):
            await self._call(self._publisher.create_topic, {"name": topic, "labels": dict(labels)})

    async def labels(self, topic: str) -> dict[str, str] | None:
        """A topic's labels; None if there is no such topic."""
        try:
            found = await self._call(self._publisher.get_topic, {"topic": topic})
        except exceptions.NotFound:
            return None
        return dict(found.labels)

    async def delete(self, topic: str) -> None:
        """Have no such topic; harmless if there is none."""
        with contextlib.suppress(exceptions.NotFound):
            await self._call(self._publisher.delete_topic, {"topic": topic})

    async def _call(self, method: Callable[..., Awaitable[Any]], request: dict[str, Any]) -> Any:
        async with asyncio.timeout(self._call_s):
            return await method(request=request, **self._limits)


@contextlib.asynccontextmanager
async def opened(settings: Settings, credentials: Any) -> AsyncIterator[Topics]:
    """A client, until the end of the block; it connects when it is first used.

    Args:
        settings: how long a call may take.
        credentials: of google-auth; not used where the environment names an emulator.
    """
    emulator = os.environ.get(EMULATOR)
    channel = grpc.aio.insecure_channel(emulator) if emulator else None
    transport = PublisherGrpcAsyncIOTransport(credentials=credentials, channel=channel)
    try:
        yield Topics(PublisherAsyncClient(transport=transport), settings.call_s)
    finally:
        await transport.close()  # type: ignore[no-untyped-call] # Google says no types


@contextlib.contextmanager
def invoking(settings: Settings, topic: str) -> Iterator[None]:
    """Say Google's errors as those of an invocation."""
    try:
        yield
    except exceptions.NotFound as exc:
        raise FunctionGone(f"there is no {topic}") from exc
    except DENIED as exc:
        raise PlatformDenied(settings.name, _WHERE, f"{said(exc)}; {RIGHTS}") from exc
    except AWAY as exc:
        raise NotStarted(f"{_WHERE} did not take the message: {said(exc)}") from exc
    except exceptions.GoogleAPIError as exc:
        raise InvocationFailed(f"{_WHERE} does not take the message: {said(exc)}", retryable=False) from exc


@contextlib.contextmanager
def managing(settings: Settings, what: str) -> Iterator[None]:
    """Say Google's errors as those of creating and deleting."""
    try:
        yield
    except DENIED as exc:
        raise PlatformDenied(settings.name, _WHERE, f"{said(exc)}; {RIGHTS}") from exc
    except AWAY as exc:
        raise PlatformAway(settings.name, what, f"{_WHERE}: {said(exc)}") from exc
    except exceptions.GoogleAPIError as exc:
        raise PlatformFailed(settings.name, what, f"{_WHERE}: {said(exc)}") from exc


def said(exc: BaseException) -> str:
    """Google's words; a time-out has none."""
    return str(exc) or "no answer in time"
