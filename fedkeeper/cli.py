"""The command line; `fedkeeper --help` is its first page."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from broker import BrokerUrl
from broker.errors import ServerFailed
from broker.messages import codec
from broker.messages.job import Job
from broker.support import logs
from fedkeeper import cli_bridge, cli_clients, cli_deploy, configs, follow, plot, running, screen, system
from fedkeeper.errors import NotAnswered
from fedkeeper.options import FOLDER, URL_FILE, DataDir, Folder, JobFile, JobId, Out, Set, Url, Verbose, Workers, url_of
from fedkeeper.sdk import connect
from fedkeeper.system import Settings

app = typer.Typer(
    name="fedkeeper",
    help="Federated learning over a FaaS fabric, driven by messages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(cli_bridge.app, name="bridge")
app.add_typer(cli_clients.app, name="clients")
app.add_typer(cli_deploy.app)


def _version(wanted: bool) -> None:  # noqa: FBT001 (typer calls it so)
    if wanted:
        from fedkeeper import __version__

        typer.echo(f"fedkeeper {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Options of every command."""


@app.command()
def run(
    job: JobFile = "quickstart",
    overrides: Set = None,
    out: Out = Path("runs"),
    url: Annotated[str, typer.Option(help="Run on this broker instead of one of our own.")] = "",
    folder: Folder = FOLDER,
    workers: Workers = 0,
    data: DataDir = None,
    verbose: Verbose = False,
) -> None:
    """Train a job on this machine: starts broker, server and workers, shows it all, and ends them again."""
    from client_fn.data import datasets

    logs.configure(verbose=verbose, quiet=not verbose)
    wanted = configs.read_job(job, tuple(overrides or ()))
    # Before anything is started: a download takes its time, and can be interrupted here.
    datasets.ensure(wanted.data.dataset, data_dir=data)
    running.run(_run(wanted, out, url, Settings(folder, workers or system.cores(), data)))


async def _run(job: Job, out: Path, url: str, settings: Settings) -> None:
    console = screen.console()
    async with contextlib.AsyncExitStack() as stack:
        if url:
            await stack.enter_async_context(system.parts(url, settings))
        else:
            store = stack.enter_context(_temporary(settings.folder))
            url = await stack.enter_async_context(system.whole_system(settings, store=store))
        broker = BrokerUrl.parse(url).address
        console.print(f"broker {broker}, {settings.workers} workers; starting ...", markup=False)
        fabric = await stack.enter_async_context(connect(url))
        job_id = await fabric.submit(job, timeout_s=60)
        await follow.follow(fabric, job_id, console, folder=out / job_id)


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A broker's store for one run: what matters of it is in the run's own folder afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    try:
        yield store
    except ServerFailed:
        raise  # it names the broker's log, which is there
    except BaseException:
        shutil.rmtree(store, ignore_errors=True)
        raise
    shutil.rmtree(store, ignore_errors=True)


@app.command()
def up(
    folder: Folder = FOLDER,
    port: Annotated[int, typer.Option(help="Of the broker, on the loopback address; 0: a free one.")] = 0,
    url: Annotated[str, typer.Option(help="Use this broker instead of one of our own.")] = "",
    workers: Workers = 0,
    data: DataDir = None,
    verbose: Verbose = False,
) -> None:
    """Run broker, FL server and local bridge in the foreground, until Ctrl-C."""
    logs.configure(verbose=verbose)
    running.run(_up(url, port, Settings(folder, workers or system.cores(), data)))


async def _up(url: str, port: int, settings: Settings) -> None:
    console = screen.console()
    async with contextlib.AsyncExitStack() as stack:
        if url:
            await stack.enter_async_context(system.parts(url, settings))
            console.print(f"ready: {BrokerUrl.parse(url)}", markup=False)
        else:
            whole = system.whole_system(settings, store=settings.folder / "broker", port=port)
            own = await stack.enter_async_context(whole)
            stack.enter_context(_known_here(settings.folder, own))
            console.print(f"ready: {own}\n\n  fedkeeper submit quickstart --wait --url '{own}'\n", markup=False)
        await system.for_ever()


@contextlib.contextmanager
def _known_here(folder: Path, url: str) -> Iterator[None]:
    """Let commands in this folder find the broker; the URL names the password's file, not the password."""
    file = folder / URL_FILE
    file.write_text(url)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


@app.command()
def submit(
    job: JobFile,
    overrides: Set = None,
    url: Url = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
    out: Out = Path("runs"),
) -> None:
    """Submit a job and print its id."""
    logs.configure(quiet=True)
    running.run(_submit(job, tuple(overrides or ()), url, out if wait else None))


async def _submit(file: str, overrides: tuple[str, ...], url: str, out: Path | None) -> None:
    job = configs.read_job(file, overrides)
    console = screen.console()
    async with connect(url_of(url)) as fabric:
        try:
            job_id = await fabric.submit(job)
        except NotAnswered as exc:
            console.print(f"[yellow]{exc}[/]", soft_wrap=True)
            job_id = exc.job
        typer.echo(job_id)
        if out is not None:
            await follow.follow(fabric, job_id, console, folder=out / job_id)


@app.command()
def watch(
    job: Annotated[str | None, typer.Argument(help="A job's id; none: every job.")] = None,
    url: Url = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per event on standard output.")] = False,
) -> None:
    """Follow a job from its start to its end, or every job for ever."""
    logs.configure(quiet=True)
    running.run(_watch(job, url, as_json=as_json))


async def _watch(job: str | None, url: str, *, as_json: bool) -> None:
    async with connect(url_of(url), provision=False) as fabric:
        if job is not None:
            await fabric.job(job)
            if not as_json:
                await follow.follow(fabric, job, screen.console())
                return
        async for said in fabric.watch(job):
            if as_json:
                event = {"job": said.job, "what": said.event.what, "time_s": said.time_s, "event": said.event}
                typer.echo(codec.encode(event))
            else:
                typer.echo(screen.line(said))


@app.command()
def jobs(url: Url = "") -> None:
    """List the jobs that the broker knows."""
    logs.configure(quiet=True)
    running.run(_jobs(url))


async def _jobs(url: str) -> None:
    async with connect(url_of(url), provision=False) as fabric:
        found = await fabric.jobs()
    rows = [
        (
            record.id,
            record.phase,
            f"{record.done}/{record.job.stop.rounds}",
            "" if record.accuracy is None else f"{record.accuracy:.4f}",
            record.reason,
        )
        for record in found
    ]
    screen.show_list(("job", "phase", "rounds", "accuracy", "reason"), rows)


@app.command()
def cancel(job: JobId, url: Url = "") -> None:
    """Ask for a job's end."""
    logs.configure(quiet=True)
    running.run(_cancel(job, url))


async def _cancel(job: str, url: str) -> None:
    async with connect(url_of(url), provision=False) as fabric:
        await fabric.cancel(job)
    typer.echo(f"asked for the end of {job}")


@app.command()
def server(url: Url = "", data: DataDir = None, verbose: Verbose = False) -> None:
    """Run the FL server alone."""
    logs.configure(verbose=verbose)
    running.run(system.run_server(url_of(url), data))


@app.command()
def stage(
    job: JobFile,
    to: Annotated[str, typer.Option(help="Folder or fsspec URL; each client gets a place of its own below it.")],
    register: Annotated[bool, typer.Option("--register", help="Write the clients into the register.")] = False,
    platform: Annotated[str, typer.Option(help="The platform that hosts the clients.")] = "local",
    overrides: Set = None,
    url: Url = "",
    data: DataDir = None,
) -> None:
    """Deal a job's dataset to its clients: one shard each, at a place of its own."""
    logs.configure(quiet=True)
    running.run(_stage(job, tuple(overrides or ()), to, platform, url if not register else url_of(url), data))


async def _stage(
    file: str, overrides: tuple[str, ...], to: str, platform: str, url: str, data_dir: Path | None
) -> None:
    from fedkeeper import provision

    wanted = configs.read_job(file, overrides).data
    staged = provision.partition(wanted, platform=platform, shards_at=to, data_dir=data_dir)
    if url:
        async with connect(url) as fabric:
            await fabric.register(staged)
    for client in staged:
        typer.echo(f"{client.id}\t{client.samples}\t{client.data_loc}")


@app.command("plot")
def plot_(
    folders: Annotated[list[Path], typer.Argument(help="Folders of jobs, such as runs/quickstart-1a2b3c.")],
    to: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")] = Path("accuracy.png"),
) -> None:
    """Draw the accuracy and the time split of finished jobs."""
    typer.echo(plot.plot(folders, to))


def main() -> None:
    """The program."""
    # As `python -m` does: a model of the user's own lies in the folder where the program is started.
    sys.path.insert(0, "")
    try:
        app()
    except running.MISTAKES as exc:
        running.fail(str(exc))
