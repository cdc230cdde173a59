"""Calls functions of others for the events that their annotation `topic` asks for.

What OpenFaaS's own connectors do, with what they lack: wildcards, acknowledgement after the function is done, retries,
and a map that outlives its gateway's absence.
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
import structlog

from bridges import annotations
from bridges.errors import InvocationFailed, NotStarted, PlatformDenied, PlatformFailed
from bridges.in_flight import InFlight
from broker import families, topics
from broker.base import Broker, Delivery
from broker.errors import UNREADABLE, BadTopic, CorruptPayload, Denied, Unsupported
from broker.families import Keep
from broker.messages.errors import DecodeError
from broker.messages.function import Deployed
from broker.support import backoff, filters
from broker.support.tasks import task_group

log = structlog.get_logger(__name__)

MAX_ATTEMPTS: Final = 5
"""An event that a function failed on so often is passed over."""

Call = Callable[[str, bytes, dict[str, str]], Awaitable[None]]
"""A function's name, body and headers; raises InvocationFailed."""

_Feed = tuple[str, str]
"""A function and a topic."""


@dataclass
class Connector:
    """A platform's map of which function wants which topic, and what follows from it.

    Attributes:
        broker: where events come from.
        platform: its name.
        functions: lists those that there are.
        call: calls one, and returns when it is done.
        rebuild_s: how often the map is made anew.
        retry_first_s: the longest delay after a first failure; it doubles with each further one.
        retry_most_s: no delay is longer.
        rng: for the jitter.
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
    _current: bool = True
    _ignored: set[tuple[str, str]] = field(default_factory=set)
    _in_flight: InFlight = field(default_factory=InFlight)

    def serving(self, topic: str) -> str | None:
        """The function of somebody else's that asked for a client's tasks."""
        found = annotations.function_for(topic, self._known)
        return None if found is None else found.url

    async def rebuild(self) -> None:
        """Make the map anew; if that can't be done the last good one stays."""
        try:
            self._known = await self.functions()
        except (PlatformFailed, PlatformDenied) as exc:
            if self._current:
                log.warning("the functions can't be listed; going by the last list", error=str(exc))
            self._current = False
        else:
            self._current = True

    async def serve(self) -> None:
        """Keep the map and hand events over, until cancelled."""
        feeds: dict[_Feed, asyncio.Task[None]] = {}
        async with task_group() as group:
            group.create_task(self._in_flight.heartbeat(), name=f"connector-{self.platform}.heartbeat")
            while True:
                await self.rebuild()
                wanted = {(each.url, topic) for each in self._known for topic in each.topics}
                self._follow({feed for feed in wanted if self._is_event(*feed)}, feeds, group)
                await asyncio.sleep(self.rebuild_s)

    def _follow(self, wanted: set[_Feed], feeds: dict[_Feed, asyncio.Task[None]], group: asyncio.TaskGroup) -> None:
        for gone in feeds.keys() - wanted:
            feeds.pop(gone).cancel()
        for new in wanted - feeds.keys():
            feeds[new] = group.create_task(self._feed(*new), name=f"connector {new[1]} to {new[0]}")

    def _is_event(self, function: str, topic: str) -> bool:
        """Whether a topic may be handed on: tasks are the bridge's own work, and what lies in a queue is for one."""
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

    async def _feed(self, function: str, topic: str) -> None:
        digest = hashlib.sha256(f"{function} {topic}".encode()).hexdigest()[:12]
        durable = f"connector-{self.platform}-{digest}"
        try:
            async with self.broker.subscribe(topic, durable=durable, start="new", prefetch=1) as deliveries:
                async for delivery in deliveries:
                    name = f"{durable}.{delivery.sequence}"
                    with self._in_flight.track(name, delivery):
                        await self._hand_over(function, delivery, name)
        except (BadTopic, Denied, Unsupported) as exc:
            # Somebody's annotation is no reason to end the bridge.
            self._ignore(function, topic, str(exc))

    async def _hand_over(self, function: str, delivery: Delivery, call_id: str) -> None:
        try:
            payload = await delivery.read()
            await self._started(function, payload, _headers(delivery.topic, payload, call_id))
        except (DecodeError, CorruptPayload) as exc:
            log.warning("an event is passed over", function=function, topic=delivery.topic, reason=str(exc))
        except InvocationFailed as exc:
            if exc.retryable and delivery.attempt < MAX_ATTEMPTS:
                await delivery.nak(self._delay_s(delivery.attempt))
                return
            about = {"function": function, "topic": delivery.topic, "attempts": delivery.attempt}
            log.warning("an event is passed over", reason=exc.reason, **about)
        await delivery.ack()

    async def _started(self, function: str, payload: bytes, headers: dict[str, str]) -> None:
        """Call until it has at least begun: an event waits for a platform that is away, or has no room."""
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


def _headers(topic: str, payload: bytes, call_id: str) -> dict[str, str]:
    """What goes with an event; its call's id is the same however often it is handed over."""
    kind = "application/json" if _is_json(payload) else "application/octet-stream"
    # A publisher may have named a topic in characters that a header can't have.
    return {"X-Topic": quote(topic), "X-Connector": "fedkeeper", "X-Call-Id": call_id, "Content-Type": kind}


def _is_json(payload: bytes) -> bool:
    try:
        msgspec.json.decode(payload)
    except UNREADABLE:
        return False
    return True
