"""Runs the jobs of a sweep, several side by side, and leaves each one's results in the sweep's folder."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from broker.errors import CorruptPayload
from broker.messages import job_file
from broker.messages.errors import JobError, NoSuchModel
from broker.messages.progress import JobCancelled, JobCompleted, Progress
from broker.support.tasks import task_group
from fedkeeper import files
from fedkeeper.display import sentences
from fedkeeper.errors import JobRefused, NoSuchJob
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import saving, stored
from fedkeeper.runs.recorder import Recorder
from fedkeeper.runs.stored import Ended
from fedkeeper.sdk import Client
from fedkeeper.sweeps import folder as sweep_folder
from fedkeeper.sweeps import plan as sweep_plan
from fedkeeper.sweeps.plan import Plan, PlannedRun
from fedkeeper.sweeps.view import SweepView

SUBMIT_S: Final = 60.0
"""How long a server may take to accept a job while others train. Seconds."""


class Pending(NamedTuple):
    """A run that is still to be done.

    Attributes:
        run: the run.
        job: the id of its job.
        folder: its folder.
    """

    run: PlannedRun
    job: str
    folder: Path


def pending(plan: Plan, folder: Path) -> list[Pending]:
    """Return the runs that are not completed. One that has failed gets a new job.

    Args:
        plan: the sweep.
        folder: the sweep's folder.

    Raises:
        Missing: a file in it is damaged.
    """
    found = []
    for run in sweep_plan.runs(plan):
        _, ended, attempt = sweep_folder.last_attempt(folder, plan, run)
        if ended is None or ended.phase != "completed":
            job = sweep_plan.job_id(plan, run, attempt + (ended is not None))
            found.append(Pending(run, job, folder / job))
    return found


async def run_all(sdk: Client, runs: Iterable[Pending], *, at_once: int, view: SweepView) -> None:
    """Run jobs to their ends. One that fails leaves its reason, and the others go on.

    Args:
        sdk: the system that runs them.
        runs: the runs.
        at_once: number of jobs that run side by side.
        view: shows the progress.

    Raises:
        NotAnswered: no FL server takes the jobs.
        BadOption: a run's folder has the results of another job, or can't be written.
        NotSaved: a file of a run can't be written.
        BrokerError: the broker can't be used.
    """
    waiting = iter(runs)
    async with task_group() as group:
        for number in range(at_once):
            group.create_task(_work(sdk, waiting, view), name=f"sweep {number}")


async def _work(sdk: Client, waiting: Iterator[Pending], view: SweepView) -> None:
    for each in waiting:
        view.start(each.run)
        # Also a job that is never accepted is compared with the others.
        each.folder.mkdir(parents=True, exist_ok=True)
        files.write(each.folder / run_folder.JOB, job_file.to_toml(each.run.job).encode())
        recorder = Recorder(each.folder, is_latest=False)
        ended = await _run(sdk, each, recorder, view)
        stored.write_ended(each.folder, ended)
        view.end(each.run, ended, recorder)


async def _run(sdk: Client, each: Pending, recorder: Recorder, view: SweepView) -> Ended:
    """Run one job to its end, save what it leaves, and return how it ended."""
    try:
        # A job that the broker has under this id is this one: it was started before, and may have ended.
        job = await sdk.submit(msgspec.structs.replace(each.run.job, id=each.job), timeout_s=SUBMIT_S)
        last = await _follow(sdk, job, each.run, recorder, view)
        if last is not None and isinstance(last.event, JobCompleted):
            await _save(sdk, job, recorder)
    except (JobRefused, JobError, NoSuchJob, NoSuchModel, CorruptPayload) as exc:
        return Ended(each.job, "failed", str(exc))
    match last:
        case Progress(event=JobCompleted()):
            return Ended(job, "completed")
        case Progress(event=JobCancelled() as event):
            return Ended(job, "cancelled", sentences.sentence(event))
        case Progress(event=event):
            return Ended(job, "failed", sentences.sentence(event).removeprefix("failed: "))
        case None:
            return Ended(job, "failed", "it ended without a final event")


async def _follow(sdk: Client, job: str, run: PlannedRun, recorder: Recorder, view: SweepView) -> Progress | None:
    """Show and record a job to its end; return its last event."""
    last: Progress | None = None
    async with contextlib.aclosing(sdk.watch(job)) as events:
        async for progress in events:
            last = progress
            recorder.record(progress)
            view.update(run, progress)
    return last


async def _save(sdk: Client, job: str, recorder: Recorder) -> None:
    record = await sdk.job(job)
    await saving.save_model(sdk, record, recorder.folder)
    if record.best is not None:
        await saving.save_model(sdk, record, recorder.folder, "best")
