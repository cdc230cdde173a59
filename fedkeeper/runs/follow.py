"""Follows one job to its end: shows its progress and saves its results."""

import asyncio
import contextlib
import enum
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live

from broker.errors import BrokerError
from broker.messages.errors import MessageError
from broker.messages.progress import JobCancelled, JobCompleted, JobRejected, Progress
from fedkeeper.display import lines, sentences
from fedkeeper.display.lines import JobLines
from fedkeeper.display.live_view import JobView
from fedkeeper.display.patience import Patience
from fedkeeper.errors import BadOption, FedKeeperError, JobFailed, JobStopped
from fedkeeper.results import Fetched
from fedkeeper.runs import saving
from fedkeeper.runs.interrupt import Interruption
from fedkeeper.runs.recorder import Recorder
from fedkeeper.sdk import Client

LAST_WORDS_S: Final = 10.0
"""How long it may take to save the last model when this program is told to end. Seconds."""


class Detail(enum.Enum):
    """How much is said about a job."""

    RESULT = "only the result, and what fails"
    ROUNDS = "a live view, or a line for each round and for what goes wrong"
    ALL = "every event"

    @classmethod
    def of(cls, *, quiet: bool, verbose: bool) -> "Detail":
        """Return what the options --quiet and --verbose ask for.

        Raises:
            BadOption: both were given.
        """
        if quiet and verbose:
            raise BadOption("--quiet and --verbose exclude each other")
        return cls.RESULT if quiet else cls.ALL if verbose else cls.ROUNDS


async def follow(
    sdk: Client,
    job: str,
    console: Console,
    *,
    folder: Path | None = None,
    detail: Detail = Detail.ROUNDS,
    on_end: Callable[[], None] = lambda: None,
    on_saved: Callable[[Fetched], None] = lambda _: None,
    until: Interruption | None = None,
) -> Path | None:
    """Show a job until it has ended: a live view on a terminal, lines elsewhere. What it has brought is saved.

    Args:
        sdk: the system that runs the job.
        job: the job's id.
        console: where the job is shown.
        folder: where its model, metrics and plot are saved; None: nothing is saved.
        detail: how much is said.
        on_end: called when the job has ended, before its results are saved.
        on_saved: called with what was saved.
        until: ends this before the job has ended, and what it has brought so far is saved; None: nothing does.

    Returns:
        The path of the saved model; None: none was saved.

    Raises:
        JobFailed: the job ended without being completed or cancelled.
        JobStopped: the job was cancelled.
        NoSuchJob: no job has that id.
        BadOption: the folder has the results of another job, or can't be written.
        NotSaved: the results can't be written.
        CorruptPayload: the broker has lost a model.
    """
    recorder = None if folder is None else Recorder(folder)
    try:
        last = await _show(sdk, job, console, detail, recorder=recorder, until=until)
    except asyncio.CancelledError:
        if recorder is not None and recorder.job is not None and until is not None and until.is_told:
            await _save_at_once(sdk, job, recorder, console, on_saved)
        raise
    on_end()
    model = None
    if recorder is not None and last is not None and not isinstance(last.event, JobRejected):
        model = await _save(sdk, job, recorder, console, on_saved)
    if until is None or not until.is_over:
        raise_for_end(job, last)
    return model


async def _show(
    sdk: Client,
    job: str,
    console: Console,
    detail: Detail,
    *,
    recorder: Recorder | None,
    until: Interruption | None,
) -> Progress | None:
    """Show and record a job's events; return the last one."""
    last: Progress | None = None
    with _open_display(job, console, detail) as show:
        async with contextlib.aclosing(_events(sdk, job, console, until)) as events:
            async for progress in events:
                last = progress
                show(progress)
                if recorder is not None:
                    recorder.record(progress)
    return last


async def _events(
    sdk: Client, job: str, console: Console, until: Interruption | None
) -> AsyncGenerator[Progress, None]:
    """Yield a job's events to its end, or to that of the round after which is to be ended."""
    async with contextlib.aclosing(sdk.watch(job, on_reach=reach_notice(console))) as events:
        async for progress in events:
            yield progress
            if until is not None and until.update(progress):
                return


def raise_for_end(job: str, last: Progress | None) -> None:
    """Raise an error unless a job was completed.

    Args:
        job: the job's id.
        last: its last event; None: it had none.

    Raises:
        JobFailed: the job ended without being completed or cancelled.
        JobStopped: the job was cancelled.
    """
    if last is None:
        raise JobFailed(job, "ended without a final event")
    match last.event:
        case JobCompleted():
            pass
        case JobCancelled() as event:
            raise JobStopped(job, sentences.sentence(event))
        case JobRejected() as event:
            raise JobFailed(job, f"was {sentences.sentence(event)}")
        case event:
            raise JobFailed(job, sentences.sentence(event))


@contextlib.contextmanager
def _open_display(job: str, console: Console, detail: Detail) -> Iterator[Callable[[Progress], object]]:
    """Yield what shows each event of a job. A terminal that can't move its cursor gets lines, as a pipe does."""
    is_live = console.is_terminal and not console.is_dumb_terminal
    if detail is Detail.RESULT:
        yield lambda _: None
    elif detail is Detail.ALL:
        yield lambda progress: console.print(lines.full_line(progress), markup=False, soft_wrap=True)
    elif is_live:
        view = JobView(job)
        live = Live(console=console, get_renderable=lambda: view, refresh_per_second=8)
        with live, contextlib.closing(Patience(view.update)) as patience:
            yield patience.take
    else:
        shown = JobLines()

        def show(progress: Progress) -> None:
            for line in shown.take(progress):
                console.print(lines.with_time(line, progress.time_s), markup=False, soft_wrap=True)

        with contextlib.closing(Patience(show)) as patience:
            yield patience.take


def reach_notice(console: Console) -> Callable[[bool], None]:
    """Return a function that prints when the broker is out of reach, and when it answers again."""

    def notice(is_there: bool) -> None:  # noqa: FBT001 (its only argument)
        text = "the broker answers again" if is_there else "the broker is out of reach; waiting for it"
        console.print(text, style="yellow", markup=False)

    return notice


async def _save(
    sdk: Client, job: str, recorder: Recorder, console: Console, on_saved: Callable[[Fetched], None]
) -> Path | None:
    saved = await saving.save(sdk, job, recorder)
    on_saved(saving.fetched(saved.record, recorder.folder, saved.names))
    for line in saved.lines:
        console.print(line, markup=False, soft_wrap=True)
    return recorder.folder / saved.names[0] if saved.names else None


async def _save_at_once(
    sdk: Client, job: str, recorder: Recorder, console: Console, on_saved: Callable[[Fetched], None]
) -> None:
    """Save what there is in a short time. If that fails, this program ends all the same."""
    # A task of its own, because this one is cancelled.
    saved = asyncio.create_task(_save(sdk, job, recorder, console, on_saved), name=f"save {job}")
    try:
        async with asyncio.timeout(LAST_WORDS_S):
            await saved
    except (TimeoutError, BrokerError, MessageError, FedKeeperError) as exc:
        reason = str(exc) or f"it took longer than {LAST_WORDS_S:g} s"
        console.print(f"the last model was not saved: {reason}", style="yellow", markup=False, soft_wrap=True)
