"""Room in reserve: a stream of filler, of which parts are deleted when a record or an event finds no room.

JetStream's reservations (`max_bytes`) are checked when a stream is created. A write is refused by what all streams
really use (seen on nats-server 2.15), so weights could take the room that a stream of records has reserved. It is
refused only if the limit is passed already, whatever its own size: what a deleted part leaves would let weights in.
So a mark after the filler says that the reserve is in use, and who writes weights looks at it first.
"""

import asyncio
import math
from typing import Any, Final

import msgspec

from broker import topics
from broker.errors import BrokerError, Denied, StorageFull
from broker.families import RESERVE_BYTES
from broker.nats import names
from broker.nats.connection import Connection
from broker.nats.errors import NotFound, decode
from broker.nats.link import Link
from broker.support import loggers

PART_BYTES: Final = 256 << 10
"""Size of a message of filler: so much room is freed at once."""

IN_USE: Final = b"in use"
"""The last message of the stream while parts are missing."""

LOOK_S: Final = 0.05
"""How long an answer holds that the reserve is not in use. A write may wait as long in the server after its look; and
what writes without a look takes is freed from the reserve in less. Seconds."""

_log = loggers.get_logger(__name__)


class _State(msgspec.Struct):
    bytes: int = 0
    messages: int = 0


class _Info(msgspec.Struct):
    state: _State


class Reserve:
    """The filler on a server.

    Args:
        link: the server.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._stream = names.stream_of(link.address, topics.RESERVE)
        self._look = names.api_subject(link.address, f"DIRECT.GET.{self._stream}.{topics.RESERVE}")
        self._may_look = True
        self._unused_s = -math.inf

    async def refuse_if_in_use(self, connection: Connection, topic: str) -> None:
        """Check before a write of weights that it would not take what is left for records and events.

        The answer of a moment ago counts too.

        Args:
            connection: asks the server.
            topic: what is to be written.

        Raises:
            StorageFull: the reserve is in use.
        """
        asked_s = asyncio.get_running_loop().time()
        if not self._may_look or asked_s < self._unused_s + LOOK_S:
            return
        try:
            answer = await connection.request(self._look, b"")
        except Denied:
            # Rights that were given before there was a reserve. The server's own limit still holds.
            self._may_look = False
            return
        except BrokerError:
            return  # the write says what is wrong
        if answer.data == IN_USE:
            raise StorageFull(topic, "what is left is reserved for records and events")
        self._unused_s = asked_s

    async def fill(self) -> None:
        """Store what is missing, as far as there is room. When nothing is missing, weights may be written again."""
        missing = -((await self._state()).bytes - RESERVE_BYTES) / PART_BYTES
        try:
            while missing > 0:
                await self._store(bytes(PART_BYTES))
                missing -= 1
        except StorageFull:
            await self.free_a_part()

    async def free_a_part(self) -> bool:
        """Delete a part and mark the reserve as in use. Return False if no part is left, or if this user may not."""
        try:
            state = await self._state()
            if state.bytes < PART_BYTES:
                return False
            # `keep = 0` would be no limit.
            await self._call("PURGE", {"keep": state.messages - 1} if state.messages > 1 else {}, dict[str, Any])
            await self._store(IN_USE)
        except (Denied, NotFound):
            return False
        except StorageFull:
            pass  # others were faster; the next part is for us
        _log.warning("the broker is full: a record or an event takes room from the reserve", left_bytes=state.bytes)
        return True

    async def _state(self) -> _State:
        info: _Info = await self._call("INFO", {}, _Info)
        return info.state

    async def _call(self, verb: str, request: object, response: type[Any]) -> Any:
        return await self._link.call_api(topics.RESERVE, f"STREAM.{verb}.{self._stream}", request, response)

    async def _store(self, message: bytes) -> None:
        async def attempt(connection: Connection) -> None:
            decode(topics.RESERVE, (await connection.request(topics.RESERVE, message)).data, dict[str, Any])

        await self._link.retry(attempt)
