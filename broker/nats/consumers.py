"""The two kinds of JetStream consumers that we use: shared durable consumers, and private replays."""

import contextlib
import math
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from broker.base import Start
from broker.errors import BadTopic, Denied, Disconnected, StoreChanged
from broker.nats import names
from broker.nats.connection import Connection, Receive, new_id
from broker.nats.errors import ConsumerExists, NotFound, StreamMissing
from broker.nats.link import CHECKS
from broker.nats.pull import Arrival, Consumer

MAX_ACK_PENDING: Final = 65_536
MAX_WAITING: Final = 16_384
IDLE_S: Final = 60.0
"""The server deletes a replay that is not read for this long. The replay is then created again at its position."""

_NS: Final = 1_000_000_000
_DURABLE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _Delivered(msgspec.Struct):
    stream_seq: int = 0


class ConsumerInfo(msgspec.Struct):
    """JetStream's answer about a consumer.

    Attributes:
        name: name of the consumer.
        config: its configuration, as in JetStream's API.
        delivered: its position in the stream.
        num_pending: number of messages that it has not delivered yet.
    """

    name: str
    config: dict[str, Any]
    delivered: _Delivered
    num_pending: int = 0


class Durable:
    """A consumer that the server keeps, and that several subscribers may share.

    Args:
        topic_filter: filter for the topics.
        name: name of the durable.
        start: where it begins, if it is new.
        ack_wait_s: time in seconds after which an unacknowledged delivery is made again, if the consumer is new.
        on_request: called with each message that comes directly from its publisher; None if not needed.

    Raises:
        BadTopic: the name is not valid for a durable.
    """

    def __init__(
        self,
        topic_filter: str,
        name: str,
        start: Start,
        ack_wait_s: float,
        on_request: Receive | None = None,
    ) -> None:
        if not _DURABLE.fullmatch(name):
            raise BadTopic(name, "use 1 to 64 of A-Z, a-z, 0-9, '_' and '-' for a durable")
        self._filter = topic_filter
        self._name = name
        self._ack_wait_s = ack_wait_s
        self._on_request = on_request
        self._config = {
            "durable_name": name,
            "name": name,
            "filter_subject": topic_filter,
            "ack_policy": "explicit",
            "ack_wait": int(ack_wait_s * _NS),
            "max_deliver": -1,
            "max_ack_pending": MAX_ACK_PENDING,
            "max_waiting": MAX_WAITING,
            **_start_policy(start),
        }

    @contextlib.asynccontextmanager
    async def open(self, connection: Connection) -> AsyncIterator[Consumer]:
        """Implements `Source.open`."""
        try:
            ack_wait_s = await self._create(connection)
        except Denied:
            # A user without the permission to create consumers may read an existing one. If there is none, reading
            # is denied.
            ack_wait_s = self._ack_wait_s
        stream = names.stream_of(connection.address, self._filter)
        consumer = Consumer(stream, _next_subject(connection, self._filter, self._name), ack_wait_s=ack_wait_s)
        if self._on_request is None:
            yield consumer
            return
        async with connection.listen(self._filter, self._on_request):
            yield consumer

    def accept(self, _arrival: Arrival) -> bool:
        """Implements `Source.accept`: messages may come again and in any order."""
        return True

    async def _create(self, connection: Connection) -> float:
        """Create the consumer or adopt an existing one; return its `ack_wait` in seconds."""
        try:
            info = await _create(connection, self._filter, self._config, "create")
        except ConsumerExists:
            stream = names.stream_of(connection.address, self._filter)
            info = await connection.call_api(self._filter, f"CONSUMER.INFO.{stream}.{self._name}", {}, ConsumerInfo)
            if info.config["filter_subject"] != self._filter:
                config = {**info.config, "filter_subject": self._filter}
                info = await _create(connection, self._filter, config, "update")
        return float(info.config["ack_wait"]) / _NS


class Replay:
    """A private consumer that reads the log in order, without loss or repetition across reconnections.

    Args:
        topic_filter: filter for the topics.
        start: where it begins.

    Attributes:
        begin: sequence after which it begins; 0 before the first connection.
    """

    def __init__(self, topic_filter: str, start: Start = "first") -> None:
        self._filter = topic_filter
        self._start = start
        self.begin = 0
        self._last: int | None = None  # sequence after which it continues; None before the first connection
        self._consumer_sequence = 0
        self._times_behind = 0

    @contextlib.asynccontextmanager
    async def open(self, connection: Connection) -> AsyncIterator[Consumer]:
        """Implements `Source.open`."""
        await self._check_position(connection)
        name, stream = new_id(), names.stream_of(connection.address, self._filter)
        info = await self._create(connection, name)
        if self._last is None:
            # A later consumer continues here, even if the replay began with "new".
            self.begin = self._last = info.delivered.stream_seq
        self._consumer_sequence = 0
        try:
            yield Consumer(stream, _next_subject(connection, self._filter, name), info.num_pending, math.inf)
        finally:
            await _delete(connection, self._filter, name)

    def accept(self, arrival: Arrival) -> bool:
        """Implements `Source.accept`: no message may be missing."""
        self._consumer_sequence += 1
        if arrival.consumer_sequence != self._consumer_sequence:
            return False
        self._last = arrival.sequence
        return True

    async def _check_position(self, connection: Connection) -> None:
        """Check that the stream still reaches to where we were: a consumer beyond its end would hear nothing.

        The answer about a consumer of new messages names the end; it needs no permission that a replay lacks.

        Raises:
            StoreChanged: the stream is shorter than before.
            Disconnected: it looks shorter; a new leader in a cluster may still be reading its log.
        """
        if self._last is None:
            return
        name = new_id()
        end = (await self._create_at(connection, name, _start_policy("new"))).delivered.stream_seq
        await _delete(connection, self._filter, name)
        self._times_behind = self._times_behind + 1 if end < self._last else 0
        behind = f"{self._filter} was read up to message {self._last}, and the last one now is {end}"
        if self._times_behind == CHECKS:
            raise StoreChanged(connection.address.address, behind)
        if self._times_behind:
            raise Disconnected(behind)

    async def _create(self, connection: Connection, name: str) -> ConsumerInfo:
        if self._last is None:
            start = _start_policy(self._start)
        else:
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last + 1}
        return await self._create_at(connection, name, start)

    async def _create_at(self, connection: Connection, name: str, start: dict[str, Any]) -> ConsumerInfo:
        config = {
            "name": name,
            "filter_subject": self._filter,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(IDLE_S * _NS),
            **start,
        }
        return await _create(connection, self._filter, config, "create")


class _Deleted(msgspec.Struct):
    success: bool = False


def _next_subject(connection: Connection, topic_filter: str, consumer: str) -> str:
    """Return the subject on which a consumer takes pull requests."""
    stream = names.stream_of(connection.address, topic_filter)
    return names.api_subject(connection.address, f"CONSUMER.MSG.NEXT.{stream}.{consumer}")


async def _create(connection: Connection, topic_filter: str, config: dict[str, Any], action: str) -> ConsumerInfo:
    stream = names.stream_of(connection.address, topic_filter)
    request = {"stream_name": stream, "config": config, "action": action}
    # The filter in the subject lets an operator grant permissions by topic.
    subject = f"CONSUMER.CREATE.{stream}.{config['name']}.{topic_filter}"
    try:
        return await connection.call_api(topic_filter, subject, request, ConsumerInfo)
    except StreamMissing as exc:
        raise StoreChanged(connection.address.address, f"its stream {stream} is missing") from exc


async def _delete(connection: Connection, topic_filter: str, name: str) -> None:
    """Delete a consumer. If this fails, the server does it after IDLE_S."""
    stream = names.stream_of(connection.address, topic_filter)
    with contextlib.suppress(Disconnected, Denied, NotFound):
        await connection.call_api(topic_filter, f"CONSUMER.DELETE.{stream}.{name}", {}, _Deleted)


def _start_policy(start: Start) -> dict[str, Any]:
    match start:
        case "first":
            return {"deliver_policy": "all"}
        case "new":
            return {"deliver_policy": "new"}
        case _:
            return {"deliver_policy": "by_start_time", "opt_start_time": start.astimezone().isoformat()}
