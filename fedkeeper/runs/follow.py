"""Follows one job to its end: shows its progress and saves its results."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.live import Live

from broker.messages.progress import JobCancelled, JobCompleted, Progress
from fedkeeper import screen
from fedkeeper.errors import JobFailed, JobStopped, Missing
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import plot, summary
from fedkeeper.runs.recorder import Recorder
from fedkeeper.screen import JobView
from fedkeeper.sdk import Client


async def follow(sdk: Client, job: str, console: Console, *, folder: Path | None = None) -> None:
    """Show a job until it has ended: a live view on a terminal, one line per event elsewhere.

    Args:
        sdk: the system that runs the job.
        job: the job's id.
        console: where the job is shown.
        folder: where its model, metrics and plot are saved; None: nothing is saved.

    Raises:
        JobFailed: the job ended without being completed or cancelled.
        JobStopped: the job was cancelled.
    """
    view, recorder = JobView(job), None if folder is None else Recorder(folder)
    last: Progress | None = None
    live = Live(console=console, get_renderable=view.render, refresh_per_second=8)
    with live if console.is_terminal else nullcontext():
        async for progress in sdk.watch(job, on_reach=reach_notice(console)):
            last = progress
            view.update(progress)
            if recorder is not None:
                recorder.record(progress)
            if not console.is_terminal:
                console.print(screen.log_line(progress), markup=False, soft_wrap=True)
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
            raise JobStopped(job, screen.sentence(event))
        case event:
            raise JobFailed(job, screen.sentence(event))


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
        files.append(plot.plot([folder], folder / plot.default_name(recorder.rounds)).name)
    except Missing as exc:
        console.print(f"no plot: {exc}", style="yellow", markup=False)
    for line in summary.lines(record, recorder.rounds):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"written to    {folder}/  ({'  '.join(files)})", markup=False, soft_wrap=True)
