"""Follows one job to its end: shows its progress and saves its results."""

import contextlib
import enum
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from broker.messages.progress import JobCancelled, JobCompleted, Progress
from fedkeeper.display import lines, sentences
from fedkeeper.display.lines import JobLines
from fedkeeper.display.live_view import JobView
from fedkeeper.errors import BadOption, JobFailed, JobStopped, Missing
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import plot, summary
from fedkeeper.runs.recorder import Recorder
from fedkeeper.sdk import Client


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
) -> None:
    """Show a job until it has ended: a live view on a terminal, lines elsewhere.

    Args:
        sdk: the system that runs the job.
        job: the job's id.
        console: where the job is shown.
        folder: where its model, metrics and plot are saved; None: nothing is saved.
        detail: how much is said.
        on_end: called when the job has ended, before its results are saved.

    Raises:
        JobFailed: the job ended without being completed or cancelled.
        JobStopped: the job was cancelled.
    """
    recorder = None if folder is None else Recorder(folder)
    last: Progress | None = None
    with _open_display(job, console, detail) as show:
        async for progress in sdk.watch(job, on_reach=reach_notice(console)):
            last = progress
            show(progress)
            if recorder is not None:
                recorder.record(progress)
    on_end()
    if recorder is not None and last is not None and isinstance(last.event, JobCompleted | JobCancelled):
        await _save_results(sdk, job, recorder, console)
    raise_for_end(job, last)


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
        with Live(console=console, get_renderable=lambda: view, refresh_per_second=8):
            yield view.update
    else:
        shown = JobLines()

        def show(progress: Progress) -> None:
            for line in shown.take(progress):
                console.print(lines.with_time(line, progress.time_s), markup=False, soft_wrap=True)

        yield show


def reach_notice(console: Console) -> Callable[[bool], None]:
    """Return a function that prints when the broker is out of reach, and when it answers again."""

    def notice(is_there: bool) -> None:  # noqa: FBT001 (its only argument)
        text = "the broker answers again" if is_there else "the broker is out of reach; waiting for it"
        console.print(text, style="yellow", markup=False)

    return notice


async def _save_results(sdk: Client, job: str, recorder: Recorder, console: Console) -> None:
    record = await sdk.job(job)
    if record.model is None or not recorder.rounds:
        return
    run_folder.mark_latest(recorder.folder)
    folder, files = recorder.folder, ["model.safetensors", "metrics.jsonl", "clients.jsonl", "job.toml"]
    recorder.save_model(await sdk.model(job))
    if record.best is not None:
        recorder.save_model(await sdk.model(job, "best"), "best.safetensors")
        files.insert(1, "best.safetensors")
    try:
        files.append(plot.plot([folder], folder / plot.default_name(recorder.rounds, recorder.job)).name)
    except Missing as exc:
        console.print(f"no plot: {exc}", style="yellow", markup=False)
    for line in summary.lines(record, recorder.rounds):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"written to    {folder}/  ({'  '.join(files)})", markup=False, soft_wrap=True)
