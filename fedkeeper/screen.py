"""What a person sees of a job: a live view on a terminal, a line per event elsewhere."""

import sys
from collections import deque
from collections.abc import Sequence
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
NOTES_SHOWN: Final = 4


@dataclass
class JobView:
    """What is known of one job, from its events."""

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
    judged: dict[int, ModelEvaluated] = field(default_factory=dict)
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=NOTES_SHOWN))

    def note(self, said: Progress) -> None:
        """Take an event into account."""
        match said.event:
            case JobAccepted(wanted=job):
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
                self.judged[round_] = evaluated
            case event:
                self._note_rare(event)

    def _note_rare(self, event: object) -> None:
        match event:
            case JobWaiting(reason=reason):
                self.state = f"waiting: {reason}"
            case RoundFailed() | ClientFailed() | ClientRefused() | ClientRestored() | UpdateRefused():
                self.notes.append(sentence(event))
            case JobCompleted() | JobFailed() | JobCancelled() | JobRejected():
                self.state = sentence(event)
            case _:
                pass

    def render(self) -> RenderableType:
        """The view as it is now."""
        parts: list[RenderableType] = [self._head(), self._bars()]
        if self.rounds:
            parts.append(self._table())
        parts.extend(Text(f"! {note}", style="yellow") for note in self.notes)
        return Group(*parts)

    def _head(self) -> Text:
        text = Text.assemble((self.id, "bold"), "  ", (self.state, "cyan"))
        if self.job is not None:
            what = f"\n{self.job.model.type} on {self.job.data.dataset} ({self.job.data.partition})"
            how = f", {self.job.training.optimizer}, {self.job.cohort.clients} of {self.job.data.clients} clients"
            size = f", {self.parameters:,} parameters" if self.parameters else ""
            text.append(f"{what}{how} per round{size}", style="dim")
        return text

    def _bars(self) -> Table:
        total = self.job.stop.rounds if self.job else None
        grid = Table.grid(padding=(0, 1))
        grid.add_row("rounds", ProgressBar(total=total, completed=self.done, width=40), f"{self.done}/{total or '?'}")
        answered = f"{self.counted}/{self.invited} answered, {len(self.training)} training"
        bar = ProgressBar(total=self.invited or 1, completed=self.counted, width=40)
        grid.add_row(f"round {self.round}", bar, answered)
        return grid

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for name in ("round", "accuracy", "loss", "clients", "invoke", "start", "train", "aggregate", "evaluate"):
            table.add_column(name, justify="right")
        for completed in self.rounds:
            table.add_row(*cells(completed, self.judged.get(completed.round)))
        return table


def cells(completed: RoundCompleted, evaluated: ModelEvaluated | None) -> list[str]:
    """A round as a row of the table; times in milliseconds or seconds."""
    split, missing = completed.split, len(completed.missing)
    clients = f"{len(completed.counted)}" + (f" (-{missing})" if missing else "")
    judged = ["…", "…"] if evaluated is None else [f"{evaluated.accuracy:.4f}", number(evaluated.loss)]
    times = (split.invocation_s, split.clients_start_s, split.training_s, split.aggregation_s)
    evaluation = "…" if evaluated is None else duration(evaluated.evaluation_s)
    return [str(completed.round), *judged, clients, *map(duration, times), evaluation]


def number(value: float | None) -> str:
    """A loss, which may not be finite."""
    return "not finite" if value is None else f"{value:.4f}"


def duration(seconds: float) -> str:
    """Readable at a glance."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def sentence(event: Any) -> str:
    """An event in words."""
    match event:
        case JobAccepted(name=name):
            return f"accepted ({name})"
        case JobWaiting(reason=reason):
            return f"waiting: {reason}"
        case JobStarted(parameters=parameters, model=model):
            return f"started: {parameters:,} parameters, initial model {model.sha256[:12]}"
        case JobRejected(reason=reason):
            return f"rejected: {reason}"
        case JobFailed(reason=reason):
            return f"failed: {reason}"
        case JobCancelled(rounds=rounds):
            return f"cancelled after {rounds} rounds"
        case JobCompleted(reason=reason, accuracy=accuracy):
            return f"completed: {reason}" + ("" if accuracy is None else f", test accuracy {accuracy:.4f}")
        case _:
            return _round_sentence(event)


def _round_sentence(event: Any) -> str:
    match event:
        case RoundOpened(round=round_, cohort=cohort):
            return f"round {round_}: {len(cohort)} clients invited" + (" (resumed)" if event.resumed else "")
        case RoundQuorum(round=round_, counted=counted, grace_s=grace_s):
            return f"round {round_}: quorum of {counted} reached, {grace_s:g} s left for the others"
        case RoundCompleted(round=round_, counted=counted, split=split, model=model):
            return f"round {round_}: {len(counted)} updates in {split.round_s:.2f} s, model {model.sha256[:12]}"
        case RoundFailed(round=round_, reason=reason, policy=policy):
            return f"round {round_} failed: {reason}; {policy}"
        case ModelEvaluated(round=round_, accuracy=accuracy, loss=loss):
            return f"round {round_}: accuracy {accuracy:.4f}, loss {number(loss)}"
        case _:
            return _client_sentence(event)


def _client_sentence(event: Any) -> str:
    match event:
        case ClientFailed(client=client, reason=reason, final=final, attempt=attempt):
            # A client whose bridge has gone was not invoked at all.
            which = f"{client}, attempt {attempt}" if attempt else client
            return f"{which}: {reason}" + ("; given up" if final else "; will be invoked again")
        case ClientRefused(client=client, platform=platform, reason=reason):
            return f"{client}: {platform} did not start it: {reason}; asked again"
        case ClientRestored(client=client, platform=platform, reason=reason):
            return f"{client} on {platform}: {reason}"
        case UpdateRefused(topic=topic, code=code, reason=reason):
            return f"update refused ({code}): {reason} [{topic}]"
        case ClientTraining(client=client, platform=platform, activation=activation, cold=cold):
            return f"{client} trains on {platform} as {activation}" + (" (cold)" if cold else "")
        case UpdateCounted(client=client, counted=counted, of=of):
            return f"{client} counted, {counted} of {of}"
        case _:
            return str(event)


def line(said: Progress) -> str:
    """An event as one line of a log."""
    return f"{said.job}  {said.event.what:<17} {sentence(said.event)}"


def console() -> Console:
    """Where progress is shown: standard error, so that standard output holds results alone."""
    return Console(stderr=True, highlight=False)


WIDE: Final = 1000
"""Columns where no terminal says how many there are: a list in a pipe is not to be cut."""


def show_list(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a list on standard output; nothing of it is ever cut off."""
    table = Table(box=None, header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, width=None if sys.stdout.isatty() else WIDE).print(table)
