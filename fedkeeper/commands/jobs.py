"""The commands `fedkeeper jobs` and `cancel`: list jobs, and end one."""

import typer

from broker.support import logs
from fedkeeper import measured, running, screen, sizes
from fedkeeper.options import JobId, Url, Verbose, broker_url
from fedkeeper.sdk import connect
from server import retention


@running.command
async def jobs(url: Url = "", verbose: Verbose = False) -> None:
    """List the jobs that the broker knows; with -v, also what each one takes there."""
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
            *((sizes.text(retention.of(record).bytes),) if verbose else ()),
        )
        for record in records
    ]
    screen.print_table(("job", "phase", "rounds", "result", "reason", *(("size",) if verbose else ())), rows)


@running.command
async def cancel(job: JobId, url: Url = "") -> None:
    """Request a job's cancellation."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        await sdk.cancel(job)
    typer.echo(f"requested the cancellation of {job}")
