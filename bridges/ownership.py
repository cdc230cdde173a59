"""Who may serve a platform that is a machine of its own: one machine for each name.

Each bridge of such a platform watches what bridges of its platform's name announce. A bridge that starts leaves the
name to a machine that it hears. Of two that start at the same moment, or that a broken link has kept apart, the one
that announced itself first stays; both decide by what both have announced, so exactly one does.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from bridges.errors import PlatformTaken
from bridges.machine import Machine
from broker import topics
from broker.base import Broker
from broker.deliveries import Deleted, Reader, Value
from broker.messages import codec, origin
from broker.messages.errors import DecodeError
from broker.messages.register import MAX_EVERY_S, MAX_MISSED, Presence
from broker.support import loggers, texts
from broker.support.tasks import task_group

log = loggers.get_logger(__name__)

LOOK_S: Final = 5.0
"""How long a bridge waits until it has read what others have announced. Seconds."""

OLD_S: Final = 600.0
"""A machine that announced itself before this time is not waited for. If a clock is wrong, both find out later."""

_NAME_CHARACTERS: Final = 64
"""Longest host name of another machine that is told: Linux allows no longer one (gethostname(2))."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a machine has announced of a platform's name.

    Attributes:
        id: the machine's id.
        name: its host name.
        bridge: its bridge's name.
        since_s: when it announced itself first, in seconds since the epoch; 0: not known yet.
        until_s: until then it is there if nothing more is heard of it, in seconds on the reader's own clock.
    """

    id: str
    name: str
    bridge: str
    since_s: float = 0.0
    until_s: float = 0.0

    @property
    def rank(self) -> tuple[float, str]:
        """The lowest rank has the name: who announced first, then by id."""
        return self.since_s or float("inf"), self.id


def rival_that_stays(own: Claim, others: Iterable[Claim], now_s: float) -> Claim | None:
    """Return the machine that keeps a platform's name instead of this one; None: this one keeps it.

    Args:
        own: this machine's claim.
        others: the claims of other machines.
        now_s: current time, in seconds on this machine's clock.
    """
    present = [other for other in others if other.until_s > now_s and other.rank < own.rank]
    return min(present, key=lambda claim: claim.rank, default=None)


@dataclass
class Rivals:
    """The other machines that announce a bridge of this machine's platform.

    Attributes:
        own: this machine's id.
        heard: the machines that are there, by id: those that were heard since this bridge began to listen.
        left_over: those that the broker knew of before, and that nobody has heard since.
    """

    own: str
    heard: dict[str, Claim] = field(default_factory=dict)
    left_over: dict[str, Claim] = field(default_factory=dict)

    def note(self, presence: Presence, time_s: float | None, now_s: float, *, is_live: bool) -> bool:
        """Note an announcement; return whether it is another machine's.

        Args:
            presence: the announcement.
            time_s: when the broker stored it, in seconds since the epoch; None: it does not say.
            now_s: current time, in seconds on this machine's clock.
            is_live: whether it was made since this bridge began to listen.
        """
        host = presence.host
        if not presence.is_own or host is None or host.id == self.own:
            return False
        self.left_over.pop(host.id, None)
        # Whoever may write presences can write many of them.
        self.heard = {claim.id: claim for claim in self.present(now_s)}
        if presence.gone:
            self.heard.pop(host.id, None)
            return True
        until_s = now_s + MAX_MISSED * min(presence.every_s, MAX_EVERY_S)
        since_s = presence.since_s if presence.since_s > 0 else time_s or 0.0
        claims = self.heard if is_live else self.left_over
        name = texts.shortened(host.name, _NAME_CHARACTERS)
        claims[host.id] = Claim(host.id, name, presence.bridge, since_s, until_s)
        return True

    def present(self, now_s: float) -> list[Claim]:
        """Return the machines that are there."""
        return [claim for claim in self.heard.values() if claim.until_s > now_s]


class Ownership:
    """A machine's claim to the name of its platform. `open_ownership` opens it.

    Args:
        platform: the platform's name.
        bridge: the bridge's name.
        machine: this machine.
        values: reads what bridges of the platform announce.
        timer: seconds on a clock that never jumps.
        clock: seconds since the epoch.

    Attributes:
        since_s: when this machine announced itself first, in seconds since the epoch; 0: not yet.
        overwritten: set when another machine has said goodbye on the topic of this machine's presence: both machines
            have one host name.
    """

    def __init__(
        self,
        platform: str,
        bridge: str,
        machine: Machine,
        values: Reader[Value | Deleted],
        *,
        timer: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._platform, self._bridge, self._machine, self._values = platform, bridge, machine, values
        self._timer, self._clock = timer, clock
        self._rivals = Rivals(machine.id)
        self._changed = asyncio.Event()
        self._is_live = False
        self.since_s = 0.0
        self.overwritten = asyncio.Event()

    @property
    def is_topic_shared(self) -> bool:
        """Whether another machine that is there writes to the topic of this machine's presence."""
        return any(claim.bridge == self._bridge for claim in self._rivals.present(self._timer()))

    async def listen(self) -> None:
        """Take what bridges of the platform announce, until cancelled."""
        async for value in self._values:
            if isinstance(value, Value):
                self._take(value)

    async def claim(self) -> None:
        """Wait until no other machine has the name: those that the broker knows of may be there still.

        Raises:
            PlatformTaken: another machine has it.
        """
        await self._values.catch_up()
        self._is_live = True
        left_over = self._rivals.left_over
        if left_over:
            names = ", ".join(sorted(claim.name for claim in left_over.values()))
            seconds = round(self._left_s(), 1)
            log.info("waiting for a sign of the machine that had this name", machine=names, at_most_s=seconds)
        while left_over and (left_s := self._left_s()) > 0 and not self._rivals.heard:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
        await self._catch_up()
        self._leave_to(self._rivals.present(self._timer()))

    async def check(self) -> None:
        """Read what others have announced by now, and check that this machine keeps the name.

        Raises:
            PlatformTaken: another machine keeps it.
        """
        await self._catch_up()
        own = Claim(self._machine.id, self._machine.name, self._bridge, self.since_s)
        stays = rival_that_stays(own, self._rivals.heard.values(), self._timer())
        self._leave_to([] if stays is None else [stays])

    async def _catch_up(self) -> None:
        """Read what the broker holds now, unless it is out of reach: the log comes before the clock."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._values.catch_up()

    def _take(self, value: Value) -> None:
        """Take what a bridge has announced. To name what is unreadable is left to the server."""
        try:
            presence = codec.decode(Presence, value.payload)
            origin.check_topic(value.topic, topics.presence, presence.platform, presence.bridge)
        except DecodeError as exc:
            log.debug("unreadable presence", topic=value.topic, error=str(exc))
            return
        if self._is_own_past(presence):
            # Another bridge of this machine, or this one before it was started again, keeps its place.
            self.since_s = min(self.since_s or presence.since_s, presence.since_s)
        is_old = not self._is_live and value.time_s is not None and self._clock() - value.time_s > OLD_S
        if is_old or not self._rivals.note(presence, value.time_s, self._timer(), is_live=self._is_live):
            return
        self._changed.set()
        if self._is_live and presence.gone and presence.bridge == self._bridge:
            self.overwritten.set()

    def _is_own_past(self, presence: Presence) -> bool:
        is_mine = presence.is_own and presence.host is not None and presence.host.id == self._machine.id
        return is_mine and not presence.gone and presence.since_s > 0

    def _left_s(self) -> float:
        return max(claim.until_s for claim in self._rivals.left_over.values()) - self._timer()

    def _leave_to(self, claims: list[Claim]) -> None:
        if claims:
            name = claims[0].name
            raise PlatformTaken(self._platform, name, is_namesake=name == self._machine.name)


@contextlib.asynccontextmanager
async def open_ownership(broker: Broker, platform: str, bridge: str, machine: Machine) -> AsyncIterator[Ownership]:
    """Claim a platform's name for a machine, and listen to other bridges of this name until the end of the block.

    Args:
        broker: the bridge's connection.
        platform: the platform's name.
        bridge: the bridge's name.
        machine: this machine.

    Raises:
        PlatformTaken: another machine has the name.
    """
    async with broker.watch(topics.presence(platform, topics.ANY)) as values, task_group() as group:
        ownership = Ownership(platform, bridge, machine, values)
        listening = group.create_task(ownership.listen(), name=f"other bridges of {platform}")
        await ownership.claim()
        yield ownership
        listening.cancel()
