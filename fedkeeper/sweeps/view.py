"""Shows a sweep to a person: a line for each run that has ended, and a bar on a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from broker.messages import progress as events
from fedkeeper.display import measured, units
from fedkeeper.runs import metric
from fedkeeper.runs.recorder import Recorder
from fedkeeper.runs.stored import Ended
from fedkeeper.sweeps.plan import PlannedRun


@dataclass
class SweepView:
    """The progress of a sweep, as a context manager.

    Attributes:
        console: where it is shown.
        runs: the runs that are to be done now.
        total: number of runs of the whole sweep.
        quiet: whether only runs that fail are told.
        done: number of runs that have ended.
    """

    console: Console
    runs: Sequence[PlannedRun]
    total: int
    quiet: bool = False
    done: int = field(init=False)
    _bar: Progress = field(init=False)
    _task: TaskID = field(init=False)
    _rounds: dict[tuple[int, int], int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.done = self.total - len(self.runs)
        columns = TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[running]} running")
        is_shown = self.console.is_terminal and not self.console.is_dumb_terminal and not self.quiet
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self.console, expand=True, disable=not is_shown)
        rounds = sum(run.job.stop.rounds for run in self.runs)
        self._task = self._bar.add_task(self._description, total=rounds, running=0)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._bar.__exit__(kind, error, traceback)

    def start(self, run: PlannedRun) -> None:
        """Note that a run has begun."""
        self._rounds[run.key] = 0
        self._bar.update(self._task, running=len(self._rounds))

    def update(self, run: PlannedRun, progress: events.Progress) -> None:
        """Process an event of a run's job."""
        if isinstance(progress.event, events.RoundCompleted):
            self._rounds[run.key] += 1
            self._bar.advance(self._task)

    def end(self, run: PlannedRun, ended: Ended, recorder: Recorder) -> None:
        """Show how a run has ended.

        Args:
            run: the run.
            ended: how it has ended.
            recorder: has recorded its rounds.
        """
        self.done += 1
        # A job that ends early has fewer rounds than it was planned for.
        self._bar.advance(self._task, run.job.stop.rounds - self._rounds.pop(run.key))
        self._bar.update(self._task, description=self._description, running=len(self._rounds))
        if ended.phase != "completed" or not self.quiet:
            width = len(str(self.total))
            line = Text(f"[{self.done:{width}}/{self.total}] {run.label}: {_outcome(run, ended, recorder)}")
            # A file gets the whole line.
            is_cut = self.console.is_terminal
            self.console.print(line, no_wrap=is_cut, overflow="ellipsis" if is_cut else "ignore", crop=is_cut)

    @property
    def _description(self) -> str:
        return f"{self.done}/{self.total} runs"


def _outcome(run: PlannedRun, ended: Ended, recorder: Recorder) -> str:
    if ended.phase != "completed":
        return ended.reason if ended.reason.startswith(ended.phase) else f"{ended.phase}: {ended.reason}"
    chosen = metric.choose(run.job, recorder.rounds)
    points = chosen.points(recorder.rounds)
    found = [f"{chosen.name} {measured.format_value(points[-1][1])}"] if points else []
    rounds, seconds = len(recorder.rounds), sum(row["round_s"] for row in recorder.rounds)
    early = [f"{rounds} round{'' if rounds == 1 else 's'}"] if rounds < run.job.stop.rounds else []
    return ", ".join([*found, *early, units.format_duration(seconds)])
