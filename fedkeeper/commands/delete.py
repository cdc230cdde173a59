"""The commands `fedkeeper delete` and `prune`: delete finished jobs from the broker."""

import math
import time
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from broker.support import logs
from fedkeeper import completion, running
from fedkeeper.display import screen
from fedkeeper.display.units import format_size
from fedkeeper.errors import BadOption, JobNotFinished
from fedkeeper.options import Json, Url, broker_url, duration_s
from fedkeeper.results import DeletedJob
from fedkeeper.sdk import Client, connect
from server import retention
from server.retention import FinishedJob, Retention

_DAY_S: Final = 86_400.0

Ids = Annotated[
    list[str], typer.Argument(metavar="JOB", autocompletion=completion.job_ids, help="Ids of finished jobs.")
]
Older = Annotated[str, typer.Option(metavar="AGE", help="Delete jobs that ended so long ago: 12h, 30d.")]
Keep = Annotated[
    int | None, typer.Option(min=0, help="Keep so many jobs, the newest, and those that ended in the last 10 minutes.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")]


@running.command
async def delete(jobs: Ids, url: Url = "", as_json: Json = False) -> None:
    """Delete finished jobs from the broker: their models, records and events. Run folders stay."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        # All are looked up before the first is deleted: a mistake in one id deletes nothing.
        records = [await sdk.job(job) for job in dict.fromkeys(jobs)]
        for record in records:
            if not record.is_finished:
                raise JobNotFinished(record.id)
        await _delete(sdk, [retention.of(record) for record in records], as_json=as_json)


@running.command
async def prune(
    older: Older = "", keep: Keep = None, dry_run: DryRun = False, url: Url = "", as_json: Json = False
) -> None:
    """Delete old finished jobs from the broker. Those that an unfinished job starts from stay, and so do run folders.

    A job that is older than AGE goes, and of the others all but the newest KEEP.
    """
    logs.configure(quiet=True)
    limits = limits_of(older, keep)
    async with connect(broker_url(url), provision=False) as sdk:
        records = await sdk.jobs()
        finished = [retention.of(record) for record in records if record.is_finished]
        chosen = retention.expired(finished, retention.needed(records), limits, time.time())
        if not chosen:
            screen.say(f"nothing to delete: {len(finished)} finished jobs are kept")
        await _delete(sdk, chosen, as_json=as_json, dry_run=dry_run)


def limits_of(older: str, keep: int | None) -> Retention:
    """Return what may be kept, from the options of `prune`.

    Args:
        older: an age, such as `30d`; empty: any age.
        keep: number of jobs; None: any number.

    Raises:
        BadOption: there is no option, or the age is none.
    """
    if not older and keep is None:
        raise BadOption("what shall go? give --older 30d, --keep 20, or both")
    days = duration_s("--older", older) / _DAY_S if older else math.inf
    return Retention(days, _ANY_NUMBER if keep is None else keep, _ANY_NUMBER)


async def _delete(sdk: Client, jobs: Sequence[FinishedJob], *, as_json: bool, dry_run: bool = False) -> None:
    """Delete jobs, the next one when the one before is gone; say each one with its size, and the sum."""
    for job in jobs:
        if not dry_run:
            await sdk.remove_job(job.id)
        deleted = DeletedJob(job=job.id, bytes=job.bytes, ended_s=job.ended_s, dry_run=dry_run)
        text = f"{'would delete' if dry_run else 'deleted'} {job.id}  {format_size(job.bytes)}"
        screen.show(deleted, text, as_json=as_json)
    if len(jobs) > 1:
        total = format_size(sum(job.bytes for job in jobs))
        screen.say(f"{len(jobs)} jobs, {total} of models" + ("; nothing was deleted" if dry_run else ""))


_ANY_NUMBER: Final = 1 << 62
