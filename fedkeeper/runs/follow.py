"""Follows one job to its end: shows its progress and saves its results."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live

from broker.errors import BrokerError
from broker.messages.progress import FINAL_EVENTS, JobCompleted, JobRejected, Progress
from fedkeeper import screen
from fedkeeper.errors import FedKeeperError
from fedkeeper.runs import saving
from fedkeeper.runs.interrupt import Interruption
from fedkeeper.runs.recorder import Recorder
from fedkeeper.screen import JobView
from fedkeeper.sdk import Client

LAST_WORDS_S: Final = 10.0
"""How long it may take to save the last model when this program is told to end. Seconds."""


async def follow(
    sdk: Client, job: str, console: Console, *, folder: Path | None = None, until: Interruption | None = None
) -> None:
    """Show a job until it has ended: a live view on a terminal, one line per event elsewhere.

    What it has brought is saved however it ends, and also if this program is told to end.

    Args:
        sdk: the system that runs the job.
        job: the job's id.
        console: where the job is shown.
        folder: where its model, metrics and plot are saved; None: nothing is saved.
        until: ends this before the job has ended; None: nothing does.

    Raises:
        FedKeeperError: the job ended without being completed.
        NotSaved: the results can't be written.
    """
    recorder = None if folder is None else Recorder(folder)
    try:
        last = await _show(sdk, job, console, recorder, until)
    except asyncio.CancelledError:
        if recorder is not None and recorder.job is not None and until is not None and until.is_told:
            await _save_at_once(sdk, job, recorder, console)
        raise
    if recorder is not None and last is not None and not isinstance(last.event, JobRejected):
        _print(console, (await saving.save(sdk, job, recorder)).lines)
    if until is not None and until.is_over:
        return
    if last is None or not isinstance(last.event, JobCompleted):
        outcome = "ended without a final event" if last is None else screen.sentence(last.event)
        raise FedKeeperError(f"job {job} {outcome}")


async def _show(
    sdk: Client, job: str, console: Console, recorder: Recorder | None, until: Interruption | None
) -> Progress | None:
    """Show and record a job's events until its end, or until the end of the round after which is to be ended."""
    view = JobView(job)
    last: Progress | None = None
    live = Live(console=console, get_renderable=view.render, refresh_per_second=8)
    with live if console.is_terminal else nullcontext():
        async with aclosing(sdk.watch(job, on_reach=reach_notice(console))) as events:
            async for progress in events:
                last = progress
                view.update(progress)
                if recorder is not None:
                    recorder.record(progress)
                if not console.is_terminal:
                    console.print(screen.log_line(progress), markup=False, soft_wrap=True)
                if until is not None and until.update(progress) and not isinstance(progress.event, FINAL_EVENTS):
                    break
    return last


async def _save_at_once(sdk: Client, job: str, recorder: Recorder, console: Console) -> None:
    """Save what there is in a short time. If that fails, this program ends all the same."""
    try:
        async with asyncio.timeout(LAST_WORDS_S):
            _print(console, (await saving.save(sdk, job, recorder)).lines)
    except (TimeoutError, BrokerError, FedKeeperError) as exc:
        reason = str(exc) or f"it took longer than {LAST_WORDS_S:g} s"
        console.print(f"the last model was not saved: {reason}", style="yellow", markup=False, soft_wrap=True)


def _print(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def reach_notice(console: Console) -> Callable[[bool], None]:
    """Return a function that prints when the broker is out of reach, and when it answers again."""

    def notice(is_there: bool) -> None:  # noqa: FBT001 (its only argument)
        text = "the broker answers again" if is_there else "the broker is out of reach; waiting for it"
        console.print(text, style="yellow", markup=False)

    return notice
