"""The command line `fedkeeper`."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from broker import BrokerUrl
from broker.errors import ServerFailed
from broker.messages import codec
from broker.messages.register import ClientRecord
from broker.support import logs
from client_fn.site import Site
from fedkeeper import (
    cli_bridge,
    cli_clients,
    cli_deploy,
    cli_jobs,
    cli_site_list,
    cli_stage,
    configs,
    follow,
    plot,
    running,
    screen,
    sites,
    system,
)
from fedkeeper.errors import NotAnswered
from fedkeeper.options import (
    FOLDER,
    KEEP,
    KEEP_BYTES,
    URL_FILE,
    Allow,
    Code,
    DataDir,
    Device,
    Folder,
    JobFile,
    JobId,
    KeepBytes,
    KeepDays,
    KeepJobs,
    MetricsOption,
    Out,
    Replicas,
    Reveal,
    RevealOption,
    Set,
    Url,
    Verbose,
    Workers,
    broker_url,
    retention,
)
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
app.add_typer(cli_jobs.app, name="jobs")
app.add_typer(cli_site_list.app)
app.add_typer(cli_stage.app)


def main() -> None:
    """Run the command line."""
    with running.exit_on_user_error():
        app()


def _print_version(requested: bool) -> None:  # noqa: FBT001 (typer's signature)
    if requested:
        from fedkeeper import __version__

        typer.echo(f"fedkeeper {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
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
    own_data: cli_stage.From = None,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="With --from: share of the test set.")] = 0.2,
    verbose: Verbose = False,
) -> None:
    """Train a job on this machine: start broker, server and workers, show the progress, and stop everything again."""
    from client_fn.code import named
    from client_fn.data import datasets

    logs.configure(verbose=verbose, quiet=not verbose)
    spec, workers = configs.read_job(job, tuple(overrides or ())), workers or system.cores()
    site = sites.read(os.environ, code=code, allow=allow, device=device, reveal=Reveal.TEXT)
    site = sites.with_own_code(site, named.of_job(spec).types, configs.find(job).parent)
    own_clients: list[ClientRecord] = []
    if own_data is not None:
        spec, own_clients = cli_stage.prepare(spec, own_data, folder / "shards", test=test)
    # Outside the event loop and before anything is started: a download takes long, and Ctrl-C must interrupt it.
    datasets.ensure(spec.data.dataset, data_dir=data)
    site = sites.prepare(site, folder, trainers=workers + 1, environ=os.environ)
    console, settings = screen.console(), Settings(folder, workers, data, site=site)
    if packed := sites.pack(site):
        console.print(packed.summary(), markup=False, soft_wrap=True)
    _print_repeatability(site)

    async def train() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if url:
                address = url
                await stack.enter_async_context(system.services(url, settings))
            else:
                store = stack.enter_context(_temporary_store(settings.folder))
                address = await stack.enter_async_context(system.whole_system(settings, store=store))
            broker = BrokerUrl.parse(address).address
            console.print(f"broker {broker}, {settings.workers} workers; starting ...", markup=False, soft_wrap=True)
            sdk = await stack.enter_async_context(connect(address))
            await sdk.register(own_clients)
            job_id = await sdk.submit(spec, timeout_s=60)
            await follow.follow(sdk, job_id, console, folder=out / job_id)

    running.run(train())


def _print_repeatability(site: Site) -> None:
    if notice := sites.describe_repeatability(site):
        screen.console().print(notice, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _temporary_store(folder: Path) -> Iterator[Path]:
    """Create a broker's data folder for one run, and remove it afterwards. The results are saved elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    try:
        yield store
    except ServerFailed:
        raise  # its message names the broker's log, which lies in the folder
    except BaseException:
        shutil.rmtree(store, ignore_errors=True)
        raise
    shutil.rmtree(store, ignore_errors=True)


@app.command()
def up(
    folder: Folder = FOLDER,
    port: Annotated[int, typer.Option(help="The broker's port on the loopback address; 0: a free port.")] = 0,
    url: Annotated[str, typer.Option(help="Use this broker instead of a new one.")] = "",
    workers: Workers = 0,
    code: Code = None,
    allow: Allow = None,
    device: Device = "",
    reveal: RevealOption = None,
    metrics: MetricsOption = None,
    data: DataDir = None,
    keep_days: KeepDays = KEEP.days,
    keep_jobs: KeepJobs = KEEP.jobs,
    keep_bytes: KeepBytes = KEEP_BYTES,
    verbose: Verbose = False,
) -> None:
    """Run broker, FL server and local bridge in the foreground, until Ctrl-C."""
    logs.configure(verbose=verbose)
    workers, is_ours = workers or system.cores(), not url or sites.is_this_machine(url)
    reveal = reveal or (Reveal.TEXT if is_ours else Reveal.CLASS)
    site = sites.read(os.environ, code=code, allow=allow, device=device, reveal=reveal, metrics=metrics)
    site = sites.prepare(site, folder, trainers=workers + 1, environ=os.environ)
    console, packed = screen.console(), sites.pack(site)
    if packed:
        console.print(packed.summary(), markup=False, soft_wrap=True)
    console.print(sites.describe_models(site, packed), markup=False, soft_wrap=True)
    _print_repeatability(site)
    settings = Settings(folder, workers, data, site=site, keep=retention(keep_days, keep_jobs, keep_bytes))
    running.run(_run_until_interrupted(settings, url, port))


async def _run_until_interrupted(settings: Settings, url: str, port: int) -> None:
    """Run the whole system, or with a URL the parts around that broker, until cancelled."""
    console = screen.console()
    async with contextlib.AsyncExitStack() as stack:
        if url:
            await stack.enter_async_context(system.services(url, settings))
            console.print(f"ready: {BrokerUrl.parse(url)}", markup=False, soft_wrap=True)
        else:
            whole = system.whole_system(settings, store=settings.folder / "broker", port=port)
            own_url = await stack.enter_async_context(whole)
            stack.enter_context(_published_url(settings.folder, own_url))
            text = f"ready: {own_url}\n\n  fedkeeper submit quickstart --wait --url '{own_url}'\n"
            console.print(text, markup=False, soft_wrap=True)  # on one line each, to be copied
        await asyncio.Event().wait()  # until Ctrl-C


@contextlib.contextmanager
def _published_url(folder: Path, url: str) -> Iterator[None]:
    """Let commands in this folder find the broker. The URL names the password's file, not the password."""
    file = folder / URL_FILE
    file.write_text(url)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


@app.command()
@running.command
async def submit(
    job: JobFile,
    overrides: Set = None,
    url: Url = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
    out: Out = Path("runs"),
) -> None:
    """Submit a job and print its id."""
    logs.configure(quiet=True)
    spec = configs.read_job(job, tuple(overrides or ()))
    console = screen.console()
    async with connect(broker_url(url)) as sdk:
        try:
            job_id = await sdk.submit(spec)
        except NotAnswered as exc:
            console.print(str(exc), style="yellow", markup=False, soft_wrap=True)
            typer.echo(exc.job)
            if not wait:
                return
            await sdk.wait_until_accepted(exc.job, spec, submission=exc.submission)
            job_id = exc.job
        else:
            typer.echo(job_id)
        if wait:
            await follow.follow(sdk, job_id, console, folder=out / job_id)


@app.command()
@running.command
async def watch(
    job: Annotated[str | None, typer.Argument(help="A job's id; none: every job.")] = None,
    url: Url = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per event on standard output.")] = False,
) -> None:
    """Follow a job from its start to its end, or every job until Ctrl-C."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        if job is not None and not as_json:
            await follow.follow(sdk, job, screen.console())
            return
        async for progress in sdk.watch(job, on_reach=follow.reach_notice(screen.console())):
            if as_json:
                event = progress.event
                line = {"job": progress.job, "what": event.what, "time_s": progress.time_s, "event": event}
                screen.echo(codec.encode(line).decode())
            else:
                screen.echo(screen.log_line(progress))


@app.command()
@running.command
async def cancel(job: JobId, url: Url = "") -> None:
    """Request a job's cancellation."""
    logs.configure(quiet=True)
    async with connect(broker_url(url), provision=False) as sdk:
        await sdk.cancel(job)
    typer.echo(f"requested the cancellation of {job}")


@app.command()
def server(
    url: Url = "",
    code: Code = None,
    allow: Allow = None,
    reveal: RevealOption = None,
    folder: Folder = FOLDER,
    data: DataDir = None,
    keep_days: KeepDays = KEEP.days,
    keep_jobs: KeepJobs = KEEP.jobs,
    keep_bytes: KeepBytes = KEEP_BYTES,
    replicas: Replicas = 1,
    verbose: Verbose = False,
) -> None:
    """Run the FL server alone."""
    logs.configure(verbose=verbose)
    keep = retention(keep_days, keep_jobs, keep_bytes)
    site = sites.read(os.environ, code=code, allow=allow, reveal=reveal)
    address = broker_url(url, replicas=replicas)
    running.run(system.run_server(address, sites.with_store(site, folder), data, None, keep))


@app.command("plot")
def plot_(
    folders: Annotated[list[Path], typer.Argument(help="Folders of jobs, such as runs/quickstart-1a2b3c.")],
    to: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")] = Path("accuracy.png"),
) -> None:
    """Plot the accuracy and the phases of finished jobs."""
    typer.echo(plot.plot(folders, to))
