"""The command `fedkeeper run`: one job on this machine, in a system of its own."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from broker.messages.register import ClientRecord
from broker.support import logs
from fedkeeper import configs, running
from fedkeeper import own_data as split
from fedkeeper.commands import stage
from fedkeeper.display import screen
from fedkeeper.errors import BadOption
from fedkeeper.exit_codes import ExitCode
from fedkeeper.local import run as local_run
from fedkeeper.local.run import Options, Prepared
from fedkeeper.options import (
    FOLDER,
    Allow,
    Code,
    DataDir,
    Device,
    Folder,
    JobFile,
    Json,
    Out,
    Quiet,
    Set,
    Verbose,
    Workers,
)
from fedkeeper.results import Fetched
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import run_log
from fedkeeper.runs.follow import Detail
from fedkeeper.runs.interrupt import Interruption

Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Go on with a run that was stopped, such as runs/latest, to the job's last round."
    ),
]
OF_A_JOB: Final = {"job": "JOB", "overrides": "--set", "own_data": "--from", "out": "--out"}
"""Parameters that say which job is run, and where its results go."""


def run(
    context: typer.Context,
    job: JobFile = "quickstart",
    overrides: Set = None,
    resume: Resume = None,
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
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a job on this machine: start broker, server and workers, show the progress, and stop everything again.

    Prints the model's path. Ctrl-C ends it after the open round, a second one at once; --resume goes on.
    """
    detail = Detail.of(quiet=quiet, verbose=verbose)
    logs.configure(verbose=verbose, quiet=not verbose)
    options = Options(out, url, folder, workers, code, allow, device, data, quiet)
    if resume is None:
        spec, own_clients = configs.read_job(job, tuple(overrides or ())), list[ClientRecord]()
        if own_data is not None:
            with split.mistakes_of_options():
                spec, own_clients = split.prepare_file(spec, own_data, folder / "shards", test=test)
        job_folder = configs.find(job).parent
        prepared = local_run.prepare(spec, options, job_folder=job_folder, environ=os.environ, clients=own_clients)
    else:
        sources = {name: context.get_parameter_source(name) for name in OF_A_JOB}
        if given := [OF_A_JOB[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"]:
            raise BadOption(f"--resume goes on with the job of its folder: leave out {' and '.join(given)}")
        resume = run_folder.behind_link(resume)
        prepared = local_run.prepare_again(resume, options, environ=os.environ)
    for notice in () if quiet else prepared.notices:
        screen.say(notice)
    _train(prepared, resume, detail, as_json=as_json)


def _train(prepared: Prepared, resumed: Path | None, detail: Detail, *, as_json: bool) -> None:
    """Train a job, or go on with that of a folder; print its model's path. Exit the process if it was interrupted."""
    console, until, models = screen.console(), Interruption(), list[Path]()

    def on_signal(number: int) -> bool:
        if goes_on := until.receive(number):
            console.print(until.answer, style="yellow")
        return goes_on

    def on_saved(saved: Fetched) -> None:
        if as_json:
            screen.print_json(saved)

    async def work(on_folder: Callable[[Path], None]) -> None:
        try:
            model = await local_run.train(
                prepared, console, on_folder, detail, until=until, resumed=resumed, on_saved=on_saved
            )
        finally:
            running.say_when_stopped(until.stopped or running.STOPPED)
        models.extend([] if model is None or as_json else [model])

    with run_log.open_log(prepared.options.folder, verbose=detail is Detail.ALL) as log:
        running.run(work(log.move_to), on_signal=on_signal)
    for model in models:
        screen.echo(str(model))
    if until.is_over:
        screen.say(until.stopped)
        sys.exit(ExitCode.INTERRUPTED)
