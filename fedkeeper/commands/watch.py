"""The command `fedkeeper watch`: follows one job or all jobs."""

import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from broker.base import Start
from broker.messages.progress import FINAL_EVENTS, Progress
from broker.support import logs
from fedkeeper import completion, files, running
from fedkeeper.display import hints, lines, screen
from fedkeeper.display.lines import JobLines
from fedkeeper.errors import BadOption
from fedkeeper.options import Json, Quiet, Url, Verbose, broker_url, duration_s, url_option
from fedkeeper.results import JobEvent
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import follow
from fedkeeper.runs.follow import Detail
from fedkeeper.sdk import Client, connect

WatchOut = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Also save the job's model, metrics and plot: DIR/<date>-<job>/. Default: not."
    ),
]


@running.command
async def watch(
    job: Annotated[
        str | None,
        typer.Argument(metavar="JOB", autocompletion=completion.job_ids, help="A job's id; none: every job."),
    ] = None,
    url: Url = "",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Of every job: from so long ago on, such as 90s, 10min, 2h, 1d.")
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Of every job: from the oldest event on.")] = False,
    out: WatchOut = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Follow a job from its start to its end; or, until Ctrl-C, what happens from now on to any job."""
    detail, start = Detail.of(quiet=quiet, verbose=verbose), _start(job, since, every=every)
    logs.configure(quiet=True)
    if out is not None:
        if job is None or as_json:
            raise BadOption("--out: give a job, and no --json")
        files.check_folder(out, "--out")
    async with connect(broker_url(url), provision=False) as sdk:
        if job is None and start == "new" and not quiet:
            screen.say("new events of every job; --since 10min or --all: earlier ones too", style="dim")
        if job is not None:
            running.say_when_stopped(hints.goes_on(job, url_option(url)))
        if as_json:
            await _print_json(sdk, job, start)
        elif job is None:
            await _print_lines(sdk, start, detail)
        else:
            folder = None if out is None else run_folder.choose(out, job, (await sdk.job(job)).created_s)
            await follow.follow(
                sdk,
                job,
                screen.console(),
                folder=folder,
                detail=detail,
                on_end=lambda: running.say_when_stopped(hints.has_ended(job, url_option(url))),
            )


def _start(job: str | None, since: str, *, every: bool) -> Start:
    """Return where to begin to read: a job's start, or where the options say.

    Raises:
        BadOption: the options do not go together, or the time is none.
    """
    if job is not None and (since or every):
        raise BadOption("--since and --all are for all jobs; a single job is followed from its start")
    if since and every:
        raise BadOption("--since and --all exclude each other")
    if since:
        return datetime.now(UTC) - timedelta(seconds=duration_s("--since", since))
    return "new" if job is None and not every else "first"


async def _print_json(sdk: Client, job: str | None, start: Start) -> None:
    last: Progress | None = None
    async with contextlib.aclosing(_events(sdk, job, start)) as events:
        async for progress in events:
            last, event = progress, progress.event
            screen.print_json(JobEvent(job=progress.job, what=event.what, time_s=progress.time_s, event=event))
    if job is not None:
        follow.raise_for_end(job, last)


async def _print_lines(sdk: Client, start: Start, detail: Detail) -> None:
    """Print what happens to all jobs, each line with its time and its job."""
    known = {record.id: JobLines(record.job) for record in await sdk.jobs() if not record.has_ended}
    jobs = defaultdict(JobLines, known)
    async with contextlib.aclosing(_events(sdk, None, start)) as events:
        async for progress in events:
            for line in _lines(progress, jobs[progress.job], detail):
                screen.echo(line)


def _events(sdk: Client, job: str | None, start: Start) -> AsyncGenerator[Progress, None]:
    return sdk.watch(job, on_reach=follow.reach_notice(screen.console()), start=start)


def _lines(progress: Progress, shown: JobLines, detail: Detail) -> list[str]:
    if detail is Detail.ALL:
        return [lines.full_line(progress)]
    told = shown.take(progress)
    if detail is Detail.RESULT and not isinstance(progress.event, FINAL_EVENTS):
        return []
    return [lines.with_time(line, progress.time_s, progress.job) for line in told]
