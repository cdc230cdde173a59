"""What a client has seen of the server's streams, to notice that the server has another store after a reconnection.

Nothing lowers the last sequence of a stream: not a purge, not an age limit, not a crash of a server that writes each
message before it acknowledges it (`sync_interval: always`, docs/nats.md).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

Kind = Literal["older", "emptied", "another"]
"""How a store has changed; see `broker.errors.StoreChanged`."""

_NEVER: Final = "0001-01-01"


@dataclass(frozen=True, slots=True)
class Change:
    """How a store differs from what was seen of it.

    Attributes:
        kind: as in `broker.errors.StoreChanged`.
        reason: what has changed, for a person.
    """

    kind: Kind
    reason: str


class StreamState(msgspec.Struct):
    """The messages of a stream.

    Attributes:
        last_seq: sequence of the last message, which may be deleted.
        last_ts: when that was stored (RFC 3339); a date in year 1 if there was none yet.
    """

    last_seq: int = 0
    last_ts: str = _NEVER


class StreamInfo(msgspec.Struct):
    """JetStream's answer about a stream.

    Attributes:
        config: its configuration, as in JetStream's API.
        created: when it was created (RFC 3339). A restored copy has the same time.
        state: its messages.
    """

    config: dict[str, Any]
    created: str = ""
    state: StreamState = msgspec.field(default_factory=StreamState)


class Seen:
    """The newest that one client has seen of each stream.

    Args:
        relaxed: names of the streams that may lose their last messages in a crash.
    """

    def __init__(self, relaxed: Collection[str] = ()) -> None:
        self._relaxed = frozenset(relaxed)
        self._last: dict[str, int] = {}
        self._created: dict[str, str] = {}

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams to compare; empty if this user can't ask for the state of streams."""
        return tuple({**self._created, **self._last}) if self._created else ()

    def note(self, stream: str, sequence: int) -> None:
        """Remember that a stream has a message with this sequence.

        Args:
            stream: name of the stream.
            sequence: the message's sequence.
        """
        if stream not in self._relaxed:
            self._last[stream] = max(sequence, self._last.get(stream, 0))

    def learn(self, info: StreamInfo) -> None:
        """Remember a stream as the server describes it."""
        name = info.config["name"]
        self._created.setdefault(name, info.created)
        self.note(name, info.state.last_seq)

    def change(self, infos: Mapping[str, StreamInfo | None]) -> Change | None:
        """Return how the server's streams differ from those seen; None if they are the same.

        Args:
            infos: the streams of `streams`, as the server describes them now; None: the stream is missing. Those that
                this user can't ask for are left out.
        """
        missing = [name for name, info in infos.items() if info is None]
        if missing:
            if len(missing) == len(infos):
                return Change("emptied", "it was emptied")
            return Change("older", f"its stream {missing[0]} is missing")
        found = {name: info for name, info in infos.items() if info is not None}
        if any(self._created.get(name, info.created) != info.created for name, info in found.items()):
            return Change("another", "it was emptied, or is another one")
        older = [info for name, info in found.items() if info.state.last_seq < self._last.get(name, 0)]
        return Change("older", _describe_older(max(info.state.last_ts for info in older))) if older else None


def _describe_older(last_ts: str) -> str:
    """Describe a store that was restored from an earlier copy, whose newest message is of this time (RFC 3339)."""
    if last_ts.startswith(_NEVER):
        return "it is older, from before the first message"
    return f"it is older, and what was written after {_readable(last_ts)} is gone"


def _readable(timestamp: str) -> str:
    """Return a time to the second; JetStream's have nanoseconds, which `datetime` does not read."""
    return f"{datetime.fromisoformat(timestamp[:19]):%Y-%m-%d %H:%M:%S} UTC"
