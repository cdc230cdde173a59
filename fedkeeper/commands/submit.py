"""The command `fedkeeper submit`: submits a job to a running system."""

import time
from pathlib import Path
from typing import Annotated

import typer

from broker.support import logs
from fedkeeper import configs, files, running
from fedkeeper.display import hints, screen
from fedkeeper.errors import NotAnswered
from fedkeeper.options import JobFile, Json, Out, Quiet, Set, Url, Verbose, broker_url, url_option
from fedkeeper.results import SubmittedJob
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import follow
from fedkeeper.runs.follow import Detail
from fedkeeper.sdk import connect


@running.command
async def submit(
    job: JobFile,
    overrides: Set = None,
    url: Url = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
    out: Out = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Submit a job and print its id."""
    logs.configure(quiet=not verbose, verbose=verbose)
    detail = Detail.of(quiet=quiet, verbose=verbose)
    spec = configs.read_job(job, tuple(overrides or ()))
    if wait:
        files.check_folder(out, "--out")
    async with connect(broker_url(url)) as sdk:
        try:
            job_id = await sdk.submit(spec)
        except NotAnswered as exc:
            screen.show(SubmittedJob(job=exc.job, accepted=False), exc.job, as_json=as_json)
            if not wait:
                raise
            screen.say(str(exc), style="yellow")
            running.say_when_stopped(f"stopped; the broker keeps job {exc.job} until an FL server runs")
            await sdk.wait_until_accepted(exc.job, spec, submission=exc.submission)
            job_id = exc.job
        else:
            screen.show(SubmittedJob(job=job_id, accepted=True), job_id, as_json=as_json)
        if not wait:
            return
        running.say_when_stopped(hints.goes_on(job_id, url_option(url)))
        await follow.follow(
            sdk,
            job_id,
            screen.console(),
            folder=run_folder.choose(out, job_id, time.time()),
            detail=detail,
            on_saved=lambda saved: screen.print_json(saved) if as_json else None,
            on_end=lambda: running.say_when_stopped(hints.has_ended(job_id, url_option(url))),
        )
