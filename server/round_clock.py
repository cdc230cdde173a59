"""The time of a round on one server: it decides with a clock that never jumps. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from broker.messages.job_record import JobRecord


@dataclass(frozen=True, slots=True)
class RoundClock:
    """The time of a round on one server: it decides with a clock that never jumps.

    Attributes:
        now_s: returns seconds on that clock, which `JobEvents` uses too.
        opened_s: when the round was opened.
        deadline_s: the round's deadline.
        stored_s: returns the time of an event that the broker stored at a time (seconds since the epoch); None: events
            are as new as when they come.
    """

    now_s: Callable[[], float]
    opened_s: float
    deadline_s: float
    stored_s: Callable[[float], float] | None = None

    @property
    def left_s(self) -> float:
        """Seconds until the round's deadline; negative after it."""
        return self.deadline_s - self.now_s()

    @classmethod
    def of(cls, record: JobRecord, clock: Callable[[], float], timer: Callable[[], float]) -> "RoundClock":
        """Return the time of a round that this server has just opened, or that it goes on with.

        Args:
            record: the job's record while the round is open.
            clock: seconds since the epoch; read once, so that a jump during the round changes nothing.
            timer: seconds on a clock that never jumps.
        """
        now_s = timer()
        opened_s = now_s - max(0.0, clock() - record.opened_s)
        deadline_s = opened_s + record.deadline_s - record.opened_s
        if not record.invited:
            return cls(timer, opened_s, deadline_s)
        return cls(timer, opened_s, deadline_s, lambda time_s: min(opened_s + time_s - record.opened_s, timer()))

    def time_of(self, time_s: float) -> float:
        """Return the time of an event, on the round's clock.

        Args:
            time_s: when the broker stored it, in seconds since the epoch.
        """
        return self.now_s() if self.stored_s is None else self.stored_s(time_s)
