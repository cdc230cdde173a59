"""What comes up from a site: updates with their optimizer state, and what its bridges tell."""

import asyncio
from typing import Final

import structlog

from bridges.relay.blobs import digest
from bridges.relay.forwarder import Forwarder
from bridges.relay.side import Side
from broker import topics
from broker.base import Deleted, Delivery, Value
from broker.errors import BadTopic, BrokerError
from broker.messages.errors import DecodeError
from broker.messages.round import BlobRef
from broker.messages.update import read_header

log = structlog.get_logger(__name__)

TOLD_AT_ONCE: Final = 64
VALUES_AT_ONCE: Final = 16


class Up:
    """The other direction of a relay.

    Args:
        carrier: from the site to the backbone.
        backbone: where all goes.
        site: where it comes from.
        group: where values are copied.
    """

    def __init__(self, carrier: Forwarder, backbone: Side, site: Side, group: asyncio.TaskGroup) -> None:
        self._carrier = carrier
        self._backbone = backbone
        self._site = site
        self._group = group
        self._latest: dict[str, Value | Deleted] = {}
        self._busy: set[str] = set()
        self._gate = asyncio.Semaphore(VALUES_AT_ONCE)

    async def updates(self, at_once: int) -> None:
        """Bring every update up; the backbone keeps the first of each topic, so none counts twice."""
        await self._carrier.follow(topics.job_updates(topics.ANY), "relay-updates", self._update, at_once=at_once)

    async def events(self, topic_filter: str, durable: str) -> None:
        """Bring up what bridges tell under a filter of topics that are kept as a log."""
        await self._carrier.follow(topic_filter, durable, self._carrier.as_it_is, at_once=TOLD_AT_ONCE)

    async def values(self, topic_filter: str) -> None:
        """Keep on the backbone what the site retains under a filter; of several changes the last one is enough."""
        async with self._site.broker.watch(topic_filter) as values:
            async for value in values:
                self._latest[value.topic] = value
                if value.topic not in self._busy:
                    self._busy.add(value.topic)
                    self._group.create_task(self._copy(value.topic), name=f"relay value {value.topic}")

    async def _update(self, delivery: Delivery, payload: bytes) -> None:
        state = state_of(delivery.topic, payload)
        if state is not None:
            # Before the update: once that counts, the next task names this state.
            await self._bring_state(state)
        await self._backbone.publish(delivery.topic, payload)
        # Its state stays: the client's next task starts from there.
        await self._site.delete(delivery.topic)

    async def _bring_state(self, state: BlobRef) -> None:
        content = await self._site.get(state.topic)
        if content is None or await digest(content) != state.sha256:
            log.warning("an update names a state that is not there", topic=state.topic)
            return
        await self._backbone.put(state.topic, content)

    async def _copy(self, topic: str) -> None:
        try:
            while (value := self._latest.pop(topic, None)) is not None:
                async with self._gate:
                    await self._copy_once(value)
        finally:
            self._busy.discard(topic)

    async def _copy_once(self, value: Value | Deleted) -> None:
        try:
            if isinstance(value, Deleted):
                await self._backbone.delete(value.topic)
            else:
                await self._backbone.put(value.topic, value.payload)
        except BrokerError as exc:
            # The next change may do better, and a relay that starts anew copies them all.
            log.warning("a value can't be copied to the backbone", topic=value.topic, error=str(exc))


def state_of(topic: str, update: bytes) -> BlobRef | None:
    """The optimizer state that came with an update, if it lies where that client's state of that round belongs.

    Updates come from clients: another topic that one names is none of theirs to have copied.
    """
    try:
        header = read_header(update)
        update_at = topics.update(header.job, header.round, header.client, header.attempt)
        state_at = topics.optimizer_state(header.job, header.client, header.round, header.attempt)
    except (DecodeError, BadTopic):
        # The server says what is wrong with it.
        return None
    state = header.state
    return state if state is not None and (topic, state.topic) == (update_at, state_at) else None
