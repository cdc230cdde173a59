"""From the backbone down to a site: tasks with their blobs, requests to its bridges, progress of rounds and jobs."""

import asyncio
import time
from collections.abc import Callable

from bridges.closed_rounds import ClosedRounds
from bridges.relay.blobs import Blobs
from bridges.relay.forwarder import Forwarder
from bridges.relay.side import Side
from broker import topics
from broker.deliveries import Delivery
from broker.messages import cloudevents, codec, progress
from broker.messages.cloudevents import Envelope
from broker.messages.errors import DecodeError
from broker.messages.function import Request
from broker.messages.invocation import Invocation
from broker.messages.progress import FINAL_EVENTS, RoundCompleted, RoundFailed
from broker.messages.round import RoundTask
from broker.support import loggers

log = loggers.get_logger(__name__)


class Down:
    """Forwards each kind of event that goes down. The methods implement `bridges.relay.forwarder.ForwardEvent`.

    Args:
        site: name of the site.
        forwarder: forwards from the backbone to the site.
        backbone: the broker on which tasks that expired are recorded.
        blobs: the site's models, client states and packages.
        on_round: called with a round's job and number when the round is over.
        clock: returns the time in seconds since the epoch.
        timer: returns seconds on a clock that never jumps.
    """

    def __init__(
        self,
        site: str,
        forwarder: Forwarder,
        backbone: Side,
        blobs: Blobs,
        *,
        on_round: Callable[[str, int], None],
        clock: Callable[[], float],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site = site
        self._forwarder = forwarder
        self._backbone = backbone
        self._blobs = blobs
        self._on_round = on_round
        self._clock = clock
        self._timer = timer
        self._closed_rounds = ClosedRounds()

    async def forward_task(self, delivery: Delivery, payload: bytes) -> None:
        """Forward a task after its blobs; record it as expired if its round ends first."""
        try:
            task = cloudevents.data_of(payload, RoundTask)
        except DecodeError:
            # The site's bridge sends it to the dead-letter topic.
            await self._forwarder.forward_unchanged(delivery, payload)
            return
        ends_s = self._timer() + self._left_s(task, delivery)
        if self._closed_rounds.contains(task.job, task.round) or self._timer() >= ends_s:
            await self._record_expired(
                task, delivery, "its round was over before the relay could forward it to its site"
            )
            return
        try:
            async with asyncio.timeout(ends_s - self._timer()):
                await self._blobs.bring_for_task(task)
                changed = payload if task.lasts_s is None else _with_time_left(payload, ends_s - self._timer())
                await self._forwarder.forward_changed(delivery, payload, changed)
        except TimeoutError:
            await self._record_expired(task, delivery, "its site was out of reach until the round's deadline")

    def _left_s(self, task: RoundTask, delivery: Delivery) -> float:
        """Return the seconds until the task's deadline. Without the backbone's own count, this clock must be right."""
        if task.lasts_s is None or delivery.age_s is None:
            return task.deadline_s - self._clock()
        return task.lasts_s - delivery.age_s

    async def forward_request(self, delivery: Delivery, payload: bytes) -> None:
        """Forward a request for a function after the function's package; drop it if its deadline passes first."""
        try:
            request = codec.decode(Request, payload)
        except DecodeError:
            await self._forwarder.forward_unchanged(delivery, payload)
            return
        try:
            async with asyncio.timeout(max(0.0, request.deadline_s - self._clock())):
                if request.function is not None and request.function.package is not None:
                    await self._blobs.bring(request.function.package)
                await self._forwarder.forward_unchanged(delivery, payload)
        except TimeoutError:
            log.warning("a request did not reach the site before its deadline", topic=delivery.topic)

    async def forward_progress(self, delivery: Delivery, payload: bytes) -> None:
        """Forward a progress event; after the end of a round or a job, drop the blobs that are not needed any more."""
        try:
            event = progress.decode(payload)
        except DecodeError:
            await self._forwarder.forward_unchanged(delivery, payload)
            return
        # Noted before the event is forwarded, which may take long: no task of a closed round is forwarded meanwhile.
        self._closed_rounds.note(event)
        await self._forwarder.forward_unchanged(delivery, payload)
        match event.event:
            case RoundCompleted(round=round_) | RoundFailed(round=round_):
                self._on_round(event.job, round_)
                await self._blobs.drop_before(event.job, round_)
            case end if isinstance(end, FINAL_EVENTS):
                await self._blobs.drop_job(event.job)

    async def _record_expired(self, task: RoundTask, delivery: Delivery, reason: str) -> None:
        """Publish on the backbone that a task has expired."""
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
        event_id = f"{task.id}.{task.token[:16]}.relay.expired"
        envelope = Envelope(event_id, f"/relays/{self._site}", "invocation.expired", self._clock(), task.client_id)
        topic = topics.invocation(platform, task.client_id)
        await self._backbone.publish(topic, cloudevents.encode(envelope, invocation), dedupe=event_id)


def _with_time_left(payload: bytes, lasts_s: float) -> bytes:
    """Return a task's event with the time that is left now: on the site's broker it begins to count anew."""
    # As it is, so that fields of a newer version stay.
    event = codec.decode_any(payload)
    event["data"]["lasts_s"] = lasts_s
    return codec.encode(event)
