"""The commands `fedkeeper jobs` and `cancel`: list jobs, and end one."""

import time
from enum import StrEnum
from typing import Annotated, Final

import typer

from broker.messages.job_record import JobRecord
from broker.support import logs
from fedkeeper import running
from fedkeeper.display import measured, screen, sentences
from fedkeeper.display.columns import Column
from fedkeeper.display.units import format_age, format_long, format_size
from fedkeeper.options import JobId, Json, Url, Verbose, broker_url, url_option
from fedkeeper.results import CancelledJob, ListedJob
from fedkeeper.sdk import connect
from server import retention

COLUMNS: Final = (
    Column("job", least=16),
    Column("phase"),
    Column("rounds", is_number=True),
    Column("result", rank=1),
    Column("submitted", rank=2, is_number=True),
    Column("took", rank=3, is_number=True),
    Column("at", rank=4),
    Column("size", rank=5, is_number=True),
)
"""Narrow screens have the first ones. A pipe and --verbose get all of them, and the reasons."""


class Shown(StrEnum):
    """A job's phase in the list."""

    ACCEPTED = "accepted"
    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@running.command
async def jobs(
    url: Url = "",
    phase: Annotated[list[Shown] | None, typer.Option("--phase", help="Only jobs in this phase. Repeatable.")] = None,
    last: Annotated[int, typer.Option(min=0, metavar="N", help="Only the newest N; 0: all.")] = 0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the jobs that the broker knows, the oldest first.

    With -v all columns, and what their models take.
    """
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        records = await sdk.jobs()
    chosen = [record for record in records if not phase or shown_phase(record) in phase][-last:]
    if as_json:
        for record in chosen:
            screen.print_json(result(record))
        return
    if not chosen:
        screen.say("no job is in these phases" if records else "there are no jobs yet: `fedkeeper submit quickstart`")
        return
    rows, reasons = [row(record, time.time()) for record in chosen], [reason(record) for record in chosen]
    if verbose or not screen.list_width():
        heads = (*(column.name for column in COLUMNS), "reason")
        screen.print_table(heads, [(*cells, text) for cells, text in zip(rows, reasons, strict=True)])
    else:
        notes = ["" if record.phase == "completed" else reason(record) for record in chosen]
        screen.print_list(COLUMNS, rows, notes=notes)


def shown_phase(record: JobRecord) -> Shown:
    """Return a job's phase as a list shows it: a job that runs and lacks clients is waiting."""
    return Shown("waiting" if record.phase == "running" and record.waiting else record.phase)


def reason(record: JobRecord) -> str:
    """Return why a job waits or has ended."""
    return record.waiting if shown_phase(record) is Shown.WAITING else record.reason


def row(record: JobRecord, now_s: float) -> tuple[str, ...]:
    """Return the cells of a job's row.

    Args:
        record: the job's record.
        now_s: the time now, in seconds since the epoch.
    """
    end_s = record.ended_s if record.has_ended else now_s
    return (
        record.id,
        shown_phase(record),
        f"{record.done}/{record.job.stop.rounds}",
        measured.headline(record),
        format_age(now_s - record.created_s) if record.created_s else "",
        format_long(end_s - record.created_s) if record.created_s and end_s else "",
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created_s)) if record.created_s else "",
        format_size(retention.of(record).bytes),
    )


def result(record: JobRecord) -> ListedJob:
    """Return a job's line for programs."""
    return ListedJob(
        job=record.id,
        name=record.job.name,
        phase=shown_phase(record).value,
        reason=reason(record),
        rounds=record.done,
        max_rounds=record.job.stop.rounds,
        metrics=record.metrics,
        created_s=record.created_s,
        ended_s=record.ended_s,
        sha256=None if record.model is None else record.model.sha256,
        bytes=retention.of(record).bytes,
    )


@running.command
async def cancel(job: JobId, url: Url = "", as_json: Json = False) -> None:
    """Request a job's cancellation. Of a job that has ended, say how."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        record = await sdk.job(job)
        text = f"job {job} has ended already: {sentences.how_ended(record)}"
        if not record.has_ended:
            await sdk.cancel(job)
            text = f"requested the cancellation of {job}; `fedkeeper watch {job}{url_option(url)}` shows its end"
    cancelled = CancelledJob(job=job, requested=not record.has_ended, phase=record.phase, reason=record.reason)
    screen.show(cancelled, text, as_json=as_json)
