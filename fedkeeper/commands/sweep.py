"""The command `fedkeeper sweep`: every combination of some fields' values, with several seeds, and their comparison."""

import os
import secrets
import time
from pathlib import Path
from typing import Annotated

import typer

from broker.support import logs
from fedkeeper import results, running, screen, sweeps
from fedkeeper.commands.compare import Metric, print_comparison
from fedkeeper.errors import BadOption
from fedkeeper.exit_codes import ExitCode
from fedkeeper.options import FOLDER, Allow, Code, DataDir, Device, Folder, Json, Out, Quiet, Set, Verbose, Workers
from fedkeeper.runs import grid
from fedkeeper.runs.sweep_plan import Machine
from fedkeeper.sweeps import Sweep


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
        allow=tuple(allow or ()),
        device=device,
        data=_absolute(data),
    )
    if resume is not None:
        if job or grids or overrides or seeds > 1:
            raise BadOption("--resume: give no job, --grid, --seeds or --set: the sweep's folder has them")
        chosen = sweeps.resume(resume, machine=machine, url=url)
    elif job is None:
        raise BadOption("give a job file and --grid or --seeds, or --resume with a sweep's folder")
    else:
        now_s, id_, changes = time.time(), secrets.token_hex(3), tuple(overrides or ())
        axes = grid.parse(grids or ())
        chosen = sweeps.begin(
            job, axes, seeds, overrides=changes, machine=machine, out=out, url=url, id_=id_, now_s=now_s
        )
    _run(chosen, metric=metric, as_json=as_json, quiet=quiet)


def _run(sweep: Sweep, *, metric: str, as_json: bool, quiet: bool) -> None:
    plan = sweep.plan
    if not quiet:
        screen.say(f"{grid.describe(plan.grid, plan.seeds)}, {sweep.at_once} at once, into {sweep.folder}")
    settings = None if sweep.url else sweeps.settings(sweep, os.environ)
    running.run(
        sweeps.run(sweep, settings, quiet=quiet), stopped=f"stopped; this runs what is missing: {sweep.resume_hint}"
    )
    swept = sweeps.compare(sweep, metric=metric)
    if as_json:
        results.print_json(swept)
    else:
        print_comparison(swept.comparison)
    if swept.failed:
        screen.say(f"{swept.failed} of {swept.runs} runs failed; this tries them again: {sweep.resume_hint}")
        raise typer.Exit(ExitCode.JOB_FAILED)


def _absolute(path: Path | None) -> str:
    return "" if path is None else str(path.resolve())
