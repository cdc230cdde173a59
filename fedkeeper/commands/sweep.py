"""The command `fedkeeper sweep`: every combination of some fields' values, with several seeds, and their comparison."""

import os
import secrets
import time
from pathlib import Path
from typing import Annotated

import typer

from broker.messages.register import ClientRecord
from broker.support import logs
from fedkeeper import configs, running
from fedkeeper.commands import stage
from fedkeeper.commands.compare import Metric, print_comparison
from fedkeeper.display import screen
from fedkeeper.errors import BadOption
from fedkeeper.exit_codes import ExitCode
from fedkeeper.options import FOLDER, Allow, Code, DataDir, Device, Folder, Json, Out, Quiet, Set, Verbose, Workers
from fedkeeper.sweeps import grid, whole_sweep
from fedkeeper.sweeps.plan import Machine
from fedkeeper.sweeps.whole_sweep import Sweep


def sweep(
    job: Annotated[str | None, typer.Argument(help="A job file, or the name of one that comes with FedKeeper.")] = None,
    grids: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="SECTION.KEY=VALUE,VALUE", help="Values of a job's field. Repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Run each combination with so many seeds.")] = 1,
    at_once: Annotated[
        int, typer.Option(min=0, help="Number of jobs that run side by side; 0: one per core, at most 4.")
    ] = 0,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run what is missing in a sweep's folder: runs/latest.")
    ] = None,
    overrides: Set = None,
    metric: Metric = "",
    out: Out = Path("runs"),
    url: Annotated[str, typer.Option(help="Run on this running system instead of one of its own.")] = "",
    folder: Folder = FOLDER,
    workers: Workers = 0,
    code: Code = None,
    allow: Allow = None,
    device: Device = "",
    data: DataDir = None,
    own_data: stage.From = None,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="With --from: share of the test set.")] = 0.2,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run every combination of some fields' values, and compare what they reach."""
    logs.configure(verbose=verbose, quiet=not verbose)
    machine = Machine(
        at_once=at_once,
        workers=workers,
        folder=_absolute(None if resume and folder == FOLDER else folder),
        code=_absolute(code),
        job_folder=_absolute(None if job is None else configs.find(job).parent),
        allow=tuple(allow or ()),
        device=device,
        data=_absolute(data),
    )
    if resume is not None:
        if job or grids or overrides or own_data or seeds > 1:
            raise BadOption("--resume: give no job, --grid, --seeds, --set or --from: the sweep's folder has them")
        chosen = whole_sweep.resume(resume, machine=machine, url=url)
    elif job is None:
        raise BadOption("give a job file and --grid or --seeds, or --resume with a sweep's folder")
    else:
        axes, clients = grid.parse(grids or ()), tuple[ClientRecord, ...]()
        table = whole_sweep.read_job(job, tuple(overrides or ()), axes)
        if own_data is not None:
            table, clients = whole_sweep.with_own_data(table, axes, own_data, folder / "shards", test=test)
        facts = {"id": secrets.token_hex(3), "machine": machine, "clients": clients}
        chosen = whole_sweep.begin(table, axes, seeds, out=out, url=url, now_s=time.time(), **facts)
        whole_sweep.check_names(chosen, os.environ)
    _run(chosen, metric=metric, as_json=as_json, quiet=quiet)


def _run(sweep: Sweep, *, metric: str, as_json: bool, quiet: bool) -> None:
    plan = sweep.plan
    if not quiet:
        screen.say(f"{grid.describe(plan.grid, plan.seeds)}, {sweep.at_once} at once, into {sweep.folder}")
    settings = None
    if not sweep.url:
        settings, notices = whole_sweep.settings(sweep, os.environ, quiet=quiet)
        for notice in () if quiet else notices:
            screen.say(notice)
    goes_on = "the jobs that were begun go on; this follows them and" if sweep.url else "this"
    stopped = f"stopped; {goes_on} runs what is missing: {sweep.resume_hint}"
    running.run(whole_sweep.run(sweep, settings, quiet=quiet), stopped=stopped)
    swept = whole_sweep.compare(sweep, metric=metric)
    if as_json:
        screen.print_json(swept)
    else:
        print_comparison(swept.comparison)
    if missing := swept.failed + swept.cancelled:
        screen.say(f"{missing} of {swept.runs} runs are not completed; this tries them again: {sweep.resume_hint}")
        raise typer.Exit(ExitCode.JOB_FAILED if swept.failed else ExitCode.JOB_CANCELLED)


def _absolute(path: Path | None) -> str:
    return "" if path is None else str(path.resolve())
