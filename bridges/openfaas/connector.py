"""Calls functions that FedKeeper did not deploy, for the events that their annotation `topic` asks for.

It does the work of OpenFaaS's own connectors. In addition it has wildcards, acknowledges an event only after the
function is done, retries, and keeps its list of functions while the gateway is not reachable.
"""

import asyncio
import contextlib
import hashlib
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import msgspec

from bridges import annotations
from bridges.errors import InvocationFailed, NotStarted, PlatformDenied, PlatformFailed
from bridges.in_flight import InFlight
from broker import families, topics
from broker.base import Broker
from broker.deliveries import Delivery
from broker.errors import BadTopic, CorruptPayload, Denied, Unsupported
from broker.families import Keep
from broker.messages.errors import DecodeError
from broker.messages.function import Deployed
from broker.support import backoff, filters, loggers
from broker.support.decoding import UNREADABLE
from broker.support.tasks import task_group

log = loggers.get_logger(__name__)

MAX_ATTEMPTS: Final = 5
"""An event is skipped after a function failed on it this often."""

Call = Callable[[str, bytes, dict[str, str]], Awaitable[object]]
"""Takes a function's name, the body and the headers of a call; raises InvocationFailed. The result is not used."""

_Feed = tuple[str, str]
"""A function and a topic that it wants."""


@dataclass
class Connector:
    """Forwards events to the functions that ask for them.

    Attributes:
        broker: source of the events.
        platform: name of the platform.
        functions: lists the functions of the platform.
        call: calls one function, and returns when the function is done.
        rebuild_s: interval between two lists of the functions, in seconds.
        retry_first_s: upper limit of the delay after the first failure, in seconds; it doubles with each failure.
        retry_most_s: upper limit of every delay, in seconds.
        rng: source of the jitter.
    """

    broker: Broker
    platform: str
    functions: Callable[[], Awaitable[list[Deployed]]]
    call: Call
    rebuild_s: float = 10.0
    retry_first_s: float = 1.0
    retry_most_s: float = 30.0
    rng: random.Random = field(default_factory=random.Random)
    _known: list[Deployed] = field(default_factory=list)
    _is_current: bool = True
    _ignored: set[_Feed] = field(default_factory=set)
    _in_flight: InFlight = field(default_factory=InFlight)

    def serving(self, topic: str) -> str | None:
        """Return the function that asks for the tasks on a topic; None if no function does."""
        function = annotations.function_for(topic, self._known)
        return None if function is None else function.url

    async def serve(self) -> None:
        """Keep the list of functions current and forward events, until cancelled."""
        feeds: dict[_Feed, asyncio.Task[None]] = {}
        async with task_group() as group:
            group.create_task(self._in_flight.heartbeat(), name=f"connector-{self.platform}.heartbeat")
            while True:
                await self.rebuild()
                requested = {
                    (function.url, topic)
                    for function in self._known
                    for topic in function.topics
                    if self._is_event(function.url, topic)
                }
                for feed in feeds.keys() - requested:
                    feeds.pop(feed).cancel()
                for feed in requested - feeds.keys():
                    feeds[feed] = group.create_task(self._forward(*feed), name=f"connector {feed[1]} to {feed[0]}")
                await asyncio.sleep(self.rebuild_s)

    async def rebuild(self) -> None:
        """List the functions again. If the platform fails, keep the last list."""
        try:
            self._known = await self.functions()
        except (PlatformFailed, PlatformDenied) as exc:
            if self._is_current:
                log.warning("the functions can't be listed; going by the last list", error=str(exc))
            self._is_current = False
        else:
            self._is_current = True

    def _is_event(self, function: str, topic: str) -> bool:
        # The bridge itself runs the tasks. A message in a queue is meant for one consumer only.
        if filters.matches(topics.ALL_TASKS, topic):
            return False
        with contextlib.suppress(BadTopic):
            if annotations.is_filter(topic) and families.family_of(topic).keep is not Keep.QUEUE:
                return True
        self._ignore(function, topic, "no event has such a topic")
        return False

    def _ignore(self, function: str, topic: str, reason: str) -> None:
        if (function, topic) not in self._ignored:
            self._ignored.add((function, topic))
            log.warning("an annotation is ignored", function=function, topic=topic, reason=reason)

    async def _forward(self, function: str, topic: str) -> None:
        """Subscribe to a topic and give each of its events to a function, until cancelled."""
        digest = hashlib.sha256(f"{function} {topic}".encode()).hexdigest()[:12]
        durable = f"connector-{self.platform}-{digest}"
        try:
            async with self.broker.subscribe(topic, durable=durable, start="new", prefetch=1) as deliveries:
                async for delivery in deliveries:
                    call_id = f"{durable}.{delivery.sequence}"
                    async with self._in_flight.track(call_id, delivery):
                        await self._deliver(function, delivery, call_id)
        except (BadTopic, Denied, Unsupported) as exc:
            # The annotation belongs to another user. It must not stop the bridge.
            self._ignore(function, topic, str(exc))

    async def _deliver(self, function: str, delivery: Delivery, call_id: str) -> None:
        try:
            payload = await delivery.read()
            await self._call_until_started(function, delivery.topic, payload, call_id)
        except (DecodeError, CorruptPayload) as exc:
            log.warning("an event is passed over", function=function, topic=delivery.topic, reason=str(exc))
        except InvocationFailed as exc:
            if exc.retryable and delivery.attempt < MAX_ATTEMPTS:
                await delivery.nak(self._delay_s(delivery.attempt))
                return
            context = {"function": function, "topic": delivery.topic, "attempts": delivery.attempt}
            log.warning("an event is passed over", reason=exc.reason, **context)
        await delivery.ack()

    async def _call_until_started(self, function: str, topic: str, payload: bytes, call_id: str) -> None:
        """Call a function, and repeat the call with the same id while the platform is away or has no room for it."""
        try:
            msgspec.json.decode(payload)
            content_type = "application/json"
        except UNREADABLE:
            content_type = "application/octet-stream"
        # A topic may have characters that are not allowed in a header.
        headers = {"X-Topic": quote(topic), "X-Connector": "fedkeeper", "X-Call-Id": call_id}
        headers["Content-Type"] = content_type
        for tries in itertools.count(1):
            try:
                await self.call(function, payload, headers)
            except NotStarted as exc:
                log.info("an event waits", function=function, reason=exc.reason, tries=tries)
            else:
                return
            await asyncio.sleep(self._delay_s(tries))

    def _delay_s(self, failures: int) -> float:
        return backoff.delay_s(failures - 1, self.rng.uniform, first_s=self.retry_first_s, most_s=self.retry_most_s)
