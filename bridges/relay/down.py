"""What comes down to a site: tasks with what they name, requests to its bridges, and the news of rounds and jobs."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from bridges.closed_rounds import ClosedRounds
from bridges.relay.blobs import Blobs
from bridges.relay.forwarder import Forwarder
from bridges.relay.side import Side
from broker import topics
from broker.base import Delivery
from broker.messages import cloudevents, codec, progress
from broker.messages.cloudevents import Envelope
from broker.messages.errors import DecodeError
from broker.messages.function import Request
from broker.messages.invocation import Invocation
from broker.messages.progress import FINAL_EVENTS, Progress, RoundCompleted, RoundFailed
from broker.messages.round import RoundTask

log = structlog.get_logger(__name__)

REQUESTS_AT_ONCE: Final = 4
NEWS_AT_ONCE: Final = 64


class Down:
    """One direction of a relay.

    Args:
        site: its name.
        carrier: from the backbone to the site.
        backbone: hears of tasks that were not put down.
        blobs: of the site.
        on_round: called when a round is over, with its job and number.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        site: str,
        carrier: Forwarder,
        backbone: Side,
        blobs: Blobs,
        *,
        on_round: Callable[[str, int], None],
        clock: Callable[[], float],
    ) -> None:
        self._site = site
        self._carrier = carrier
        self._backbone = backbone
        self._blobs = blobs
        self._on_round = on_round
        self._clock = clock
        self._closed_rounds = ClosedRounds()

    async def tasks(self, platform: str, at_once: int) -> None:
        """Put a platform's tasks down. The queue takes one durable: the relay stands in for the bridge there."""
        every = topics.platform_tasks(platform)
        await self._carrier.follow(every, f"bridge-{platform}", self._task, at_once=at_once)

    async def requests(self, platform: str) -> None:
        """Put down what a platform's bridge is asked for; the same goes for its durable."""
        every = topics.fabric(platform, topics.ANY)
        await self._carrier.follow(every, f"fabric-{platform}", self._request, at_once=REQUESTS_AT_ONCE)

    async def news(self, subject: str) -> None:
        """Tell the site of every job's rounds and ends; `subject` is `round` or `job`."""
        every, durable = topics.progress(topics.ANY, subject, topics.ANY), f"relay-{self._site}-{subject}"
        await self._carrier.follow(every, durable, self._progress, start="new", at_once=NEWS_AT_ONCE)

    async def _task(self, delivery: Delivery, payload: bytes) -> None:
        try:
            task = cloudevents.data_of(payload, RoundTask)
        except DecodeError:
            # Its bridge keeps it where a person can look at it.
            await self._carrier.as_it_is(delivery, payload)
            return
        if self._closed_rounds.contains(task.job, task.round) or self._clock() >= task.deadline_s:
            await self._expired(task, delivery, "its round was over before it could be put down to its site")
            return
        try:
            async with asyncio.timeout(task.deadline_s - self._clock()):
                await self._blobs.for_task(task)
                await self._carrier.as_it_is(delivery, payload)
        except TimeoutError:
            await self._expired(task, delivery, "its site was out of reach until the round's deadline")

    async def _expired(self, task: RoundTask, delivery: Delivery, reason: str) -> None:
        log.warning("task expired", job=task.job, round=task.round, client=task.client_id, reason=reason)
        platform = topics.parse_task(delivery.topic).platform
        invocation = Invocation(
            job=task.job,
            round=task.round,
            client=task.client_id,
            platform=platform,
            attempt=delivery.attempt,
            outcome="expired",
            reason=reason,
        )
        name = f"{task.id}.{task.token[:16]}.relay.expired"
        envelope = Envelope(name, f"/relays/{self._site}", "invocation.expired", self._clock(), task.client_id)
        topic = topics.invocation(platform, task.client_id)
        await self._backbone.publish(topic, cloudevents.encode(envelope, invocation), dedupe=name)

    async def _request(self, delivery: Delivery, payload: bytes) -> None:
        try:
            request = codec.decode(Request, payload)
        except DecodeError:
            await self._carrier.as_it_is(delivery, payload)
            return
        try:
            async with asyncio.timeout(max(0.0, request.deadline_s - self._clock())):
                if request.function is not None and request.function.package is not None:
                    await self._blobs.bring(request.function.package)
                await self._carrier.as_it_is(delivery, payload)
        except TimeoutError:
            log.warning("a request that nobody waits for any longer", topic=delivery.topic)

    async def _progress(self, delivery: Delivery, payload: bytes) -> None:
        try:
            said = progress.decode(payload)
        except DecodeError:
            await self._carrier.as_it_is(delivery, payload)
            return
        # Before the site hears it: it may be away, and its tasks with it.
        self._closed_rounds.note(said)
        await self._carrier.as_it_is(delivery, payload)
        await self._tidy(said)

    async def _tidy(self, said: Progress) -> None:
        match said.event:
            case RoundCompleted(round=round_) | RoundFailed(round=round_):
                self._on_round(said.job, round_)
                await self._blobs.round_over(said.job, round_)
            case event if isinstance(event, FINAL_EVENTS):
                await self._blobs.job_over(said.job)
