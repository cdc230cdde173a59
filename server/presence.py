"""Tells from the presence messages of the bridges which platforms have a bridge."""

import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from broker import topics
from broker.base import Broker
from broker.deliveries import Deleted, Value
from broker.messages import codec, origin
from broker.messages.errors import DecodeError
from broker.messages.register import MAX_MISSED, Presence
from broker.support import loggers
from server.following import Versioned, follow

log = loggers.get_logger(__name__)

_COMPARED: Final = 3
"""So many announcements in a row must say that a clock is wrong."""


@dataclass(frozen=True, slots=True)
class _Bridge:
    presence: Presence
    received_s: float

    def present_until_s(self, connected_since_s: float) -> float:
        """When the bridge is absent unless it announces itself before."""
        if self.presence.gone:
            return self.received_s
        # Nobody could be heard before we were connected, so nobody was silent.
        return max(self.received_s, connected_since_s) + MAX_MISSED * self.presence.every_s

    def give_up_s(self, connected_since_s: float) -> float:
        """When its tasks are given up: after as many more. A bridge that only restarts is back earlier."""
        absent_since_s = max(self.present_until_s(connected_since_s), connected_since_s)
        return absent_since_s + MAX_MISSED * self.presence.every_s


class BridgePresence(Versioned):
    """The known bridges. `open_presence` keeps them up to date.

    Silence counts only while a bridge could have been heard: from the newest connection on. Who decides because of it
    calls `catch_up` before, as `JobEvents.next` does: this process may have been paused.

    Args:
        clock: seconds on a clock that never jumps.
        connected_since_s: returns when the newest connection to the broker was opened, on the same clock.
        epoch_s: seconds since the epoch, to compare bridges' clocks with where the broker has none.

    Attributes:
        version: number of times that the set of present platforms has changed.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        connected_since_s: Callable[[], float] = lambda: 0.0,
        epoch_s: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock)
        self._connected_since_s = connected_since_s
        self._bridges: dict[str, _Bridge] = {}
        self._epoch_s = epoch_s
        self._ahead_s: dict[str, deque[float]] = {}

    def is_present(self, platform: str) -> bool:
        """Whether a platform has a bridge."""
        return platform in self._present_platforms()

    def give_up_s(self, platform: str) -> float | None:
        """When to give up a platform's tasks unless a bridge announces itself before, in seconds on the clock.

        None if no bridge of the platform ever announced itself: bridges that send no presence can't be missed.
        """
        since_s = self._connected_since_s()
        bridges = [bridge for bridge in self._bridges.values() if bridge.presence.platform == platform]
        return max((bridge.give_up_s(since_s) for bridge in bridges), default=None)

    def note(self, value: Value | Deleted) -> None:
        """Apply a bridge's presence message. An unreadable one is logged and left out."""
        try:
            presence = None if isinstance(value, Deleted) else _decode_presence(value)
        except DecodeError as exc:
            log.warning("unreadable presence", topic=value.topic, error=str(exc))
            return
        before = self._present_platforms()
        if presence is None:
            self._bridges.pop(value.topic, None)
        else:
            self._bridges[value.topic] = _Bridge(presence, self._clock())
            self._compare_clocks(presence, value)
        if self._present_platforms() != before:
            self.mark_changed()

    def _compare_clocks(self, presence: Presence, value: Value | Deleted) -> None:
        """Log once that a bridge's clock is wrong.

        Without the broker's timestamp, an announcement that comes late makes a clock seem to be behind, so the smallest
        difference of the last ones counts.
        """
        time_s = value.time_s if isinstance(value, Value) else None
        ahead_s = presence.ahead_s(self._epoch_s() if time_s is None else time_s)
        last = self._ahead_s.setdefault(value.topic, deque(maxlen=1 if time_s is not None else _COMPARED))
        was_wrong = _is_wrong(last)
        last.append(ahead_s)
        if _is_wrong(last) and not was_wrong:
            log.warning(presence.skew_text(min(last, key=abs)), platform=presence.platform)

    def _present_platforms(self) -> set[str]:
        now_s, since_s = self._clock(), self._connected_since_s()
        return {
            bridge.presence.platform for bridge in self._bridges.values() if bridge.present_until_s(since_s) > now_s
        }


@contextlib.asynccontextmanager
async def open_presence(broker: Broker, clock: Callable[[], float] = time.monotonic) -> AsyncIterator[BridgePresence]:
    """Open the view of bridges: complete when the context starts, up to date until it ends.

    Args:
        broker: keeps the presence messages.
        clock: seconds on a clock that never jumps: the one of `Broker.connected_since_s`.
    """
    presence = BridgePresence(clock, lambda: broker.connected_since_s)
    async with follow(broker, topics.presence(topics.ANY, topics.ANY), presence):
        yield presence


def _is_wrong(ahead_s: deque[float]) -> bool:
    return len(ahead_s) == ahead_s.maxlen and (min(ahead_s) > 0 or max(ahead_s) < 0)


def _decode_presence(value: Value) -> Presence:
    presence = codec.decode(Presence, value.payload)
    # A bridge that may write to one platform's topics must not speak for another platform.
    origin.check_topic(value.topic, topics.presence, presence.platform, presence.bridge)
    return presence
