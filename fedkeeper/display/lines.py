"""A job's progress as lines, where there is no live view: one for each round, and one for whatever went wrong."""

import time
from dataclasses import dataclass, field
from typing import Final

from broker.messages.job import Job
from broker.messages.progress import (
    FINAL_EVENTS,
    ClientFailed,
    ClientRefused,
    ClientRestored,
    JobAccepted,
    JobPaused,
    JobStarted,
    JobWaiting,
    ModelEvaluated,
    Progress,
    RoundCompleted,
    RoundFailed,
    UpdateRefused,
)
from fedkeeper.display import measured, sentences
from fedkeeper.display.units import format_duration

WARNINGS: Final = (ClientFailed, ClientRefused, ClientRestored, RoundFailed, UpdateRefused, JobPaused)
"""What a person wants to know of at once."""

_SHOWN: Final = (JobAccepted, JobStarted, JobWaiting, *WARNINGS, *FINAL_EVENTS)


@dataclass
class JobLines:
    """The lines of one job.

    A round's line is there when its evaluation is: together they are what a person compares rounds by.

    Attributes:
        job: the job as accepted; None: not known.
    """

    job: Job | None = None
    _completed: RoundCompleted | None = None
    _evaluations: dict[str, ModelEvaluated] = field(default_factory=dict)

    def take(self, progress: Progress) -> list[str]:
        """Process an event, and return the lines that follow from it."""
        event = progress.event
        match event:
            case JobAccepted(job=job):
                self.job = job
            case RoundCompleted():
                before, self._completed = self._round_line(), event
                return before if self._is_judged else before + self._round_line()
            case ModelEvaluated(round=round_) if self._completed is not None and round_ == self._completed.round:
                self._evaluations[event.by] = event
                is_by_server = self.job is None or bool(self.job.test_data)
                return self._round_line() if (event.by == "server") == is_by_server else []
        line = [sentences.sentence(event)] if isinstance(event, _SHOWN) else []
        return (self._round_line() if isinstance(event, FINAL_EVENTS) else []) + line

    @property
    def _is_judged(self) -> bool:
        return self.job is None or bool(self.job.test_data) or self.job.is_judged_by_clients

    def _round_line(self) -> list[str]:
        """Return the line of the completed round that has none yet; none if there is no such round."""
        completed, evaluations = self._completed, self._evaluations
        if completed is None:
            return []
        self._completed, self._evaluations = None, {}
        found = evaluations.get("server") or evaluations.get("clients")
        metrics = {} if found is None else measured.metrics_of(found)
        first = measured.names(self.job, metrics)
        values = {name: metrics[name] for name in (*first, "loss") if name in metrics}
        trained = measured.training(completed.metrics)
        missing = f" ({len(completed.missing)} missing)" if completed.missing else ""
        total = "" if self.job is None else f" of {self.job.stop.rounds}"
        parts = [
            measured.describe(values, first),
            "" if values or trained is None else f"train {trained[0]} {measured.format_value(trained[1])}",
            f"{len(completed.counted)} clients{missing}",
            format_duration(completed.split.round_s),
        ]
        return [f"round {completed.round}{total}: {', '.join(part for part in parts if part)}"]


def with_time(line: str, time_s: float, job: str = "") -> str:
    """Return a line with the time of day before it, as this machine's clock shows it.

    Args:
        line: the line.
        time_s: when it happened, in seconds since the epoch.
        job: the job's id; empty: all lines are of one job.
    """
    parts = time.strftime("%H:%M:%S", time.localtime(time_s)), job, line
    return "  ".join(part for part in parts if part)


def full_line(progress: Progress) -> str:
    """Return an event as one line of a log that has all events: its time, its job, its name and what it says."""
    event = progress.event
    return with_time(f"{event.what:<17} {sentences.sentence(event)}", progress.time_s, progress.job)
