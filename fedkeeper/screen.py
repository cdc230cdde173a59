"""Shows a job to a person: a live view on a terminal, one line per event elsewhere."""

import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from broker.messages.job import Job
from broker.messages.progress import (
    ClientFailed,
    ClientRefused,
    ClientRestored,
    ClientTraining,
    JobAccepted,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobRejected,
    JobStarted,
    JobWaiting,
    ModelEvaluated,
    Progress,
    RoundCompleted,
    RoundFailed,
    RoundOpened,
    RoundQuorum,
    UpdateCounted,
    UpdateRefused,
)

ROUNDS_SHOWN: Final = 8
WARNINGS_SHOWN: Final = 4

PIPE_COLUMNS: Final = 1000
"""Width of lists where standard output is no terminal: wide enough that nothing is cut."""


@dataclass
class JobView:
    """The live view of one job, updated from its progress events.

    Attributes:
        id: the job's id.
        job: the accepted job; None: not known yet.
        state: the job's state in words.
        parameters: number of the model's parameters; 0: not known yet.
        round: the open round; 0: none was opened yet.
        invited: number of clients in its cohort.
        counted: number of its counted updates.
        training: the clients that train now.
        done: number of completed rounds.
        rounds: the last completed rounds.
        evaluations: the evaluations, by round.
        warnings: the last failures and refusals, as sentences.
    """

    id: str
    job: Job | None = None
    state: str = "submitted"
    parameters: int = 0
    round: int = 0
    invited: int = 0
    counted: int = 0
    training: set[str] = field(default_factory=set)
    done: int = 0
    rounds: deque[RoundCompleted] = field(default_factory=lambda: deque(maxlen=ROUNDS_SHOWN))
    evaluations: dict[int, ModelEvaluated] = field(default_factory=dict)
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=WARNINGS_SHOWN))

    def update(self, progress: Progress) -> None:
        """Process an event of the job."""
        match progress.event:
            case JobAccepted(job=job):
                self.job, self.state = job, "accepted"
            case JobStarted(parameters=parameters):
                self.parameters, self.state = parameters, "running"
            case RoundOpened(round=round_, cohort=cohort):
                self.round, self.invited, self.counted, self.state = round_, len(cohort), 0, "running"
                self.training.clear()
            case ClientTraining(client=client):
                self.training.add(client)
            case UpdateCounted(client=client, counted=counted):
                self.counted = counted
                self.training.discard(client)
            case RoundCompleted() as completed:
                self.done += 1
                self.rounds.append(completed)
            case ModelEvaluated(round=round_) as evaluated:
                self.evaluations[round_] = evaluated
            case RoundFailed() | ClientFailed() | ClientRefused() | ClientRestored() | UpdateRefused() as event:
                self.warnings.append(sentence(event))
            case JobWaiting() | JobCompleted() | JobFailed() | JobCancelled() | JobRejected() as event:
                self.state = sentence(event)

    def render(self) -> RenderableType:
        """Return the view as a rich renderable."""
        parts: list[RenderableType] = [self._header(), self._progress_bars()]
        if self.rounds:
            parts.append(self._rounds_table())
        parts.extend(Text(f"! {warning}", style="yellow") for warning in self.warnings)
        return Group(*parts)

    def _header(self) -> Text:
        text = Text.assemble((self.id, "bold"), "  ", (self.state, "cyan"))
        if self.job is not None:
            data = f"\n{self.job.model.type} on {self.job.data.dataset} ({self.job.data.partition})"
            training = f", {self.job.training.optimizer}, {self.job.cohort.clients} of {self.job.data.clients} clients"
            size = f", {self.parameters:,} parameters" if self.parameters else ""
            text.append(f"{data}{training} per round{size}", style="dim")
        return text

    def _progress_bars(self) -> Table:
        total = self.job.stop.rounds if self.job else None
        grid = Table.grid(padding=(0, 1))
        grid.add_row("rounds", ProgressBar(total=total, completed=self.done, width=40), f"{self.done}/{total or '?'}")
        answered = f"{self.counted}/{self.invited} answered, {len(self.training)} training"
        bar = ProgressBar(total=self.invited or 1, completed=self.counted, width=40)
        grid.add_row(f"round {self.round}", bar, answered)
        return grid

    def _rounds_table(self) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for name in ("round", "accuracy", "loss", "clients", "invoke", "start", "train", "aggregate", "evaluate"):
            table.add_column(name, justify="right")
        for completed in self.rounds:
            table.add_row(*round_row(completed, self.evaluations.get(completed.round)))
        return table


def round_row(completed: RoundCompleted, evaluated: ModelEvaluated | None) -> list[str]:
    """Return the cells of a round's row in the table.

    Args:
        completed: the completed round.
        evaluated: the evaluation of its model; None: its cells show an ellipsis.
    """
    split, missing = completed.split, len(completed.missing)
    clients = f"{len(completed.counted)}" + (f" (-{missing})" if missing else "")
    metrics = ["…", "…"] if evaluated is None else [f"{evaluated.accuracy:.4f}", format_loss(evaluated.loss)]
    times = (split.invocation_s, split.clients_start_s, split.training_s, split.aggregation_s)
    evaluation = "…" if evaluated is None else format_duration(evaluated.evaluation_s)
    return [str(completed.round), *metrics, clients, *map(format_duration, times), evaluation]


def format_loss(loss: float | None) -> str:
    """Return a loss as text; None means that it was not finite."""
    return "not finite" if loss is None else f"{loss:.4f}"


def format_duration(seconds: float) -> str:
    """Return a duration in milliseconds or seconds, with its unit."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def sentence(event: Any) -> str:
    """Return a progress event in words."""
    return _SENTENCES.get(type(event), str)(event)


def log_line(progress: Progress) -> str:
    """Return an event as one line of a log."""
    return f"{progress.job}  {progress.event.what:<17} {sentence(progress.event)}"


def _client_failed(event: ClientFailed) -> str:
    # Attempt 0: the client's bridge has gone, so the client was not invoked.
    client = f"{event.client}, attempt {event.attempt}" if event.attempt else event.client
    return f"{client}: {event.reason}" + ("; given up" if event.final else "; will be invoked again")


_SENTENCES: Final[dict[type, Callable[[Any], str]]] = {
    JobAccepted: lambda e: f"accepted ({e.name})",
    JobWaiting: lambda e: f"waiting: {e.reason}",
    JobStarted: lambda e: f"started: {e.parameters:,} parameters, initial model {e.model.sha256[:12]}",
    JobRejected: lambda e: f"rejected: {e.reason}",
    JobFailed: lambda e: f"failed: {e.reason}",
    JobCancelled: lambda e: f"cancelled after {e.rounds} rounds",
    JobCompleted: lambda e: (
        f"completed: {e.reason}" + ("" if e.accuracy is None else f", test accuracy {e.accuracy:.4f}")
    ),
    RoundOpened: lambda e: f"round {e.round}: {len(e.cohort)} clients invited" + (" (resumed)" if e.resumed else ""),
    RoundQuorum: lambda e: f"round {e.round}: quorum of {e.counted} reached, {e.grace_s:g} s left for the others",
    RoundCompleted: lambda e: (
        f"round {e.round}: {len(e.counted)} updates in {e.split.round_s:.2f} s, model {e.model.sha256[:12]}"
    ),
    RoundFailed: lambda e: f"round {e.round} failed: {e.reason}; {e.policy}",
    ModelEvaluated: lambda e: f"round {e.round}: accuracy {e.accuracy:.4f}, loss {format_loss(e.loss)}",
    ClientFailed: _client_failed,
    ClientRefused: lambda e: f"{e.client}: {e.platform} did not start it: {e.reason}; asked again",
    ClientRestored: lambda e: f"{e.client} on {e.platform}: {e.reason}",
    ClientTraining: lambda e: f"{e.client} trains on {e.platform} as {e.activation}" + (" (cold)" if e.cold else ""),
    UpdateCounted: lambda e: f"{e.client} counted, {e.counted} of {e.of}",
    UpdateRefused: lambda e: f"update refused ({e.code}): {e.reason} [{e.topic}]",
}


def console() -> Console:
    """Return a console on standard error, where progress is shown. Standard output has only results."""
    return Console(stderr=True, highlight=False)


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table on standard output, without cutting any cell.

    Args:
        columns: the columns' names.
        rows: one tuple of cells per row.
    """
    table = Table(box=None, header_style="dim")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
