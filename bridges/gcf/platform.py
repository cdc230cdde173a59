"""Google Cloud Functions (2nd gen) behind Pub/Sub: a task is published to its client's topic, which triggers it."""

import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import msgspec
import structlog

from bridges.errors import FunctionGone, InvocationFailed, PlatformAway
from bridges.gcf import pubsub
from bridges.gcf.api import connected, credentials_of
from bridges.gcf.functions import Functions
from bridges.gcf.pubsub import Topics, invoking
from bridges.gcf.settings import Settings, is_emulated
from bridges.platform import Activation, BasePlatform
from bridges.secrets import SecretStore
from broker.base import Broker
from broker.messages import codec
from broker.messages.invocation import InvocationRequest
from broker.messages.round import RoundTask

log = structlog.get_logger(__name__)

ENVELOPE_BYTES: Final = 2048
"""An event's own fields: ids and times, twice each, and the names of project and subscription."""


class GcfPlatform(BasePlatform[Settings, Functions]):
    """The functions of one project and location. Use it as `async with opened(...) as platform`.

    Args:
        settings: of the bridge.
        functions: creates, deletes and lists them.
        topics: of the project.
    """

    def __init__(self, settings: Settings, functions: Functions, topics: Topics) -> None:
        super().__init__(settings, functions)
        self._topics = topics

    @property
    def run_s(self) -> float:
        """See `bridges.platform.ManagedPlatform`."""
        return self.settings.run_s

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Publish a request; how the run goes, the function itself reports. See `bridges.platform.Platform`."""
        request = codec.encode(InvocationRequest(task, attempt))
        attributes = {
            "client": task.client_id,
            "job": task.job,
            "round": str(task.round),
            "attempt": str(attempt),
        }
        self._check_size(request, attributes)
        topic = self.settings.topic_of(task.client_id, task.url)
        with invoking(self.settings, topic):
            # A topic without a subscription swallows messages. Asked only once something has gone wrong.
            if attempt > 1 and await self._topics.swallows(topic):
                raise FunctionGone(f"nothing is triggered by {topic}")
            message = await self._topics.publish(topic, request, attributes)
        yield Activation(message, "accepted")

    def _check_size(self, data: bytes, attributes: dict[str, str]) -> None:
        size, limit = event_bytes(data, attributes), self.settings.max_bytes
        if size > limit:
            reason = f"the order makes an event of {size} bytes, and {limit} may be delivered: shorten the job's texts"
            raise InvocationFailed(reason, retryable=False)


def event_bytes(data: bytes, attributes: dict[str, str]) -> int:
    """How large the event is, at the most, that delivers a message to a function."""
    return 4 * math.ceil(len(data) / 3) + len(msgspec.json.encode(attributes)) + ENVELOPE_BYTES


@contextlib.asynccontextmanager
async def opened(settings: Settings, vault: SecretStore, broker: Broker) -> AsyncIterator[GcfPlatform]:  # noqa: ARG001 (every platform's)
    """The functions of a project; see `bridges.platform.PlatformModule`.

    The vault is not asked: functions get their secrets from Google's Secret Manager.

    Raises:
        PlatformDenied: there are no credentials, or they are refused.
        PlatformFailed: there is no such project or location.
    """
    credentials = None if is_emulated() else await credentials_of(settings)
    async with pubsub.opened(settings, credentials) as topics, connected(settings, credentials) as api:
        platform = GcfPlatform(settings, Functions(settings, api, topics), topics)
        try:
            await platform.functions.check()
        except PlatformAway as exc:
            log.warning("the platform is out of reach for now", platform=settings.name, reason=exc.reason)
        yield platform
