"""What must be true after a fault. Pure: events and counts in, sentences about what is wrong out.

The order of a job's events is three literal tables: of the job, of each round, of each client in a round. An event that
has no entry for the state that the events before it have made is out of order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.messages.progress import (
    FINAL_EVENTS,
    ClientTraining,
    Event,
    JobCompleted,
    Progress,
    RoundCompleted,
    RoundFailed,
    RoundOpened,
    UpdateCounted,
)

Table = Mapping[str, Mapping[str, str]]
"""By state: the state after each event that may come then."""

JOB: Final[Table] = {
    "new": {"job.accepted": "accepted", "job.rejected": "ended"},
    "accepted": {
        "job.waiting": "accepted",
        "job.paused": "accepted",
        "job.started": "running",
        "job.failed": "ended",
        "job.cancelled": "ended",
    },
    "running": {
        "job.waiting": "running",
        "job.paused": "running",
        "round": "running",
        "job.completed": "ended",
        "job.failed": "ended",
        "job.cancelled": "ended",
    },
    "ended": {},
}
"""A job. `round` stands for every event that belongs to a round."""

ROUND: Final[Table] = {
    "not open": {"round.opened": "open"},
    "open": {
        # Once more after a restart, marked as resumed.
        "round.opened": "open",
        "client.training": "open",
        "client.failed": "open",
        "client.refused": "open",
        "client.restored": "open",
        "update.counted": "open",
        "round.quorum": "quorum",
        "round.completed": "completed",
        "round.failed": "failed",
    },
    "quorum": {
        "round.opened": "quorum",
        "client.training": "quorum",
        "client.failed": "quorum",
        "client.refused": "quorum",
        "client.restored": "quorum",
        "update.counted": "quorum",
        "round.completed": "completed",
    },
    "completed": {"model.evaluated": "completed"},
    "failed": {},
}
"""A round."""

CLIENT: Final[Table] = {
    "invited": {
        "client.training": "training",
        "client.refused": "invited",
        "client.restored": "invited",
        "client.failed": "invited",
    },
    "training": {
        # Each attempt trains again.
        "client.training": "training",
        "client.refused": "training",
        "client.restored": "training",
        "client.failed": "training",
        "update.counted": "counted",
    },
    "counted": {
        # A bridge that takes a task over does not know yet that its update is counted.
        "client.training": "counted",
        "client.failed": "counted",
        "client.refused": "counted",
        "client.restored": "counted",
    },
}
"""A client in a round."""

UNREPORTED: Final[Table] = {**CLIENT, "invited": {**CLIENT["invited"], "update.counted": "counted"}}
"""A client whose bridge was stopped before it could report the training: its update comes by itself."""

_ANY_TIME: Final = frozenset({"update.refused"})
"""Events about messages that others publish: they come whenever those do."""


def repeated(events: Sequence[Progress]) -> list[str]:
    """Return a problem for each event that is there more than once."""
    counts = Counter(event.id for event in events)
    return [f"{count} times in the log: {name}" for name, count in counts.items() if count > 1]


def out_of_order(events: Sequence[Progress], *, is_reported: bool = True) -> list[str]:
    """Return a problem for each event of a job that can't come where it stands.

    Args:
        events: the job's log.
        is_reported: bridges could report every training in time.
    """
    clients = _States(CLIENT if is_reported else UNREPORTED, "invited")
    job, rounds, problems = "new", _States(ROUND, "not open"), []
    last_opened = 0
    for event in (each.event for each in events):
        what, round_ = event.what, getattr(event, "round", None)
        if what in _ANY_TIME:
            continue
        following = JOB[job].get("round" if round_ is not None else what)
        if following is None:
            problems.append(f"{what}{_of(event)} where the job was {job}")
        job = following or job
        if round_ is None:
            continue
        if isinstance(event, RoundOpened):
            if round_ < last_opened:
                problems.append(f"round.opened {round_} after that of round {last_opened}")
            last_opened = max(last_opened, round_)
        problems += rounds.step(round_, event)
        if hasattr(event, "client"):
            problems += clients.step((round_, event.client), event)
    return problems


class _States:
    """The states of several things of one kind, by key."""

    def __init__(self, table: Table, first: str) -> None:
        self._table = table
        self._first = first
        self._now: dict[object, str] = {}

    def step(self, key: object, event: Event) -> list[str]:
        state = self._now.get(key, self._first)
        following = self._table[state].get(event.what)
        self._now[key] = following or state
        return [] if following else [f"{event.what}{_of(event)} where that was {state!r}"]


def _of(event: Event) -> str:
    parts = (getattr(event, name, None) for name in ("round", "client"))
    return "".join(f" {part}" for part in parts if part is not None)


def missing(events: Sequence[Progress], *, is_reported: bool = True) -> list[str]:
    """Return a problem for each event that the others imply and that is not there.

    Each completed round needs its first opening, and for each counted client that it has trained and was counted.
    Rounds are numbered without a gap. The job needs one end, as its last event.

    Args:
        events: the job's log.
        is_reported: bridges could report every training in time.
    """
    all_ = [each.event for each in events]
    opened = {event.round for event in all_ if isinstance(event, RoundOpened) and not event.resumed}
    trained = {(event.round, event.client) for event in all_ if isinstance(event, ClientTraining)}
    counted = {(event.round, event.client) for event in all_ if isinstance(event, UpdateCounted)}
    completed = [event for event in all_ if isinstance(event, RoundCompleted)]
    problems = [f"no round.opened {event.round}" for event in completed if event.round not in opened]
    for event in completed:
        keys = {(event.round, client) for client in event.counted}
        problems += [
            f"no client.training {round_} {client}" for round_, client in sorted(keys - trained) if is_reported
        ]
        problems += [f"no update.counted {round_} {client}" for round_, client in sorted(keys - counted)]
    ends = [event for event in all_ if isinstance(event, FINAL_EVENTS)]
    if len(ends) != 1:
        problems.append(f"{len(ends)} ends of the job: {[event.what for event in ends]}")
    elif all_[-1] is not ends[0] and all_[-1].what not in _ANY_TIME:
        problems.append(f"{all_[-1].what}{_of(all_[-1])} after the end of the job")
    return problems + _gaps(all_)


def _gaps(events: Sequence[Event]) -> list[str]:
    """Every round up to the last one that is over must be over itself."""
    over = {event.round for event in events if isinstance(event, RoundCompleted | RoundFailed)}
    problems = [f"no end of round {number}" for number in range(1, max(over, default=0)) if number not in over]
    done = sum(isinstance(event, RoundCompleted) for event in events)
    return problems + [
        f"job.completed says {event.rounds} rounds, and {done} are in the log"
        for event in events
        if isinstance(event, JobCompleted) and event.rounds != done
    ]


def counted_twice(events: Sequence[Progress]) -> list[str]:
    """Return a problem for each client that was counted more than once in a round, whatever the events' ids are."""
    unique = {each.id: each.event for each in events}.values()
    counts = Counter((event.round, event.client) for event in unique if isinstance(event, UpdateCounted))
    problems = [f"counted {n} times: {client} in round {round_}" for (round_, client), n in counts.items() if n > 1]
    for event in unique:
        if isinstance(event, RoundCompleted):
            twice = [client for client, n in Counter(event.counted).items() if n > 1]
            problems += [f"round.completed {event.round} names {client} twice" for client in twice]
    return problems


def lost_updates(events: Sequence[Progress]) -> int:
    """Return how many invited clients are not in a completed round's model."""
    unique = {each.id: each.event for each in events}.values()
    return sum(len(event.missing) for event in unique if isinstance(event, RoundCompleted))


def differences(plain: Sequence[Progress], durable: Sequence[Progress]) -> list[str]:
    """Return a problem for each event that only one of two readers of the same log has seen.

    Args:
        plain: what a replay yielded.
        durable: what a durable consumer got.
    """
    ours, theirs = {event.id for event in plain}, {event.id for event in durable}
    only = ("a durable", "a plain")
    return [
        f"{only[side]} subscriber does not get {name}"
        for side, names in enumerate((ours - theirs, theirs - ours))
        for name in sorted(names)
    ]


LEFT_NOTHING: Final = ("updates", "state", "secrets", "tasks")
"""Families of which nothing of a finished job may be left."""

LEFT_SAME: Final = ("models", "chunks", "rounds")
"""Families of which a finished job may leave as much as an undisturbed one."""


def leftovers(after: Mapping[str, int], undisturbed: Mapping[str, int]) -> list[str]:
    """Return a problem for each family of topics in which a job has left too much.

    Args:
        after: number of messages of the job, by family (the topic's second level).
        undisturbed: the same of a job that nothing disturbed.
    """
    problems = [f"{after[name]} messages are left in fl.{name}" for name in LEFT_NOTHING if after.get(name)]
    for name in LEFT_SAME:
        have, usual = after.get(name, 0), undisturbed.get(name, 0)
        if have > usual:
            problems.append(f"{have} messages are left in fl.{name}; an undisturbed job leaves {usual}")
    return problems


@dataclass(frozen=True)
class Usage:
    """What the system uses while it is idle.

    Attributes:
        consumers: number of consumers at the broker.
        memory_mb: resident memory of the servers and of the bridges, in MB.
    """

    consumers: int
    memory_mb: Mapping[str, float] = field(default_factory=dict)


MEMORY_MB: Final = 60.0
"""By how much a part's memory may grow in a trial: what one more job of this size may need at most, generously. MB."""


def growth(before: Usage, after: Usage) -> list[str]:
    """Return a problem for each use that has grown.

    Args:
        before: the use after the first, undisturbed job.
        after: the use after the trial's last job. Parts that were started anew are compared too.
    """
    problems = []
    if after.consumers > before.consumers:
        problems.append(f"{after.consumers} consumers, before it were {before.consumers}")
    for name, megabytes in after.memory_mb.items():
        earlier = before.memory_mb.get(name)
        if earlier is not None and megabytes > earlier + MEMORY_MB:
            problems.append(f"{name} uses {megabytes:.0f} MB, before it were {earlier:.0f}")
    return problems
