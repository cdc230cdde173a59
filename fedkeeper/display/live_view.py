"""The live view of a job: it never is taller or wider than the screen."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
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
    Event,
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
    UpdateCounted,
    UpdateRefused,
)
from broker.messages.round import Purpose
from fedkeeper.display import sentences
from fedkeeper.display.rounds_table import RoundsTable

ROUNDS_KEPT: Final = 40
WARNINGS_SHOWN: Final = 3

HEADER_LINES: Final = 6
"""Most lines of the header: why a job waits, and what to do, is a long sentence."""

WARNING_LINES: Final = 2
"""Most lines of a failure or refusal. The log has all of it."""

BAR: Final = 40
"""Width of a bar, if the screen has room for it."""

_BESIDE_BAR: Final = 40
"""Columns that the texts beside a bar need."""


@dataclass
class JobView:
    """The live view of one job, updated from its progress events. It is a renderable of rich.

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
    rounds: deque[RoundCompleted] = field(default_factory=lambda: deque(maxlen=ROUNDS_KEPT))
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
                self.start = "" if start is None else sentences.start_sentence(start)
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
            case event:
                self._note(event)

    def _note(self, event: Event) -> None:
        """Process what goes wrong, and what stops the job for a while or for ever."""
        match event:
            case RoundFailed(policy="stop"):
                pass  # the job's reason says all of it
            case RoundFailed() | ClientFailed() | ClientRefused() | ClientRestored() | UpdateRefused():
                self.warnings.append(sentences.sentence(event))
            case JobFailed() | JobRejected():
                # Whoever follows the job says the reason below the view.
                self.state = event.what.partition(".")[2]
            case JobWaiting() | JobPaused() | JobCompleted() | JobCancelled():
                self.state = sentences.sentence(event)
            case _:
                pass

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the view's lines: the newest rounds get what the other parts leave of the screen."""
        # The cursor stands below the view.
        left = console.size.height - 1

        def take(part: RenderableType, most: int) -> list[list[Segment]]:
            nonlocal left
            lines = console.render_lines(part, options.update(height=None), pad=False)[: max(0, min(most, left))]
            left -= len(lines)
            return lines

        lines = take(self._header(), HEADER_LINES) + take(self._progress_bars(options.max_width), 2)
        warnings = [take(Text(f"! {each}", style="yellow"), WARNING_LINES) for each in reversed(self.warnings)]
        shown = list(self.rounds)[-max(0, left - 1) :] if left > 1 else []
        if shown:
            lines += take(RoundsTable(shown, self.job, self.evaluations, self.judgements), left)
        for line in [*lines, *(line for warning in reversed(warnings) for line in warning)]:
            yield from line
            yield Segment.line()

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

    def _progress_bars(self, width: int) -> Table:
        total = self.job.stop.rounds if self.job else None
        bar_width = max(1, min(BAR, width - _BESIDE_BAR))
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=total, completed=self.done, width=bar_width)
        grid.add_row("rounds", bar, f"{self.done}/{total or '?'}")
        answered = f"{self.counted}/{self.invited} answered, {len(self.training)} training"
        bar = ProgressBar(total=self.invited or 1, completed=self.counted, width=bar_width)
        grid.add_row(f"round {self.round}", bar, answered)
        return grid
