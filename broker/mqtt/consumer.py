"""One subscriber's share of a durable's events: claims what it has room for, and gives back what it did not look at."""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Protocol

import msgspec
import structlog

from broker.base import Delivery, Load
from broker.errors import BrokerError, Disconnected
from broker.families import Keep, family_of
from broker.mqtt import feed, storage
from broker.mqtt.client import Message
from broker.mqtt.group import Group, Said, Settings
from broker.mqtt.link import Link
from broker.mqtt.storage import Entry
from broker.support.tasks import task_group

_log = structlog.get_logger(__name__)

AT_ONCE: Final = 32
"""Claims under way at once."""


class Answers(Protocol):
    """Whoever knows who waits for an answer."""

    async def answer(self, entry: Entry, payload: bytes) -> None:
        """Answer whoever published that, if anybody waits."""


class Shared(AsyncIterator[Delivery]):
    """One subscriber of a durable; use it as `async with shared.running()`.

    Args:
        link: where from.
        durable: the group's name.
        settings: of the group.
        load: reads a payload.
        prefetch: how many events to have at once, at the most.
        answers: None where nobody waits for answers.
    """

    def __init__(
        self, link: Link, durable: str, settings: Settings, *, load: Load, prefetch: int, answers: Answers | None
    ) -> None:
        self.ack_wait_s = settings.ack_wait_s
        self._link = link
        self._key = storage.group_key(durable)
        self._filter = settings.topic_filter
        self._family = family_of(settings.topic_filter)
        self._prefetch = prefetch
        self._load = load
        self._answers = answers
        self._me = secrets.token_hex(6)
        self._group = Group(self._me, settings)
        self._loop = asyncio.get_running_loop()
        self._won: deque[tuple[Entry, int]] = deque()
        self._held: dict[str, int] = {}
        self._copies: deque[str] = deque()
        self._changed = asyncio.Event()  # for the pump
        self._arrived = asyncio.Event()  # for the reader
        self._claims = asyncio.Semaphore(AT_ONCE)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take part in the group until the end.

        Raises:
            Denied: we may not read or claim that.
            Disconnected: the broker did not get it done in time.
        """
        entries = storage.entries_filter(self._filter)
        async with feed.following(self._link, (f"{self._key}/#", entries), self):
            try:
                async with task_group() as group:
                    pump = group.create_task(self._pump(group), name=f"mqtt claims of {self._filter}")
                    yield
                    pump.cancel()
                    # What is claimed by now is given back below, as soon as the claim is with the broker.
            finally:
                await self._give_back()

    async def __anext__(self) -> Delivery:
        while True:
            while not self._won:
                self._arrived.clear()
                await self._arrived.wait()
            entry, n = self._won.popleft()
            if self._group.is_mine(entry.key, n, self._loop.time()):
                return _Held(self, entry, n, self._load)

    def synced(self, found: dict[str, Message]) -> None:
        """See Listener."""
        parsed = [storage.entry(self._filter, key, message.payload) for key, message in found.items()]
        entries = sorted((one for one in parsed if one is not None), key=lambda one: (one.name.sequence, one.key))
        self._group.only({entry.key for entry in entries})
        for key, message in found.items():
            self._note(key, message.payload)
        for entry in entries:
            self._add(entry)
        self._changed.set()

    def heard(self, message: Message) -> None:
        """See Listener."""
        if message.topic.startswith(self._key):
            self._note(message.topic, message.payload)
        elif not message.payload:
            self._group.gone(message.topic)
        elif entry := storage.entry(self._filter, message.topic, message.payload):
            self._add(entry)
        self._changed.set()

    async def say(self, entry: Entry, said: Said) -> None:
        """Tell the others; if that can't be done, the event comes again in time."""
        try:
            await self._publish(entry.key, said)
        except Disconnected as exc:
            _log.debug("not said", what=said.what, topic=entry.topic, error=str(exc))

    async def finish(self, entry: Entry, n: int) -> None:
        """Nobody needs that event any more."""
        said = Said("done", self._me, n)
        self._release(entry.key)
        self._group.note(entry.key, said, self._loop.time())
        try:
            if self._family.keep is Keep.QUEUE:
                await asyncio.gather(*(self._link.publish(key, b"") for key in (entry.key, self._state_key(entry.key))))
            else:
                await self._publish(entry.key, said)
        except Disconnected as exc:
            _log.debug("not acknowledged", topic=entry.topic, error=str(exc))

    async def give_back(self, entry: Entry, n: int, delay_s: float) -> None:
        """Somebody else may try, after a while."""
        self._release(entry.key)
        await self.say(entry, Said("free", self._me, n, delay_s))

    async def hold(self, entry: Entry, n: int) -> None:
        """This takes longer."""
        said = Said("hold", self._me, n)
        if self._group.is_mine(entry.key, n, self._loop.time()):
            self._group.note(entry.key, said, self._loop.time())
            await self.say(entry, said)

    async def answer(self, entry: Entry, payload: bytes) -> None:
        """Answer whoever waits for that."""
        if self._answers is not None:
            await self._answers.answer(entry, payload)

    def _add(self, entry: Entry) -> None:
        if not self._group.add(entry) and self._family.keep is Keep.QUEUE:
            self._copies.append(entry.key)

    def _note(self, key: str, payload: bytes) -> None:
        entry_key = key.removeprefix(f"{self._key}/")
        if entry_key == key or not payload:
            return
        try:
            said = msgspec.json.decode(payload, type=Said)
        except msgspec.DecodeError:
            _log.warning("unreadable claim", topic=key)
            return
        entry = self._group.note(entry_key, said, self._loop.time())
        if entry is not None:
            self._held[entry.key] = said.n
            self._won.append((entry, said.n))
            self._arrived.set()

    async def _pump(self, group: asyncio.TaskGroup) -> None:
        """Claim whatever is free and we have room for."""
        while True:
            while self._copies:
                await self._link.publish(self._copies.popleft(), b"")
            while self._room() and (found := self._group.free(self._loop.time())):
                group.create_task(self._claim(*found), name=f"mqtt claim of {found[0].key}")
            self._changed.clear()
            # A copy may have come while one was deleted; what came before `clear` is seen here.
            if not self._copies:
                await self._until(self._next_s())

    async def _until(self, due_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due_s):
                await self._changed.wait()

    def _next_s(self) -> float | None:
        if self._room():
            return self._group.next_due_s()
        return min((self._group.due_s(key) for key in self._held), default=None)

    def _room(self) -> int:
        now_s = self._loop.time()
        for key, n in list(self._held.items()):
            if not self._group.is_mine(key, n, now_s):
                del self._held[key]
        return self._prefetch - len(self._held) - len(self._group.asked)

    async def _claim(self, entry: Entry, n: int) -> None:
        async with self._claims:
            await self._publish(entry.key, Said("take", self._me, n))

    async def _give_back(self) -> None:
        for entry, n in self._won:
            await self.give_back(entry, n, 0.0)
        for key, n in self._group.asked.items():
            with contextlib.suppress(BrokerError):
                await self._publish(key, Said("free", self._me, n))

    async def _publish(self, entry_key: str, said: Said) -> None:
        payload = msgspec.json.encode(said)
        await self._link.publish(self._state_key(entry_key), payload, expires_s=self._family.max_age_s)

    def _state_key(self, entry_key: str) -> str:
        return f"{self._key}/{entry_key}"

    def _release(self, key: str) -> None:
        self._held.pop(key, None)
        self._changed.set()


class _Held(Delivery):
    """An event that a subscriber has until it acknowledges it, or `ack_wait` is over."""

    def __init__(self, shared: Shared, entry: Entry, n: int, load: Load) -> None:
        super().__init__(
            entry.topic,
            entry.message,
            load,
            sequence=entry.name.sequence,
            attempt=n,
            time_s=entry.name.time_s,
        )
        self._shared = shared
        self._entry = entry

    async def ack(self) -> None:
        await self._shared.finish(self._entry, self.attempt)

    async def nak(self, delay_s: float = 0.0) -> None:
        await self._shared.give_back(self._entry, self.attempt, delay_s)

    async def working(self) -> None:
        await self._shared.hold(self._entry, self.attempt)

    async def answer(self, payload: bytes) -> None:
        await self._shared.answer(self._entry, payload)
