"""Google Cloud Functions (2nd gen) behind Pub/Sub: a task is published to its client's topic, which triggers it."""

import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import httpx
import msgspec
import structlog

from bridges.errors import FunctionGone, InvocationFailed, PlatformAway
from bridges.gcf import pubsub as gcf_topics
from bridges.gcf.api import Rest, credentials_of
from bridges.gcf.functions import Functions
from bridges.gcf.pubsub import Topics, invoking
from bridges.gcf.settings import Settings, is_emulated
from bridges.platform import Activation, Host
from bridges.secrets import Vault
from broker.base import Broker
from broker.messages import codec
from broker.messages.function import Change, Deployed, Function
from broker.messages.invocation import Order
from broker.messages.round import RoundTask

__all__ = ["CloudFunctions", "Settings", "event_bytes", "opened"]

log = structlog.get_logger(__name__)

ENVELOPE_BYTES: Final = 2048
"""An event's own fields: ids and times, twice each, and the names of project and subscription."""


class CloudFunctions:
    """The functions of one project and location; see `bridges.platform.Host`. Use it as `async with opened(...)`.

    Attributes:
        name: the level of the task topics.
        concurrency: tasks under way at once.
        per_minute: 0, for Pub/Sub has no such limit.
        start_s: how long after `accepted` a function must have reported that it trains.
        run_s: how long after that it must be done.
    """

    per_minute = 0

    def __init__(self, settings: Settings, topics: Topics, functions: Functions) -> None:
        self.name = settings.name
        self.concurrency = settings.concurrency
        self.start_s = settings.start_s
        self.run_s = settings.run_s
        self._settings = settings
        self._topics = topics
        self._functions = functions

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Publish an order; how the run goes, the function itself reports. See `bridges.platform.Platform`."""
        order = codec.encode(Order(task, attempt))
        attributes = {
            "client": task.client_id,
            "job": task.job,
            "round": str(task.round),
            "attempt": str(attempt),
        }
        self._check_size(order, attributes)
        topic = self._settings.topic_of(task.client_id, task.url)
        with invoking(self._settings, topic):
            # A topic without a subscription swallows messages. Asked only once something has gone wrong.
            if attempt > 1 and await self._topics.swallows(topic):
                raise FunctionGone(f"nothing is triggered by {topic}")
            message = await self._topics.publish(topic, order, attributes)
        yield Activation(message, "accepted")

    def _check_size(self, data: bytes, attributes: dict[str, str]) -> None:
        size, limit = event_bytes(data, attributes), self._settings.max_bytes
        if size > limit:
            reason = f"the order makes an event of {size} bytes, and {limit} may be delivered: shorten the job's texts"
            raise InvocationFailed(reason, retryable=False)

    async def create(self, function: Function, package: bytes | None) -> tuple[Change, Deployed]:
        """See `bridges.platform.Host`."""
        return await self._functions.create(function, package)

    async def delete(self, name: str) -> Change:
        """See `bridges.platform.Host`."""
        return await self._functions.delete(name)

    async def list(self) -> list[Deployed]:
        """See `bridges.platform.Host`."""
        return await self._functions.list()


def event_bytes(data: bytes, attributes: dict[str, str]) -> int:
    """How large the event is, at the most, that delivers a message to a function."""
    return 4 * math.ceil(len(data) / 3) + len(msgspec.json.encode(attributes)) + ENVELOPE_BYTES


@contextlib.asynccontextmanager
async def opened(settings: Settings, vault: Vault, broker: Broker) -> AsyncIterator[Host]:  # noqa: ARG001 (see Args)
    """The platform, until the end of the block.

    Args:
        settings: of the project.
        vault: not asked: functions get their secrets from Google's Secret Manager.
        broker: not used: functions reach it themselves.

    Raises:
        PlatformDenied: there are no credentials, or they are refused.
        PlatformFailed: there is no such project or location.
    """
    credentials = None if is_emulated() else await credentials_of(settings)
    async with (
        gcf_topics.opened(settings, credentials) as topics,
        httpx.AsyncClient(base_url=settings.api, timeout=settings.call_s) as http,
    ):
        functions = Functions(settings, Rest(settings, http, credentials), topics)
        try:
            await functions.check()
        except PlatformAway as exc:
            log.warning("the platform is out of reach for now", platform=settings.name, reason=exc.reason)
        yield CloudFunctions(settings, topics, functions)
