"""The command `fedkeeper submit`: submits a job to a running system."""

import time
from pathlib import Path
from typing import Annotated

import typer

from broker.support import logs
from fedkeeper import configs, running, screen
from fedkeeper.errors import NotAnswered
from fedkeeper.options import JobFile, Out, Set, Url, broker_url
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import follow
from fedkeeper.sdk import connect


@running.command
async def submit(
    job: JobFile,
    overrides: Set = None,
    url: Url = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
    out: Out = Path("runs"),
) -> None:
    """Submit a job and print its id."""
    logs.configure(quiet=True)
    spec = configs.read_job(job, tuple(overrides or ()))
    async with connect(broker_url(url)) as sdk:
        try:
            job_id = await sdk.submit(spec)
        except NotAnswered as exc:
            typer.echo(exc.job)
            if not wait:
                raise
            screen.say(str(exc), style="yellow")
            await sdk.wait_until_accepted(exc.job, spec, submission=exc.submission)
            job_id = exc.job
        else:
            typer.echo(job_id)
        if wait:
            await follow.follow(sdk, job_id, screen.console(), folder=run_folder.choose(out, job_id, time.time()))
