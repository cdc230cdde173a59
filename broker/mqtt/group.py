"""Who of a durable's subscribers has which event. No I/O, no clock.

MQTT's shared subscriptions can't do this: nothing that was published before the first subscription is ever delivered,
Mosquitto goes on filling the queue of a member that is gone (10 of 20 messages, measured), and what a live member does
not acknowledge is never delivered to another one. So the members agree among themselves. The broker shows all of them
all messages on a topic in the same order; whoever's claim for an event's n-th delivery comes first has it.
"""

import bisect
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from broker.mqtt.storage import Entry

DEDUPE_WINDOW_US: Final = 120_000_000


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a member says about an event.

    Attributes:
        what: `take` claims it for its n-th delivery, `hold` needs more time, `free` gives it back, `done` ends it.
        by: the member.
        n: which delivery this is about, from 1.
        delay_s: of `free`: deliver it again not before.
    """

    what: Literal["take", "hold", "free", "done"]
    by: str
    n: int
    delay_s: float = 0.0


class Settings(msgspec.Struct, frozen=True):
    """What a durable is remembered with.

    Attributes:
        topic_filter: what it reads.
        first: sequence of the first event that concerns it.
        ack_wait_s: how long an event may stay unacknowledged.
    """

    topic_filter: str
    first: int
    ack_wait_s: float


@dataclass(slots=True)
class _State:
    n: int = 0
    by: str = ""  # empty: nobody has it
    due_s: float = 0.0  # when it is free, or free again
    done: bool = False


class Group:
    """One member's knowledge of all events of its durable.

    Args:
        me: this member's name.
        settings: the durable's.
    """

    def __init__(self, me: str, settings: Settings) -> None:
        self._me = me
        self._settings = settings
        self._entries: dict[str, Entry] = {}
        self._order: list[tuple[int, str]] = []
        self._states: dict[str, _State] = {}
        self._ids: dict[tuple[str, str], tuple[int, str]] = {}
        self._asked: dict[str, int] = {}

    def add(self, entry: Entry) -> bool:
        """Take note of an event; False if it is a copy of one of the last two minutes, to be dropped."""
        if entry.name.sequence < self._settings.first or entry.key in self._entries:
            return True
        about = (entry.topic, entry.name.id)
        sequence, key = self._ids.get(about, (0, ""))
        if key not in ("", entry.key) and abs(entry.name.sequence - sequence) < DEDUPE_WINDOW_US:
            return False
        self._ids[about] = (entry.name.sequence, entry.key)
        self._entries[entry.key] = entry
        if not self._state(entry.key).done:
            bisect.insort(self._order, (entry.name.sequence, entry.key))
        return True

    def gone(self, key: str) -> None:
        """An event is on the broker no longer."""
        self._finish(key)
        self._entries.pop(key, None)
        self._states.pop(key, None)

    def only(self, keys: set[str]) -> None:
        """No other events are there."""
        for key in self._entries.keys() - keys:
            self.gone(key)

    def note(self, key: str, said: Said, now_s: float) -> Entry | None:
        """Take over what a member says about an event; returns the event if it is ours from now on."""
        state = self._state(key)
        if said.what == "done":
            self._finish(key)
            state.done = True
        elif said.what == "take" and said.n > state.n:
            state.n, state.by, state.due_s = said.n, said.by, now_s + self._settings.ack_wait_s
            if self._asked.get(key, said.n) <= said.n:
                self._asked.pop(key, None)
            if said.by == self._me and not state.done:
                return self._entries.get(key)
        elif said.what == "hold" and said.n == state.n:
            state.by, state.due_s = said.by, now_s + self._settings.ack_wait_s
        elif said.what == "free" and said.n == state.n and said.by == state.by:
            state.by, state.due_s = "", now_s + said.delay_s
        return None

    def free(self, now_s: float) -> tuple[Entry, int] | None:
        """The first event that is free, and which delivery it would be; it counts as asked for from now on."""
        for _, key in self._order:
            state = self._state(key)
            if key not in self._asked and state.due_s <= now_s:
                self._asked[key] = state.n + 1
                return self._entries[key], state.n + 1
        return None

    @property
    def asked(self) -> dict[str, int]:
        """The events that we claimed without knowing yet whether we have them, and for which delivery."""
        return dict(self._asked)

    def is_mine(self, key: str, n: int, now_s: float) -> bool:
        """Whether we have an event still."""
        state = self._state(key)
        return state.by == self._me and state.n == n and not state.done and state.due_s > now_s

    def due_s(self, key: str) -> float:
        """When an event that someone has is free again, seconds."""
        return self._state(key).due_s

    def next_due_s(self) -> float | None:
        """When the next event is free, if one will be; seconds."""
        dues = (self._state(key).due_s for _, key in self._order if key not in self._asked)
        return min(dues, default=None)

    def _state(self, key: str) -> _State:
        return self._states.setdefault(key, _State())

    def _finish(self, key: str) -> None:
        self._asked.pop(key, None)
        entry = self._entries.get(key)
        if entry is None:
            return
        index = bisect.bisect_left(self._order, (entry.name.sequence, key))
        if index < len(self._order) and self._order[index][1] == key:
            del self._order[index]
