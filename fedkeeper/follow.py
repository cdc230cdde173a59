"""Follows one job to its end: shows it, writes it down, keeps its model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from broker.messages.progress import JobCancelled, JobCompleted, Progress
from fedkeeper import plot, screen
from fedkeeper.errors import JobLost, Missing
from fedkeeper.recorder import Recorder
from fedkeeper.screen import JobView
from fedkeeper.sdk import Client


async def follow(fabric: Client, job: str, console: Console, *, folder: Path | None = None) -> None:
    """Show a job until it has ended.

    Args:
        fabric: where it runs.
        job: its id.
        console: where to show it.
        folder: where to leave its model, metrics and plot; None: nowhere.

    Raises:
        JobLost: it was not completed.
    """
    view, recorder = JobView(job), None if folder is None else Recorder(folder)
    last: Progress | None = None
    with _shown(view, console):
        async for said in fabric.watch(job):
            last = said
            view.note(said)
            if recorder is not None:
                recorder.note(said)
            if not console.is_terminal:
                console.print(screen.line(said), markup=False, soft_wrap=True)
    if recorder is not None and last is not None and isinstance(last.event, JobCompleted | JobCancelled):
        await _leave(fabric, job, recorder, console)
    if last is None or not isinstance(last.event, JobCompleted):
        raise JobLost(job, "ended without a word" if last is None else screen.sentence(last.event))


@contextmanager
def _shown(view: JobView, console: Console) -> Iterator[None]:
    """A live view on a terminal; elsewhere the caller prints a line per event."""
    if not console.is_terminal:
        yield
        return
    with Live(console=console, get_renderable=view.render, refresh_per_second=8):
        yield


async def _leave(fabric: Client, job: str, recorder: Recorder, console: Console) -> None:
    record = await fabric.job(job)
    if record.model is None or not recorder.rounds:
        return
    recorder.keep_model(await fabric.model(job))
    folder, files = recorder.folder, "model.safetensors  metrics.jsonl  clients.jsonl  job.toml"
    try:
        plot.plot([folder], folder / "accuracy.png")
        files += "  accuracy.png"
    except Missing as exc:
        console.print(f"no plot: {exc}", style="yellow", markup=False)
    accuracy = "not evaluated" if record.accuracy is None else f"{record.accuracy:.4f}"
    console.print(f"\n[bold]{job}[/]: {record.done} rounds, test accuracy {accuracy}")
    console.print(f"model digest  {record.model.sha256}", markup=False)
    console.print(f"written to    {folder}/  ({files})", markup=False, soft_wrap=True)
