"""One of the two brokers that a relay stands between: called until it answers, and its absence is told."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeVar

import structlog

from broker import families
from broker.base import Broker, Delivery
from broker.errors import Disconnected
from broker.support import backoff

T = TypeVar("T")

PATIENCE_S: Final = 10.0
"""A small message that takes longer finds the link cut, or so slow that a person should know."""

SMALL_BYTES: Final = 64 << 10
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0

QUIET_S: Final = 1.0
"""When nothing that had waited came across for so long, all of it is taken to be there."""

_random = random.SystemRandom()


class Side:
    """A broker, and what crossed over from it and to it.

    Calls are repeated for as long as it is out of reach; whoever has a deadline cancels them.

    Args:
        name: which of the two it is.
        broker: the connection.
        site: name of the site, for the log.
        clock: seconds since the epoch.

    Attributes:
        broker: as given, for subscriptions.
        away: whether it is out of reach, as far as is known.
        received: bytes of the payloads that came from it.
        sent: bytes of the payloads that went to it.
        late: how many events of each family of topics reached it after it had been away, and had waited for that.
    """

    def __init__(
        self, name: Literal["backbone", "site"], broker: Broker, site: str, clock: Callable[[], float]
    ) -> None:
        self.broker = broker
        self.away = False
        self.received = 0
        self.sent = 0
        self.late: Counter[str] = Counter()
        self._clock = clock
        self._log = structlog.get_logger(__name__).bind(site=site, broker=name)
        self._loop = asyncio.get_running_loop()
        self._left_s = 0.0
        self._back_s: float | None = None
        self._quiet: asyncio.TimerHandle | None = None

    async def read(self, delivery: Delivery) -> bytes:
        """A delivery's payload.

        Raises:
            CorruptPayload: its chunks are missing, or wrong.
        """
        payload = await self._until_done(delivery.read)
        self.received += len(payload)
        return payload

    async def get(self, topic: str) -> bytes | None:
        """The value retained under a topic."""
        found = await self._until_done(lambda: self.broker.get(topic))
        payload = None if found is None else found.payload
        self.received += len(payload or b"")
        return payload

    async def publish(self, topic: str, payload: bytes, *, dedupe: str | None = None) -> None:
        """Publish an event."""
        small = len(payload) <= SMALL_BYTES
        await self._until_done(lambda: self.broker.publish(topic, payload, dedupe=dedupe), small=small)
        self.sent += len(payload)

    async def put(self, topic: str, payload: bytes) -> None:
        """Retain a value."""
        await self._until_done(lambda: self.broker.put(topic, payload), small=len(payload) <= SMALL_BYTES)
        self.sent += len(payload)

    async def delete(self, topic: str) -> None:
        """Forget a value."""
        await self._until_done(lambda: self.broker.delete(topic))

    async def purge(self, topic_filter: str) -> None:
        """Forget whatever is under a filter."""
        await self._until_done(lambda: self.broker.purge(topic_filter))

    def reached_by(self, delivery: Delivery) -> None:
        """Count an event of the other side's that is here now, if it had waited for this side to be back."""
        if self._back_s is not None and delivery.time_s <= self._back_s:
            self.late[families.family_of(delivery.topic).name.lower()] += 1
            self._wait_for_quiet()

    async def _until_done(self, call: Callable[[], Awaitable[T]], *, small: bool = False) -> T:
        for tries in itertools.count():
            alarm = self._loop.call_later(PATIENCE_S, self._lost, f"no answer within {PATIENCE_S:g} s")
            if not small:
                alarm.cancel()
            try:
                done = await call()
            except Disconnected as exc:
                self._lost(str(exc))
            else:
                self._found()
                return done
            finally:
                alarm.cancel()
            pause_s = backoff.delay_s(tries, _random.uniform, first_s=FIRST_PAUSE_S, most_s=LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)
        raise AssertionError  # itertools.count() never ends

    def _lost(self, reason: str) -> None:
        if not self.away:
            self.away, self._left_s, self._back_s = True, self._clock(), None
            self._log.warning("site is cut off", reason=reason)

    def _found(self) -> None:
        if self.away:
            self.away, self._back_s = False, self._clock()
            self.late.clear()
            self._log.info("site is back", away_s=round(self._back_s - self._left_s, 1))
            self._wait_for_quiet()

    def _wait_for_quiet(self) -> None:
        if self._quiet is not None:
            self._quiet.cancel()
        self._quiet = self._loop.call_later(QUIET_S, self._all_there)

    def _all_there(self) -> None:
        if not self.away:
            self._back_s = None
            self._log.info("what had waited is delivered", late=dict(self.late))
