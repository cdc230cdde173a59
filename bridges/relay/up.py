"""From a site up to the backbone: updates with their client states, and the retained values of its bridges."""

import asyncio
from typing import Final

from bridges.relay.blobs import digest
from bridges.relay.side import Side
from broker import topics
from broker.deliveries import Deleted, Delivery, Value
from broker.errors import BadTopic, BrokerError
from broker.messages.errors import DecodeError
from broker.messages.round import BlobRef
from broker.messages.update import own_states, read_header
from broker.support import loggers

log = loggers.get_logger(__name__)

VALUES_AT_ONCE: Final = 16
"""How many retained values are copied at the same time."""


class Up:
    """Forwards updates, and copies retained values.

    Args:
        backbone: the broker that everything goes to.
        site: the broker that everything comes from.
        group: runs the copying of values.
    """

    def __init__(self, backbone: Side, site: Side, group: asyncio.TaskGroup) -> None:
        self._backbone = backbone
        self._site = site
        self._group = group
        self._latest: dict[str, Value | Deleted] = {}
        self._busy: set[str] = set()
        self._semaphore = asyncio.Semaphore(VALUES_AT_ONCE)

    async def forward_update(self, delivery: Delivery, payload: bytes) -> None:
        """Forward an update after its client states. The backbone keeps the first update of each topic.

        Implements `bridges.relay.forwarder.ForwardEvent`.
        """
        for state in states_of(delivery.topic, payload):
            # States first: as soon as the server counts the update, the client's next task names them.
            content = await self._site.get(state.topic)
            if content is None or await digest(content) != state.sha256:
                log.warning("the site does not have the state that an update names", topic=state.topic)
            else:
                await self._backbone.put(state.topic, content)
        await self._backbone.publish(delivery.topic, payload)
        # The states stay at the site: the client's next task starts from them.
        await self._site.delete(delivery.topic)

    async def copy_values(self, topic_filter: str) -> None:
        """Copy the values that the site retains under a filter until cancelled. Each value's last change is enough."""
        async with self._site.broker.watch(topic_filter) as values:
            async for value in values:
                self._latest[value.topic] = value
                if value.topic not in self._busy:
                    self._busy.add(value.topic)
                    self._group.create_task(self._copy_latest(value.topic), name=f"relay value {value.topic}")

    async def _copy_latest(self, topic: str) -> None:
        """Copy the latest value of a topic until no newer one has come."""
        try:
            while (value := self._latest.pop(topic, None)) is not None:
                async with self._semaphore:
                    try:
                        if isinstance(value, Deleted):
                            await self._backbone.delete(topic)
                        else:
                            await self._backbone.put(topic, value.payload)
                    except BrokerError as exc:
                        # The next change may succeed, and a relay copies all values again when it starts.
                        log.warning("a value can't be copied to the backbone", topic=topic, error=str(exc))
        finally:
            self._busy.discard(topic)


def states_of(topic: str, update: bytes) -> tuple[BlobRef, ...]:
    """The client states that an update names, if they are its own; none if the update is invalid.

    A client writes its updates: the relay must not copy whatever topic an update names.

    Args:
        topic: the topic that the update was published to.
        update: the update, as safetensors bytes.
    """
    try:
        header = read_header(update)
        update_topic = topics.update(header.job, header.round, header.client, header.attempt)
    except (DecodeError, BadTopic):
        # The server refuses the update, and says why.
        return ()
    return tuple(own_states(header).values()) if topic == update_topic else ()
