"""Runs tasks on Google Cloud Functions (2nd gen). A message on a client's Pub/Sub topic triggers its function."""

import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import msgspec

from bridges.errors import FunctionGone, InvocationFailed, PlatformAway
from bridges.gcf import api, pubsub
from bridges.gcf.functions import Functions
from bridges.gcf.pubsub import Topics
from bridges.gcf.settings import Settings, is_emulated
from bridges.platform import Activation, BasePlatform
from bridges.secrets import SecretStore
from broker.base import Broker
from broker.messages import codec
from broker.messages.invocation import InvocationRequest
from broker.messages.round import RoundTask
from broker.support import loggers

log = loggers.get_logger(__name__)

ENVELOPE_BYTES: Final = 2048
"""Size of an event's own fields: ids and times, each of them twice, and the names of project and subscription."""


class GcfPlatform(BasePlatform[Settings, Functions]):
    """Runs tasks on the functions of one project and location. Use it as `async with opened(...) as platform`.

    Args:
        settings: settings of the bridge.
        functions: creates, deletes and lists the functions.
        topics: topics of the project.
    """

    def __init__(self, settings: Settings, functions: Functions, topics: Topics) -> None:
        super().__init__(settings, functions)
        self._topics = topics

    @property
    def run_s(self) -> float:
        """Implements `ManagedPlatform.run_s`."""
        return self.settings.run_s

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Implements `Platform.invoke`: publish a request. Only the function itself reports on the run."""
        request = codec.encode(InvocationRequest(task, attempt))
        attributes = {
            "client": task.client_id,
            "job": task.job,
            "round": str(task.round),
            "attempt": str(attempt),
        }
        size, limit = event_bytes(request, attributes), self.settings.max_bytes
        if size > limit:
            reason = f"the request makes an event of {size} bytes; the limit is {limit}: shorten the job's texts"
            raise InvocationFailed(reason, retryable=False)
        topic = self.settings.topic_name(task.client_id, task.url)
        with pubsub.invocation_errors(self.settings, topic):
            # Pub/Sub drops messages on a topic without a subscription. We check this only after a first failure.
            if attempt > 1 and await self._topics.is_unsubscribed(topic):
                raise FunctionGone(f"nothing is triggered by {topic}")
            message_id = await self._topics.publish(topic, request, attributes)
        yield Activation(message_id, "accepted")


def event_bytes(data: bytes, attributes: dict[str, str]) -> int:
    """Return an upper limit for the size of the event that delivers a message to a function.

    Args:
        data: data of the message; the event has it in base64.
        attributes: attributes of the message.
    """
    return 4 * math.ceil(len(data) / 3) + len(msgspec.json.encode(attributes)) + ENVELOPE_BYTES


@contextlib.asynccontextmanager
async def opened(settings: Settings, secrets: SecretStore, broker: Broker) -> AsyncIterator[GcfPlatform]:  # noqa: ARG001 (every platform's)
    """Implements `bridges.platform.PlatformModule.opened` for a project.

    `secrets` is not used: functions get their secrets from Google's Secret Manager.

    Raises:
        PlatformDenied: there are no credentials, or Google refuses them.
        PlatformFailed: there is no such project or location.
    """
    credentials = None if is_emulated() else await api.default_credentials(settings)
    async with pubsub.connected(settings, credentials) as topics, api.connected(settings, credentials) as calls:
        platform = GcfPlatform(settings, Functions(settings, calls, topics), topics)
        try:
            await platform.functions.check()
        except PlatformAway as exc:
            log.warning("the platform is out of reach for now", platform=settings.name, reason=exc.reason)
        yield platform
