"""Which member of a durable's group has which event. No I/O and no clock.

MQTT's shared subscriptions cannot do this: they never deliver what was published before the first subscription,
Mosquitto keeps sending to a member that is offline (10 of 20 messages, measured), and a message that an online member
does not acknowledge never goes to another member. So the members agree among themselves. The broker shows the messages
of a topic to all members in the same order; the first claim for an event's n-th delivery wins.
"""

import bisect
import enum
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from broker.mqtt.storage import Entry

DEDUPE_WINDOW_US: Final = 120_000_000
"""Two events with the same id are copies if their sequences differ by less than this (two minutes)."""


class GroupMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A member's message to its group about an event.

    Attributes:
        what: `take` claims the event for its n-th delivery, `hold` extends the time, `free` gives the event back,
            `done` acknowledges it.
        by: the member.
        n: number of the delivery, from 1.
        delay_s: of `free`: time until the next delivery, in seconds.
    """

    what: Literal["take", "hold", "free", "done"]
    by: str
    n: int
    delay_s: float = 0.0


class GroupSettings(msgspec.Struct, frozen=True):
    """The retained settings of a durable.

    Attributes:
        topic_filter: filter of the events that it reads.
        first: sequence of the first event that it reads.
        ack_wait_s: time until an unacknowledged event is delivered again, in seconds.
    """

    topic_filter: str
    first: int
    ack_wait_s: float


class Status(enum.Enum):
    """The status of an event in its group."""

    FREE = "no member has it, or will have it after its delay"
    TAKEN = "a member has it"
    DONE = "it is acknowledged"


TRANSITIONS: Final[dict[Status, dict[str, Status]]] = {
    Status.FREE: {"take": Status.TAKEN, "hold": Status.TAKEN, "free": Status.FREE, "done": Status.DONE},
    Status.TAKEN: {"take": Status.TAKEN, "hold": Status.TAKEN, "free": Status.FREE, "done": Status.DONE},
    Status.DONE: {},
}
"""The status after a message that applies (see `_APPLIES`), by `what`. Other messages change nothing."""


@dataclass(slots=True)
class _State:
    """The state of one event. `free_at_s` is when it is free, if no message comes before."""

    status: Status = Status.FREE
    n: int = 0
    holder: str = ""
    free_at_s: float = 0.0


_APPLIES: Final[dict[str, Callable[[_State, GroupMessage], bool]]] = {
    "take": lambda state, message: message.n > state.n,  # the first claim for a delivery wins
    # A higher number: this member joined later, and the broker shows it only the last message about each event.
    "hold": lambda state, message: message.n >= state.n,
    "free": lambda state, message: message.n > state.n or (message.n, message.by) == (state.n, state.holder),
    "done": lambda _state, _message: True,
}


class Group:
    """One member's view of all events of its durable.

    Args:
        me: name of this member.
        settings: the durable's settings.
        ended: names of members that have ended without giving their events back.
    """

    def __init__(self, me: str, settings: GroupSettings, ended: Collection[str] = ()) -> None:
        self._me = me
        self._ended = ended
        self._settings = settings
        self._entries: dict[str, Entry] = {}
        self._order: list[tuple[int, str]] = []
        self._states: dict[str, _State] = {}
        self._latest: dict[tuple[str, str], tuple[int, str]] = {}
        self._pending: dict[str, int] = {}

    def add(self, entry: Entry) -> bool:
        """Add an event. False: it is a copy of an event of the last two minutes, and is not added."""
        if entry.name.sequence < self._settings.first or entry.key in self._entries:
            return True
        identity = (entry.topic, entry.name.id)
        sequence, key = self._latest.get(identity, (0, ""))
        if key not in ("", entry.key) and abs(entry.name.sequence - sequence) < DEDUPE_WINDOW_US:
            return False
        self._latest[identity] = (entry.name.sequence, entry.key)
        self._entries[entry.key] = entry
        if self._state(entry.key).status is not Status.DONE:
            bisect.insort(self._order, (entry.name.sequence, entry.key))
        return True

    def remove(self, key: str) -> None:
        """Forget an event that is no longer on the broker."""
        self._stop_claiming(key)
        self._entries.pop(key, None)
        self._states.pop(key, None)

    def keep_only(self, keys: set[str]) -> None:
        """Forget all events except those with the given keys."""
        for key in self._entries.keys() - keys:
            self.remove(key)

    def apply(self, key: str, message: GroupMessage, now_s: float) -> Entry | None:
        """Apply a member's message. Returns the event if it is now delivered to this member.

        Args:
            key: key of the event.
            message: the message.
            now_s: the current time, in seconds.
        """
        state = self._state(key)
        status = TRANSITIONS[state.status].get(message.what)
        if status is None or not _APPLIES[message.what](state, message):
            return None
        state.status = status
        if status is Status.DONE:
            self._stop_claiming(key)
        elif status is Status.FREE:
            state.n, state.holder, state.free_at_s = message.n, "", now_s + message.delay_s
        else:
            wait_s = 0.0 if message.by in self._ended else self._settings.ack_wait_s
            state.n, state.holder, state.free_at_s = message.n, message.by, now_s + wait_s
        if message.what != "take":
            return None
        if self._pending.get(key, 0) <= message.n:
            self._pending.pop(key, None)
        return self._entries.get(key) if message.by == self._me else None

    def claim_next(self, now_s: float) -> tuple[Entry, int] | None:
        """Return the first free event and the number of its next delivery, and mark this claim as pending.

        None: no event is free.
        """
        for _, key in self._order:
            state = self._state(key)
            if key not in self._pending and state.free_at_s <= now_s:
                self._pending[key] = state.n + 1
                return self._entries[key], state.n + 1
        return None

    @property
    def pending(self) -> dict[str, int]:
        """This member's claims without a result yet: delivery number by key."""
        return dict(self._pending)

    def is_mine(self, key: str, n: int, now_s: float) -> bool:
        """Whether this member has an event.

        Args:
            key: key of the event.
            n: number of the delivery.
            now_s: the current time, in seconds.
        """
        state = self._state(key)
        is_holder = state.status is Status.TAKEN and (state.holder, state.n) == (self._me, n)
        return is_holder and state.free_at_s > now_s

    def free_at_s(self, key: str) -> float:
        """When a member's time with an event ends, in seconds."""
        return self._state(key).free_at_s

    def next_free_at_s(self) -> float | None:
        """When the next event without a pending claim is free, in seconds; None: there is no such event."""
        times = (self._state(key).free_at_s for _, key in self._order if key not in self._pending)
        return min(times, default=None)

    def _state(self, key: str) -> _State:
        return self._states.setdefault(key, _State())

    def _stop_claiming(self, key: str) -> None:
        self._pending.pop(key, None)
        entry = self._entries.get(key)
        if entry is None:
            return
        index = bisect.bisect_left(self._order, (entry.name.sequence, key))
        if index < len(self._order) and self._order[index][1] == key:
            del self._order[index]
