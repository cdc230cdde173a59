"""Shows a job to a person: a live view on a terminal, one line per event elsewhere."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from broker.messages.job import Job
from broker.messages.job_sections import PIXELS
from broker.messages.progress import (
    ClientFailed,
    ClientRefused,
    ClientRestored,
    ClientTraining,
    JobAccepted,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobPaused,
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
from broker.messages.reports import StartReport
from broker.messages.round import Purpose
from broker.support import texts
from fedkeeper import measured, processors
from fedkeeper.rounds_table import RoundsTable

ROUNDS_SHOWN: Final = 8
WARNINGS_SHOWN: Final = 4
NAMES_SHOWN: Final = 3

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
        start: what was taken of an earlier model, as a sentence; empty: nothing.
        round: the open round; 0: none was opened yet.
        invited: number of clients in its cohort; of those who judge, if nobody trains in it.
        counted: number of their counted updates.
        purpose: what they do.
        training: the clients that train now.
        done: number of completed rounds.
        rounds: the last completed rounds.
        evaluations: the server's evaluations, by round.
        judgements: the clients' evaluations, by round.
        warnings: the last failures and refusals, as sentences.
    """

    id: str
    job: Job | None = None
    state: str = "submitted"
    parameters: int = 0
    start: str = ""
    round: int = 0
    invited: int = 0
    counted: int = 0
    purpose: Purpose = "train"
    training: set[str] = field(default_factory=set)
    done: int = 0
    rounds: deque[RoundCompleted] = field(default_factory=lambda: deque(maxlen=ROUNDS_SHOWN))
    evaluations: dict[int, ModelEvaluated] = field(default_factory=dict)
    judgements: dict[int, ModelEvaluated] = field(default_factory=dict)
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=WARNINGS_SHOWN))

    def update(self, progress: Progress) -> None:
        """Process an event of the job."""
        match progress.event:
            case JobAccepted(job=job):
                self.job, self.state = job, "accepted"
            case JobStarted(parameters=parameters, start=start):
                self.parameters, self.state = parameters, "running"
                self.start = "" if start is None else _start(start)
            case RoundOpened(round=round_, cohort=cohort, evaluators=evaluators):
                self.round, self.invited, self.counted, self.state = round_, len(cohort or evaluators), 0, "running"
                self.purpose = "train" if cohort else "evaluate"
                self.training.clear()
            case ClientTraining(client=client):
                self.training.add(client)
            case UpdateCounted(client=client, counted=counted, purpose=purpose):
                self.counted = counted if purpose == self.purpose else self.counted
                self.training.discard(client)
            case RoundCompleted() as completed:
                self.done += 1
                self.rounds.append(completed)
            case ModelEvaluated(round=round_) as evaluated:
                (self.judgements if evaluated.by == "clients" else self.evaluations)[round_] = evaluated
            case RoundFailed() | ClientFailed() | ClientRefused() | ClientRestored() | UpdateRefused() as event:
                self.warnings.append(sentence(event))
            case JobWaiting() | JobPaused() | JobCompleted() | JobFailed() | JobCancelled() | JobRejected() as event:
                self.state = sentence(event)

    def render(self) -> RenderableType:
        """Return the view as a rich renderable."""
        parts: list[RenderableType] = [self._header(), self._progress_bars()]
        if self.rounds:
            parts.append(RoundsTable(self.rounds, self.job, self.evaluations, self.judgements))
        parts.extend(Text(f"! {warning}", style="yellow") for warning in self.warnings)
        return Group(*parts)

    def _header(self) -> Text:
        text = Text.assemble((self.id, "bold"), "  ", (self.state, "cyan"))
        if self.job is not None:
            learner = self.job.learner.type or self.job.model.type
            partition = f" ({self.job.data.partition})" if self.job.data.dataset in PIXELS else ""
            data = f"\n{learner} on {self.job.data.dataset}{partition}"
            training = f", {self.job.training.optimizer}, {self.job.cohort.clients} of {self.job.data.clients} clients"
            size = f", {self.parameters:,} parameters" if self.parameters else ""
            text.append(f"{data}{training} per round{size}", style="dim")
        if self.start:
            text.append(f"\nfrom {self.start}", style="dim")
        return text

    def _progress_bars(self) -> Table:
        total = self.job.stop.rounds if self.job else None
        grid = Table.grid(padding=(0, 1))
        grid.add_row("rounds", ProgressBar(total=total, completed=self.done, width=40), f"{self.done}/{total or '?'}")
        answered = f"{self.counted}/{self.invited} answered, {len(self.training)} training"
        bar = ProgressBar(total=self.invited or 1, completed=self.counted, width=40)
        grid.add_row(f"round {self.round}", bar, answered)
        return grid


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


def _opened(event: RoundOpened) -> str:
    numbers = (len(event.cohort), "clients invited"), (len(event.evaluators), "clients asked to judge")
    text = ", ".join(f"{number} {what}" for number, what in numbers if number)
    return f"round {event.round}: {text}" + (" (resumed)" if event.resumed else "")


def _completed(event: JobCompleted) -> str:
    text = f"completed: {event.reason}"
    if event.accuracy is not None:
        text += f", test accuracy {event.accuracy:.4f}"
    elif event.metrics:
        text += f", {measured.describe(event.metrics)}"
    if event.best_round is not None:
        text += f"; the best model is that of round {event.best_round}"
    kinds = processors.describe(event.processors)
    return text + (f"; trained on {kinds}" if kinds else "")


def _evaluated(event: ModelEvaluated) -> str:
    metrics = measured.metrics_of(event)
    text = measured.describe(metrics, measured.names(None, metrics))
    if "loss" not in metrics and (loss := measured.format_loss(event)):
        text += f", loss {loss}"
    if event.by == "server":
        return f"round {event.round}: {text}"
    if event.reason:
        return f"round {event.round}, not judged by clients: {event.reason}"
    worst = measured.describe({name: spread.worst_decile for name, spread in event.spread.items()})
    left = ", ".join(f"{name} by {clients}" for name, clients in event.left_out.items())
    return (
        f"round {event.round}, judged by {event.clients} clients on {event.samples} held-out samples: {text}"
        + (f"; worst tenth of the clients: {worst}" if worst else "")
        + (f"; not measurable: {left}" if left else "")
    )


def _start(start: StartReport) -> str:
    total = len(start.matched) + len(start.reshaped) + len(start.missing)
    text = f"{start.source}: {len(start.matched)} of {total} tensors"
    for names, reason in (
        (start.missing, "not there"),
        (start.reshaped, "of another shape or dtype there"),
        (start.unused, "there but not used"),
    ):
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            text += f"; {reason}: {', '.join(names[:NAMES_SHOWN])}{more}"
    return text


_SENTENCES: Final[dict[type, Callable[[Any], str]]] = {
    JobAccepted: lambda e: f"accepted ({e.name})",
    JobWaiting: lambda e: f"waiting: {e.reason}",
    JobPaused: lambda e: f"paused: {e.reason}",
    JobStarted: lambda e: (
        f"started: {e.parameters:,} parameters, initial model {e.model.sha256[:12]}"
        + ("" if e.start is None else f" from {_start(e.start)}")
    ),
    JobRejected: lambda e: f"rejected: {e.reason}",
    JobFailed: lambda e: f"failed: {e.reason}",
    JobCancelled: lambda e: f"cancelled after {e.rounds} rounds",
    JobCompleted: _completed,
    RoundOpened: _opened,
    RoundQuorum: lambda e: f"round {e.round}: quorum of {e.counted} reached, {e.grace_s:g} s left for the others",
    RoundCompleted: lambda e: (
        f"round {e.round}: {len(e.counted)} updates in {e.split.round_s:.2f} s, model {e.model.sha256[:12]}"
    ),
    RoundFailed: lambda e: f"round {e.round} failed: {e.reason}; {e.policy}",
    ModelEvaluated: _evaluated,
    ClientFailed: _client_failed,
    ClientRefused: lambda e: f"{e.client}: {e.platform} did not start it: {e.reason}; asked again",
    ClientRestored: lambda e: f"{e.client} on {e.platform}: {e.reason}",
    ClientTraining: lambda e: f"{e.client} trains on {e.platform} as {e.activation}" + (" (cold)" if e.cold else ""),
    UpdateCounted: lambda e: f"{e.client} {'counted' if e.purpose == 'train' else 'has judged'}, {e.counted} of {e.of}",
    UpdateRefused: lambda e: f"update refused ({e.code}): {e.reason} [{e.topic}]",
}


class SafeConsole(Console):
    """A console that shows control characters instead of obeying them.

    What it prints was partly written by strangers: reasons, labels, names of metrics, addresses.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable. rich's own control codes are not part of their text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(texts.cleaned(segment.text), segment.style)


def console() -> Console:
    """Return a console on standard error, where progress is shown. Standard output has only results."""
    return SafeConsole(stderr=True, highlight=False)


def say(text: str, *, style: str = "") -> None:
    """Print a sentence on standard error, not wrapped, so that addresses and commands in it can be copied.

    Args:
        text: the sentence; nothing in it is markup.
        style: a style of rich.
    """
    console().print(text, style=style or None, markup=False, soft_wrap=True)


def echo(text: str) -> None:
    """Print a line on standard output, with its control characters shown."""
    typer.echo(texts.cleaned(text))


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
        # Cleaned before their width is measured, and not as str, in which rich reads square brackets as markup.
        table.add_row(*(Text(texts.cleaned(cell)) for cell in row))
    SafeConsole(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
