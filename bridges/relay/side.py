"""One of the two brokers of a relay. Calls are repeated while it is out of reach, and its absence is logged."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeVar

from broker import families
from broker.base import Broker
from broker.deliveries import Delivery
from broker.errors import Disconnected
from broker.support import backoff, loggers

T = TypeVar("T")

PATIENCE_S: Final = 10.0
"""If a small message takes longer, the link is cut, or so slow that the operator should know. Seconds."""

SMALL_BYTES: Final = 64 << 10
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0

QUIET_S: Final = 1.0
"""If no late event arrives for so long, all of them are taken to be delivered. Seconds."""

_random = random.SystemRandom()


class Side:
    """A broker, and the bytes that went to it and came from it.

    A call is repeated until the broker answers; a caller with a deadline must cancel it.

    Args:
        name: which of the two brokers it is.
        broker: the connection.
        site: name of the site, for the log.
        clock: returns the time in seconds since the epoch.

    Attributes:
        broker: the connection, for subscriptions.
        is_away: whether the broker is out of reach, as far as is known.
        received: payload bytes that came from it.
        sent: payload bytes that went to it.
        late: how many events waited for the last return of the broker, by family of topics.
    """

    def __init__(
        self, name: Literal["backbone", "site"], broker: Broker, site: str, clock: Callable[[], float]
    ) -> None:
        self.broker = broker
        self.is_away = False
        self.received = 0
        self.sent = 0
        self.late: Counter[str] = Counter()
        self._clock = clock
        self._log = loggers.get_logger(__name__).bind(site=site, broker=name)
        self._loop = asyncio.get_running_loop()
        self._lost_s = 0.0
        self._returned_s: float | None = None
        self._quiet_timer: asyncio.TimerHandle | None = None

    async def read(self, delivery: Delivery) -> bytes:
        """The payload of a delivery.

        Raises:
            CorruptPayload: chunks of it are missing or wrong.
        """
        payload = await self._call(delivery.read)
        self.received += len(payload)
        return payload

    async def get(self, topic: str) -> bytes | None:
        """The payload of the value retained at a topic; None if there is none."""
        value = await self._call(lambda: self.broker.get(topic))
        payload = None if value is None else value.payload
        self.received += len(payload or b"")
        return payload

    async def publish(self, topic: str, payload: bytes, *, dedupe: str | None = None) -> None:
        """Publish an event.

        Args:
            topic: topic of the event.
            payload: payload of the event.
            dedupe: an id; the broker may drop further events with the same id.
        """
        is_small = len(payload) <= SMALL_BYTES
        await self._call(lambda: self.broker.publish(topic, payload, dedupe=dedupe), is_small=is_small)
        self.sent += len(payload)

    async def put(self, topic: str, payload: bytes) -> None:
        """Retain a value.

        Args:
            topic: topic of the value.
            payload: the value.
        """
        await self._call(lambda: self.broker.put(topic, payload), is_small=len(payload) <= SMALL_BYTES)
        self.sent += len(payload)

    async def delete(self, topic: str) -> None:
        """Delete the value retained at a topic."""
        await self._call(lambda: self.broker.delete(topic))

    async def purge(self, topic_filter: str) -> None:
        """Delete everything under a topic filter."""
        await self._call(lambda: self.broker.purge(topic_filter))

    def count_late(self, delivery: Delivery) -> None:
        """Count an event of the other side that was delivered here, if it had to wait for this side's return."""
        if self._returned_s is not None and delivery.time_s <= self._returned_s:
            self.late[families.family_of(delivery.topic).name.lower()] += 1
            self._restart_quiet_timer()

    async def _call(self, call: Callable[[], Awaitable[T]], *, is_small: bool = False) -> T:
        """Repeat a call until the broker answers. Only a small call that takes long counts as a sign of a cut link."""
        for tries in itertools.count():
            timer: asyncio.TimerHandle | None = None
            if is_small:
                timer = self._loop.call_later(PATIENCE_S, self._set_away, f"no answer within {PATIENCE_S:g} s")
            try:
                result = await call()
            except Disconnected as exc:
                self._set_away(str(exc))
            else:
                self._set_back()
                return result
            finally:
                if timer is not None:
                    timer.cancel()
            pause_s = backoff.delay_s(tries, _random.uniform, first_s=FIRST_PAUSE_S, most_s=LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)
        raise AssertionError  # itertools.count() never ends

    def _set_away(self, reason: str) -> None:
        if not self.is_away:
            self.is_away, self._lost_s, self._returned_s = True, self._clock(), None
            self._log.warning("site is cut off", reason=reason)

    def _set_back(self) -> None:
        if self.is_away:
            self.is_away, self._returned_s = False, self._clock()
            self.late.clear()
            self._log.info("site is back", away_s=round(self._returned_s - self._lost_s, 1))
            self._restart_quiet_timer()

    def _restart_quiet_timer(self) -> None:
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()
        self._quiet_timer = self._loop.call_later(QUIET_S, self._log_late)

    def _log_late(self) -> None:
        """Log how many late events were delivered, unless the broker is away again."""
        if not self.is_away:
            self._returned_s = None
            self._log.info("the events that waited are delivered", late=dict(self.late))
