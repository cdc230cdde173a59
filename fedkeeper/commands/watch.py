"""The command `fedkeeper watch`: follows one job or all jobs."""

from typing import Annotated

import typer

from broker.messages import codec
from broker.messages.progress import Progress
from broker.support import logs
from fedkeeper import running, screen
from fedkeeper.options import Url, broker_url
from fedkeeper.runs import follow
from fedkeeper.sdk import connect


@running.command
async def watch(
    job: Annotated[str | None, typer.Argument(help="A job's id; none: every job.")] = None,
    url: Url = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per event on standard output.")] = False,
) -> None:
    """Follow a job from its start to its end, or every job until Ctrl-C."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        if job is not None and not as_json:
            await follow.follow(sdk, job, screen.console())
            return
        last: Progress | None = None
        async for progress in sdk.watch(job, on_reach=follow.reach_notice(screen.console())):
            last = progress
            if as_json:
                event = progress.event
                line = {"job": progress.job, "what": event.what, "time_s": progress.time_s, "event": event}
                screen.echo(codec.encode(line).decode())
            else:
                screen.echo(screen.log_line(progress))
    if job is not None:
        follow.raise_for_end(job, last)
