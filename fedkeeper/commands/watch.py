"""The command `fedkeeper watch`: follows one job or all jobs."""

from pathlib import Path
from typing import Annotated

import typer

from broker.messages import codec
from broker.support import logs
from fedkeeper import files, running, screen
from fedkeeper.errors import BadOption
from fedkeeper.options import Url, broker_url
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import follow
from fedkeeper.sdk import connect

WatchOut = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Also save the job's model, metrics and plot: OUT/<date>-<job>/. Default: not."
    ),
]


@running.command
async def watch(
    job: Annotated[str | None, typer.Argument(help="A job's id; none: every job.")] = None,
    url: Url = "",
    out: WatchOut = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per event on standard output.")] = False,
) -> None:
    """Follow a job from its start to its end, or every job until Ctrl-C."""
    logs.configure(quiet=True)
    if out is not None:
        if job is None or as_json:
            raise BadOption("--out: give a job, and no --json")
        files.check_folder(out, "--out")
    async with connect(broker_url(url), provision=False) as sdk:
        if job is not None and not as_json:
            folder = None if out is None else run_folder.choose(out, job, (await sdk.job(job)).created_s)
            await follow.follow(sdk, job, screen.console(), folder=folder)
            return
        async for progress in sdk.watch(job, on_reach=follow.reach_notice(screen.console())):
            if as_json:
                event = progress.event
                line = {"job": progress.job, "what": event.what, "time_s": progress.time_s, "event": event}
                screen.echo(codec.encode(line).decode())
            else:
                screen.echo(screen.log_line(progress))
