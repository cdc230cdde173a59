"""Reads single messages of our streams: directly, or in a cluster from the stream's leader."""

import contextlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec
from nats.aio.msg import Msg

from broker.errors import Denied
from broker.families import Keep, family_of
from broker.nats import names
from broker.nats.connection import Connection
from broker.nats.errors import NoMessage
from broker.nats.link import Link
from broker.support import loggers

MSG_ID: Final = "Nats-Msg-Id"
_NOT_FOUND: Final = "404"

_log = loggers.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in a stream.

    Attributes:
        time_s: when it was stored, in seconds since the epoch on the server's clock; None: the answer does not say.
    """

    payload: bytes
    sequence: int
    message_id: str
    time_s: float | None = field(default=None, compare=False)

    @property
    def is_tombstone(self) -> bool:
        """Whether this marks a deleted value."""
        return not self.payload


class _Message(msgspec.Struct):
    seq: int
    hdrs: bytes = b""
    data: bytes = b""
    time: str = ""


class _Answer(msgspec.Struct):
    message: _Message


class StoredMessages:
    """Reads the last message of topics.

    A direct get needs no consumer, and its subject contains the topic, so permissions can be granted by topic. But any
    node that keeps the stream answers it, and not all have the last message yet (ADR-31 of NATS). The leader has it.
    Its answer comes as base64 in JSON, so payloads that never change are read directly where possible.

    Args:
        link: the link to the server.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._denied = set[str]()  # streams whose leader we may not ask

    async def last(self, topic: str) -> Stored | None:
        """Return the last message of a topic, or None if there is none.

        Raises:
            Denied: this user may not read the topic.
            Disconnected: no answer within CALL_S seconds.
        """
        is_constant = family_of(topic).keep is Keep.FIRST

        async def attempt(connection: Connection) -> Stored | None:
            if not connection.is_clustered:
                return await self._read_directly(connection, topic)
            if is_constant and (stored := await self._read_directly(connection, topic)) is not None:
                return stored
            try:
                return await self._ask_leader(connection, topic)
            except Denied:
                return await self._read_directly(connection, topic)

        return await self._link.retry_on(topic, attempt)

    async def last_sequence(self, topic_filter: str) -> int:
        """Return the sequence of the newest message under a filter, or 0 if there is none.

        Raises:
            Denied: this user may not read the topics.
            Disconnected: no answer within CALL_S seconds.
        """

        async def attempt(connection: Connection) -> Stored | None:
            if connection.is_clustered:
                with contextlib.suppress(Denied):
                    return await self._ask_leader(connection, topic_filter)
            return await self._read_directly(connection, topic_filter)

        stored = await self._link.retry_on(topic_filter, attempt)
        return 0 if stored is None else stored.sequence

    async def newest_sequence(self, topic_filter: str) -> int:
        """Return the sequence up to which a replay in a cluster must come to hold all values.

        Args:
            topic_filter: filter for the topics.

        Returns:
            0 if the replay knows it itself, if there is no value, or if this user may not ask the leader.

        Raises:
            Disconnected: no answer within CALL_S seconds.
        """

        async def attempt(connection: Connection) -> int:
            if not connection.is_clustered:
                return 0
            try:
                stored = await self._ask_leader(connection, topic_filter)
            except Denied:
                return 0
            return 0 if stored is None else stored.sequence

        return await self._link.retry_on(topic_filter, attempt)

    async def _read_directly(self, connection: Connection, topic: str) -> Stored | None:
        stream = names.stream_of(connection.address, topic)
        subject = names.api_subject(connection.address, f"DIRECT.GET.{stream}.{topic}")
        async with connection.large_answers:
            answer = await connection.request(subject, b"")
        headers = answer.headers or {}
        if headers.get("Status") == _NOT_FOUND and "Nats-Sequence" not in headers:
            return None
        sequence = int(headers["Nats-Sequence"])
        self._link.seen.note(stream, sequence)
        return Stored(answer.data, sequence, message_id_of(answer), _seconds(headers.get("Nats-Time-Stamp", "")))

    async def _ask_leader(self, connection: Connection, topic_filter: str) -> Stored | None:
        stream = names.stream_of(connection.address, topic_filter)
        if stream in self._denied:
            raise Denied(topic_filter, f"the leader of {stream} may not be asked")
        request = {"last_by_subj": topic_filter}
        try:
            async with connection.large_answers:
                answer = await connection.call_api(topic_filter, f"STREAM.MSG.GET.{stream}", request, _Answer)
        except NoMessage:
            return None
        except Denied:
            self._denied.add(stream)
            _log.info("values of this stream may be a moment old: its leader may not be asked", stream=stream)
            raise
        self._link.seen.note(stream, answer.message.seq)
        message = answer.message
        return Stored(message.data, message.seq, _header(message.hdrs, MSG_ID), _seconds(message.time))


def message_id_of(message: Msg) -> str:
    """Return the id that the publisher gave a message; empty if there is none."""
    return (message.headers or {}).get(MSG_ID, "")


def _header(lines: bytes, name: str) -> str:
    """Return a header of a stored message; empty if it is missing."""
    for line in lines.decode().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def _seconds(timestamp: str) -> float | None:
    """Return the seconds since the epoch of a timestamp of RFC 3339; None if there is none."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else None
