"""The command `fedkeeper run`: one job on this machine, in a system of its own."""

import os
from pathlib import Path
from typing import Annotated

import typer

from broker.messages.register import ClientRecord
from broker.support import logs
from fedkeeper import configs, local_run, running, screen
from fedkeeper import own_data as split
from fedkeeper.commands import stage
from fedkeeper.local_run import Options
from fedkeeper.options import FOLDER, Allow, Code, DataDir, Device, Folder, JobFile, Out, Quiet, Set, Verbose, Workers
from fedkeeper.runs import run_log
from fedkeeper.runs.follow import Detail


def run(
    job: JobFile = "quickstart",
    overrides: Set = None,
    out: Out = Path("runs"),
    url: Annotated[str, typer.Option(help="Run on this broker instead of a new one.")] = "",
    folder: Folder = FOLDER,
    workers: Workers = 0,
    code: Code = None,
    allow: Allow = None,
    device: Device = "",
    data: DataDir = None,
    own_data: stage.From = None,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="With --from: share of the test set.")] = 0.2,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a job on this machine: start broker, server and workers, show the progress, and stop everything again."""
    detail = Detail.of(quiet=quiet, verbose=verbose)
    logs.configure(verbose=verbose, quiet=not verbose)
    spec, own_clients = configs.read_job(job, tuple(overrides or ())), list[ClientRecord]()
    if own_data is not None:
        spec, own_clients = split.prepare_file(spec, own_data, folder / "shards", test=test)
    options = Options(out, url, folder, workers, code, allow, device, data)
    job_folder = configs.find(job).parent
    prepared = local_run.prepare(spec, options, job_folder=job_folder, environ=os.environ, clients=own_clients)
    for notice in () if quiet else prepared.notices:
        screen.say(notice)
    with run_log.open_log(folder, verbose=verbose) as log:
        running.run(local_run.train(prepared, screen.console(), log.move_to, detail))
