"""A relay: what it forwards, in which direction. Each topic is forwarded in one direction only, so nothing loops.

Persist, then publish, then acknowledge: an event is acknowledged to its source broker only after the target broker has
it. If a relay dies in between, the next relay forwards the event again, and the target drops the copy.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bridges.in_flight import HEARTBEAT_S
from bridges.relay.blobs import Blobs
from bridges.relay.down import Down
from bridges.relay.forwarder import Forwarder
from bridges.relay.settings import Settings
from bridges.relay.side import Side
from bridges.relay.up import Up
from broker import topics
from broker.base import Broker
from broker.support import loggers
from broker.support.tasks import task_group

log = loggers.get_logger(__name__)

REQUESTS_AT_ONCE: Final = 4
"""How many requests for functions, with their packages, may be on their way down at once."""

SMALL_EVENTS_AT_ONCE: Final = 64
"""How many of the other events may be on their way at once, per topic filter."""


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """The payload bytes that crossed the link to the backbone.

    Attributes:
        down: from the backbone to the site.
        up: from the site to the backbone.
    """

    down: int
    up: int


class Relay:
    """Joins a site's broker to the backbone while `run` runs.

    Args:
        settings: the relay's settings. The connections to both brokers are open already.
        backbone: the connection to the FL server's broker.
        site: the connection to the site's own broker.
        heartbeat_s: seconds between two extensions of the ack deadline of an event that is on its way.
        clock: returns the time in seconds since the epoch.
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
        self._logged = LinkBytes(0, 0)

    @property
    def link_bytes(self) -> LinkBytes:
        """The payload bytes that have crossed the link so far."""
        return LinkBytes(self._backbone.received, self._backbone.sent)

    async def run(self) -> None:
        """Relay until cancelled. While a broker is out of reach, events wait.

        Raises:
            Disconnected: a broker was out of reach when the relay began to listen to it.
            Denied: a broker does not let the relay listen to a topic.
        """
        async with task_group() as group:
            self._start_downward(group)
            self._start_upward(group)

    def _start_downward(self, group: asyncio.TaskGroup) -> None:
        """Start to forward from the backbone to the site: progress, tasks, requests for functions."""
        site, settings = self._settings.name, self._settings
        forwarder = Forwarder(self._backbone, self._site, group, self._heartbeat_s)
        blobs = Blobs(self._backbone, self._site)
        down = Down(site, forwarder, self._backbone, blobs, on_round=self._log_link_bytes, clock=self._clock)
        group.create_task(forwarder.heartbeat(), name=f"relay-{site}.down.heartbeat")
        # Progress before tasks: the task of a round that is over is not forwarded.
        for subject in ("job", "round"):
            events, durable = topics.progress(topics.ANY, subject, topics.ANY), f"relay-{site}-{subject}"
            forwarder.start(events, durable, down.forward_progress, start="new", at_once=SMALL_EVENTS_AT_ONCE)
        for platform in settings.platforms:
            # A queue has one durable. The relay uses the one that the platform's bridge would use on the backbone.
            tasks, requests = topics.platform_tasks(platform), topics.fabric(platform, topics.ANY)
            forwarder.start(tasks, f"bridge-{platform}", down.forward_task, at_once=settings.tasks_at_once)
            forwarder.start(requests, f"fabric-{platform}", down.forward_request, at_once=REQUESTS_AT_ONCE)

    def _start_upward(self, group: asyncio.TaskGroup) -> None:
        """Start to forward from the site to the backbone: updates, other events, retained values."""
        site, settings = self._settings.name, self._settings
        forwarder = Forwarder(self._site, self._backbone, group, self._heartbeat_s)
        up = Up(self._backbone, self._site, group)
        group.create_task(forwarder.heartbeat(), name=f"relay-{site}.up.heartbeat")
        updates = topics.job_updates(topics.ANY)
        forwarder.start(updates, "relay-updates", up.forward_update, at_once=settings.updates_at_once)
        events = {"relay-replies": topics.reply(topics.ANY)}
        for platform in settings.platforms:
            events[f"relay-invocations-{platform}"] = topics.invocation(platform, topics.ANY)
            events[f"relay-dead-{platform}"] = topics.dead(platform, topics.ANY)
        for durable, topic_filter in events.items():
            forwarder.start(topic_filter, durable, forwarder.forward_unchanged, at_once=SMALL_EVENTS_AT_ONCE)
        for platform in settings.platforms:
            for topic in (topics.presence, topics.client_stats, topics.report, topics.function):
                topic_filter = topic(platform, topics.ANY)
                group.create_task(up.copy_values(topic_filter), name=f"relay-{site}.up.{topic_filter}")

    def _log_link_bytes(self, job: str, round_: int) -> None:
        """Log the payload bytes that crossed the link since the last round that ended."""
        before, self._logged = self._logged, self.link_bytes
        down, up = self._logged.down - before.down, self._logged.up - before.up
        log.info("crossed the link", job=job, round=round_, site=self._settings.name, bytes_down=down, bytes_up=up)
