"""The Pub/Sub topics of a Google Cloud project, through the asyncio client of Google's library.

The library's batching publisher is not used: after one failed message it refuses all further messages of the topic, it
loses some failures, and its threads outlive a caller that gives up.
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
"""Errors of Pub/Sub, of its client or of our own timeout after which the same call may succeed later."""

DENIED: Final = (exceptions.Unauthorized, exceptions.Forbidden)

RIGHTS: Final = "its account needs roles/pubsub.editor, or roles/pubsub.publisher on topics that others create"

_WHERE: Final = "Pub/Sub"


class Topics:
    """Publishes messages, and creates and deletes topics. Use it as `async with connected(...) as topics`.

    Every method raises Google's exceptions or TimeoutError. `invocation_errors` and `management_errors` translate them.

    Args:
        publisher: Google's client.
        call_s: time limit of a call with its retries, in seconds.
    """

    def __init__(self, publisher: PublisherAsyncClient, call_s: float) -> None:
        self._publisher = publisher
        self._call_s = call_s
        # By default the library retries for 600 s.
        retry = AsyncRetry(initial=0.1, maximum=1.0, timeout=call_s, predicate=lambda exc: isinstance(exc, AWAY))
        self._limits = {"retry": retry, "timeout": call_s}

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        """Publish a message and return its id. Pub/Sub has stored the message then.

        Args:
            topic: full name of the topic.
            data: data of the message.
            attributes: attributes of the message.
        """
        request = {"topic": topic, "messages": [{"data": data, "attributes": dict(attributes)}]}
        return str((await self._call(self._publisher.publish, request)).message_ids[0])

    async def has_subscriber(self, topic: str) -> bool:
        """Whether the topic exists and has a subscription."""
        try:
            page = await self._call(self._publisher.list_topic_subscriptions, {"topic": topic})
        except exceptions.NotFound:
            return False
        return bool(page.subscriptions)

    async def is_unsubscribed(self, topic: str) -> bool:
        """Whether the topic has no subscription. False if it has one, or if we lack permission to check."""
        try:
            return not await self.has_subscriber(topic)
        except DENIED:
            return False

    async def create(self, topic: str, labels: Mapping[str, str]) -> None:
        """Create a topic unless it exists.

        Args:
            topic: full name of the topic.
            labels: labels of a new topic.
        """
        with contextlib.suppress(exceptions.AlreadyExists):
            await self._call(self._publisher.create_topic, {"name": topic, "labels": dict(labels)})

    async def labels(self, topic: str) -> dict[str, str] | None:
        """Return the labels of a topic; None if the topic does not exist."""
        try:
            resource = await self._call(self._publisher.get_topic, {"topic": topic})
        except exceptions.NotFound:
            return None
        return dict(resource.labels)

    async def delete(self, topic: str) -> None:
        """Delete a topic if it exists."""
        with contextlib.suppress(exceptions.NotFound):
            await self._call(self._publisher.delete_topic, {"topic": topic})

    async def _call(self, method: Callable[..., Awaitable[Any]], request: dict[str, Any]) -> Any:
        async with asyncio.timeout(self._call_s):
            return await method(request=request, **self._limits)


@contextlib.asynccontextmanager
async def connected(settings: Settings, credentials: Any) -> AsyncIterator[Topics]:
    """Yield the topics of a project. The first call opens the connection.

    Args:
        settings: time limit of a call.
        credentials: credentials of google-auth; not used if the environment names an emulator.
    """
    emulator = os.environ.get(EMULATOR)
    channel = grpc.aio.insecure_channel(emulator) if emulator else None
    transport = PublisherGrpcAsyncIOTransport(credentials=credentials, channel=channel)
    try:
        yield Topics(PublisherAsyncClient(transport=transport), settings.call_s)
    finally:
        await transport.close()  # type: ignore[no-untyped-call] # Google's library has no types


@contextlib.contextmanager
def invocation_errors(settings: Settings, topic: str) -> Iterator[None]:
    """Translate Google's errors into those of an invocation.

    Args:
        settings: name of the platform.
        topic: full name of the topic.

    Raises:
        FunctionGone: the topic does not exist.
        NotStarted: Pub/Sub did not accept the message, but may accept it later.
        InvocationFailed: Pub/Sub refuses the message.
        PlatformDenied: Pub/Sub refuses the credentials.
    """
    try:
        yield
    except exceptions.NotFound as exc:
        raise FunctionGone(f"there is no {topic}") from exc
    except DENIED as exc:
        raise PlatformDenied(settings.name, _WHERE, f"{_text_of(exc)}; {RIGHTS}") from exc
    except AWAY as exc:
        raise NotStarted(f"{_WHERE} did not take the message: {_text_of(exc)}") from exc
    except exceptions.GoogleAPIError as exc:
        raise InvocationFailed(f"{_WHERE} does not take the message: {_text_of(exc)}", retryable=False) from exc


@contextlib.contextmanager
def management_errors(settings: Settings, purpose: str) -> Iterator[None]:
    """Translate Google's errors into those of creating and deleting a function.

    Args:
        settings: name of the platform.
        purpose: completes "could not ..." in errors.

    Raises:
        PlatformDenied: Pub/Sub refuses the credentials.
        PlatformAway: Pub/Sub may accept the same call later.
        PlatformFailed: Pub/Sub refuses the call.
    """
    try:
        yield
    except DENIED as exc:
        raise PlatformDenied(settings.name, _WHERE, f"{_text_of(exc)}; {RIGHTS}") from exc
    except AWAY as exc:
        raise PlatformAway(settings.name, purpose, f"{_WHERE}: {_text_of(exc)}") from exc
    except exceptions.GoogleAPIError as exc:
        raise PlatformFailed(settings.name, purpose, f"{_WHERE}: {_text_of(exc)}") from exc


def _text_of(exc: BaseException) -> str:
    """Return the text of an error. A TimeoutError has none of its own."""
    return str(exc) or "no answer in time"
