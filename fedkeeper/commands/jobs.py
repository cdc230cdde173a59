"""The commands `fedkeeper jobs ...`: list jobs, and delete finished ones."""

from typing import Annotated

import typer

from broker.support import logs
from fedkeeper import measured, running, screen
from fedkeeper.options import JobId, Url, broker_url
from fedkeeper.sdk import connect

app = typer.Typer(help="List the jobs that the broker knows; delete finished ones.")

Ids = Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of finished jobs.")]


@app.callback(invoke_without_command=True)
def jobs(context: typer.Context, url: Url = "") -> None:
    """List the jobs that the broker knows."""
    if context.invoked_subcommand is None:
        list_jobs(url)


@running.command
async def list_jobs(url: str) -> None:
    """Print every job's phase, rounds and result."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        records = await sdk.jobs()
    rows = [
        (
            record.id,
            record.phase,
            f"{record.done}/{record.job.stop.rounds}",
            measured.headline(record),
            record.reason,
        )
        for record in records
    ]
    screen.print_table(("job", "phase", "rounds", "result", "reason"), rows)


@app.command("rm")
@running.command
async def remove(jobs: Ids, url: Url = "") -> None:
    """Delete finished jobs: their models, records and events."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        for job in jobs:
            await sdk.remove_job(job)
            typer.echo(f"deleted {job}")


@running.command
async def cancel(job: JobId, url: Url = "") -> None:
    """Request a job's cancellation."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        await sdk.cancel(job)
    typer.echo(f"requested the cancellation of {job}")
