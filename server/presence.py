"""Which platforms have a bridge that is there, as the bridges themselves and their silence tell."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from broker import topics
from broker.base import Broker, Deleted, Value
from broker.errors import BadTopic
from broker.messages import codec
from broker.messages.errors import DecodeError
from broker.messages.register import Presence
from server.following import following

log = structlog.get_logger(__name__)

MISSED: Final = 3
"""So many times may a bridge not be heard before it counts as absent; after as many more its tasks are given up. One
that only starts anew is back before."""


@dataclass(frozen=True, slots=True)
class _Heard:
    presence: Presence
    at_s: float

    @property
    def until_s(self) -> float:
        return self.at_s if self.presence.gone else self.at_s + MISSED * self.presence.every_s

    @property
    def gone_s(self) -> float:
        return self.until_s + MISSED * self.presence.every_s


class BridgePresence:
    """Every bridge that was heard of. Use it as `async with opened(broker, clock) as attendance`.

    Attributes:
        version: counts the changes.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.version = 0
        self._clock = clock
        self._bridges: dict[str, _Heard] = {}
        self._changed = asyncio.Event()

    def is_present(self, platform: str) -> bool:
        """Whether one of a platform's bridges is there."""
        return any(one.until_s > self._clock() for one in self._of(platform))

    def gone_s(self, platform: str) -> float | None:
        """When a platform's tasks are to be given up, if no bridge is heard till then; None: there never was one.

        A platform whose bridges never say that they are there can't be missed either.
        """
        return max((one.gone_s for one in self._of(platform)), default=None)

    async def changed(self, since: int) -> int:
        """Return the version as soon as it is another than `since`."""
        while self.version == since:
            await self._changed.wait()
        return self.version

    def note(self, value: Value | Deleted) -> None:
        """Take over what a bridge says; what can't be read is logged and left out."""
        try:
            presence = None if isinstance(value, Deleted) else _presence(value)
        except (DecodeError, BadTopic) as exc:
            log.warning("unreadable presence", topic=value.topic, error=str(exc))
            return
        before = self._present()
        if presence is None:
            self._bridges.pop(value.topic, None)
        else:
            self._bridges[value.topic] = _Heard(presence, self._clock())
        if self._present() != before:
            self._tell()

    def _of(self, platform: str) -> list[_Heard]:
        return [one for one in self._bridges.values() if one.presence.platform == platform]

    def _present(self) -> set[str]:
        return {one.presence.platform for one in self._bridges.values() if one.until_s > self._clock()}

    def _tell(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()


def _presence(value: Value) -> Presence:
    """A bridge's word; who may write to one platform's topics must not speak for another's."""
    presence = codec.decode(Presence, value.payload)
    if presence.platform != topics.parse_presence(value.topic).platform:
        raise DecodeError(f"a bridge of {presence.platform} does not belong there")
    return presence


@contextlib.asynccontextmanager
async def opened(broker: Broker, clock: Callable[[], float]) -> AsyncIterator[BridgePresence]:
    """The bridges, from the start and kept up to date until the end."""
    attendance = BridgePresence(clock)
    async with following(broker, topics.presence(topics.ANY, topics.ANY), attendance.note):
        yield attendance
