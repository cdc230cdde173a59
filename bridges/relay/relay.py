"""A relay at work: what flows in which direction. A topic flows in one direction only, so nothing comes back.

Persist, then publish, then acknowledge: an event is acknowledged to the broker that it came from only after the other
one has it. A relay that dies in between leaves it to the next one, and the copy that this may make is recognised.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from bridges.in_flight import HEARTBEAT_S
from bridges.relay.blobs import Blobs
from bridges.relay.down import Down
from bridges.relay.forwarder import Forwarder
from bridges.relay.settings import Settings
from bridges.relay.side import Side
from bridges.relay.up import Up
from broker import topics
from broker.base import Broker
from broker.support.tasks import task_group

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Crossed:
    """Bytes of the payloads that went over the link to the backbone."""

    down: int
    up: int


class Relay:
    """Joins a site's broker to the backbone, as long as `run` runs.

    Args:
        settings: see there; the connections are made already.
        backbone: the broker of the FL server.
        site: the site's own broker.
        heartbeat_s: how often each broker is told that events are still on their way.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        backbone: Broker,
        site: Broker,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._backbone = Side("backbone", backbone, settings.name, clock)
        self._site = Side("site", site, settings.name, clock)
        self._told = Crossed(0, 0)

    @property
    def crossed(self) -> Crossed:
        """What crossed the link so far."""
        return Crossed(self._backbone.received, self._backbone.sent)

    async def run(self) -> None:
        """Relay until cancelled; events wait while one of the brokers is out of reach.

        Raises:
            Disconnected: a broker was out of reach when the relay began to listen to it.
            Denied: we may not listen to something.
        """
        async with task_group() as group:
            for name, work in self._work(group):
                group.create_task(work, name=f"relay-{self._settings.name}.{name}")

    def _work(self, group: asyncio.TaskGroup) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        backbone, site, platforms = self._backbone, self._site, self._settings.platforms
        downward = Forwarder(backbone, site, group, self._heartbeat_s)
        upward = Forwarder(site, backbone, group, self._heartbeat_s)
        blobs, name = Blobs(backbone, site), self._settings.name
        down = Down(name, downward, backbone, blobs, on_round=self._tell, clock=self._clock)
        up = Up(upward, backbone, site, group)
        yield "down.heartbeat", downward.beat()
        yield "up.heartbeat", upward.beat()
        # News first: tasks of rounds that are over need not be put down.
        for subject in ("job", "round"):
            yield f"down.{subject}", down.news(subject)
        for platform in platforms:
            yield f"down.tasks.{platform}", down.tasks(platform, self._settings.tasks_at_once)
            yield f"down.requests.{platform}", down.requests(platform)
        yield "up.updates", up.updates(self._settings.updates_at_once)
        for durable, topic_filter in _logs(platforms):
            yield f"up.{durable}", up.events(topic_filter, durable)
        for topic_filter in _values(platforms):
            yield f"up.{topic_filter}", up.values(topic_filter)

    def _tell(self, job: str, round_: int) -> None:
        before, self._told = self._told, self.crossed
        down, up = self._told.down - before.down, self._told.up - before.up
        log.info("crossed the link", job=job, round=round_, site=self._settings.name, bytes_down=down, bytes_up=up)


def _logs(platforms: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What comes up as events beside updates: a durable's name at the site, and a filter."""
    yield "relay-replies", topics.reply(topics.ANY)
    for platform in platforms:
        yield f"relay-invocations-{platform}", topics.invocation(platform, topics.ANY)
        yield f"relay-dead-{platform}", topics.dead(platform, topics.ANY)


def _values(platforms: tuple[str, ...]) -> Iterator[str]:
    """Filters of what comes up as retained values."""
    for platform in platforms:
        yield topics.presence(platform, topics.ANY)
        yield topics.client_stats(platform, topics.ANY)
        yield topics.report(platform, topics.ANY)
        yield topics.function(platform, topics.ANY)
