"""The two kinds of JetStream consumers that we read: durable ones that others share, and replays of our own."""

import contextlib
import math
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from broker.base import Start
from broker.errors import BadTopic, Denied, Disconnected
from broker.nats import names
from broker.nats.connection import Connection, Receive, new_id
from broker.nats.errors import ConsumerExists, NotFound
from broker.nats.pull import Arrival, Consumer

MAX_ACK_PENDING: Final = 65_536
MAX_WAITING: Final = 16_384
IDLE_S: Final = 60.0
"""The server forgets a replay that nobody reads for so long; it is made anew where it ended."""

_NS: Final = 1_000_000_000
_DURABLE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _Delivered(msgspec.Struct):
    stream_seq: int = 0


class ConsumerInfo(msgspec.Struct):
    """JetStream's answer about a consumer."""

    name: str
    config: dict[str, Any]
    delivered: _Delivered
    num_pending: int = 0


class Durable:
    """A consumer that the server remembers, and that others may read too.

    Args:
        topic_filter: what it reads.
        name: what it is called.
        start: where it begins, if it is new.
        ack_wait_s: when an unacknowledged delivery is made again, if it is new.
        overhear: called with every message as its publisher sent it, while the consumer is read.
    """

    def __init__(
        self,
        topic_filter: str,
        name: str,
        start: Start,
        ack_wait_s: float,
        overhear: Receive | None = None,
    ) -> None:
        if not _DURABLE.fullmatch(name):
            raise BadTopic(name, "use 1 to 64 of A-Z, a-z, 0-9, '_' and '-' for a durable")
        self._filter = topic_filter
        self._name = name
        self._ack_wait_s = ack_wait_s
        self._overhear = overhear
        self._config = {
            "durable_name": name,
            "name": name,
            "filter_subject": topic_filter,
            "ack_policy": "explicit",
            "ack_wait": int(ack_wait_s * _NS),
            "max_deliver": -1,
            "max_ack_pending": MAX_ACK_PENDING,
            "max_waiting": MAX_WAITING,
            **_deliver_from(start),
        }

    @contextlib.asynccontextmanager
    async def opened(self, connection: Connection) -> AsyncIterator[Consumer]:
        """See Source."""
        ack_wait_s = await self._ensured(connection)
        consumer = Consumer(_next_subject(connection, self._filter, self._name), ack_wait_s=ack_wait_s)
        if self._overhear is None:
            yield consumer
            return
        async with connection.listening(self._filter, self._overhear):
            yield consumer

    def accept(self, _arrival: Arrival) -> bool:
        """Anything may come, again and in any order."""
        return True

    async def _ensured(self, connection: Connection) -> float:
        try:
            return await self._created(connection)
        except Denied:
            # Whoever may not create consumers may read one that was made for it; if there is none, we are denied.
            return self._ack_wait_s

    async def _created(self, connection: Connection) -> float:
        try:
            info = await _create(connection, self._filter, self._config, "create")
        except ConsumerExists:
            stream = names.stream_of(connection.address, self._filter)
            info = await connection.api(self._filter, f"CONSUMER.INFO.{stream}.{self._name}", {}, ConsumerInfo)
            if info.config["filter_subject"] != self._filter:
                moved = {**info.config, "filter_subject": self._filter}
                info = await _create(connection, self._filter, moved, "update")
        return float(info.config["ack_wait"]) / _NS


class Replay:
    """A consumer of our own that reads the log in order, without loss or repetition over any number of connections."""

    def __init__(self, topic_filter: str, start: Start = "first") -> None:
        self._filter = topic_filter
        self._start = start
        self._last: int | None = None  # the sequence number before the next one that we want
        self._consumer_sequence = 0

    @contextlib.asynccontextmanager
    async def opened(self, connection: Connection) -> AsyncIterator[Consumer]:
        """See Source."""
        name = new_id()
        info = await self._created(connection, name)
        if self._last is None:
            # From now on it does not matter what "new" means.
            self._last = info.delivered.stream_seq
        self._consumer_sequence = 0
        try:
            yield Consumer(_next_subject(connection, self._filter, name), info.num_pending, math.inf)
        finally:
            # Else the server forgets it by itself a little later.
            stream = names.stream_of(connection.address, self._filter)
            with contextlib.suppress(Disconnected, Denied, NotFound):
                await connection.api(self._filter, f"CONSUMER.DELETE.{stream}.{name}", {}, _Deleted)

    def accept(self, arrival: Arrival) -> bool:
        """Nothing may be missing."""
        self._consumer_sequence += 1
        if arrival.consumer_sequence != self._consumer_sequence:
            return False
        self._last = arrival.sequence
        return True

    async def _created(self, connection: Connection, name: str) -> ConsumerInfo:
        config = {
            "name": name,
            "filter_subject": self._filter,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(IDLE_S * _NS),
            **(_deliver_from(self._start) if self._last is None else _deliver_after(self._last)),
        }
        return await _create(connection, self._filter, config, "create")


class _Deleted(msgspec.Struct):
    success: bool = False


def _next_subject(connection: Connection, topic_filter: str, consumer: str) -> str:
    """Where a consumer is asked for messages."""
    stream = names.stream_of(connection.address, topic_filter)
    return names.api_subject(connection.address, f"CONSUMER.MSG.NEXT.{stream}.{consumer}")


async def _create(connection: Connection, topic_filter: str, config: dict[str, Any], action: str) -> ConsumerInfo:
    stream = names.stream_of(connection.address, topic_filter)
    request = {"stream_name": stream, "config": config, "action": action}
    # With the filter in the subject, what one may read can be granted.
    subject = f"CONSUMER.CREATE.{stream}.{config['name']}.{topic_filter}"
    return await connection.api(topic_filter, subject, request, ConsumerInfo)


def _deliver_from(start: Start) -> dict[str, Any]:
    match start:
        case "first":
            return {"deliver_policy": "all"}
        case "new":
            return {"deliver_policy": "new"}
        case _:
            return {"deliver_policy": "by_start_time", "opt_start_time": start.astimezone().isoformat()}


def _deliver_after(sequence: int) -> dict[str, Any]:
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": sequence + 1}
