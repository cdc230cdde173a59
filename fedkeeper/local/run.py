"""Trains a job on this machine, in a system of its own: what the command `fedkeeper run` and the SDK's `run` share."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from broker import BrokerUrl
from broker.errors import ServerFailed
from broker.messages.job import Job
from broker.messages.register import ClientRecord
from fedkeeper import files
from fedkeeper.display import hints
from fedkeeper.errors import BadOption, JobFailed, JobStopped
from fedkeeper.local import own_system
from fedkeeper.options import FOLDER, Reveal, url_option
from fedkeeper.results import Fetched
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import follow, unfinished
from fedkeeper.runs.follow import Detail
from fedkeeper.runs.interrupt import Interruption
from fedkeeper.runs.unfinished import Unfinished
from fedkeeper.sdk import Client, connect, new_id
from fedkeeper.services import site_settings, system
from fedkeeper.services.system import Settings

SUBMIT_S: Final = 60.0
"""How long the server, which has just been started, may take to accept the job. Seconds."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may set, as the options of `fedkeeper run`.

    Attributes:
        out: the folder of all runs.
        url: the address of a running broker; empty: start one.
        folder: the broker's store, credentials, copies of the code, and the clients' shards.
        workers: number of worker processes; 0: one per core.
        code: file or folder of the user's code; None: as in the environment, or beside the job.
        allow: names of libraries and classes that jobs may use; None: as in the environment.
        device: the torch device; empty: as in the environment.
        data: folder of the datasets' files; None: the default.
        quiet: whether a download shows no progress bar.
    """

    out: Path = Path("runs")
    url: str = ""
    folder: Path = FOLDER
    workers: int = 0
    code: Path | None = None
    allow: Sequence[str] | None = None
    device: str = ""
    data: Path | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that can start.

    Attributes:
        job: the job.
        clients: the clients of the user's own data, to be registered.
        options: what the person has set.
        settings: the system that will train it.
        notices: sentences about it.
        job_folder: where the job's own code may be.
    """

    job: Job
    clients: list[ClientRecord]
    options: Options
    settings: Settings
    notices: tuple[str, ...]
    job_folder: Path = Path()


def prepare(
    job: Job, options: Options, *, job_folder: Path, environ: Mapping[str, str], clients: list[ClientRecord]
) -> Prepared:
    """Get everything that a job needs before anything is started: its code, and the files of a built-in dataset.

    Blocks: a download takes long, and Ctrl-C must interrupt it.

    Args:
        job: the job.
        options: what the person has set.
        job_folder: where the job's own code may be.
        environ: the environment.
        clients: the clients of the user's own data; none: the clients of a built-in dataset are made.

    Raises:
        ClientError: the code, the data or a setting can't be used.
        BadOption: the folder can't be written.
    """
    files.check_folder(options.out, "--out")
    system_settings, notices = settings([job], options, job_folder=job_folder, environ=environ)
    return Prepared(job, clients, options, system_settings, notices, job_folder)


def settings(
    jobs: Sequence[Job], options: Options, *, job_folder: Path, environ: Mapping[str, str], at_once: int = 1
) -> tuple[Settings, tuple[str, ...]]:
    """Get what the jobs need, as `prepare` does; return the settings of a system for them, and sentences about it.

    Args:
        jobs: the jobs.
        options: what the person has set.
        job_folder: where the jobs' own code may be.
        environ: the environment.
        at_once: number of jobs that run side by side.

    Raises:
        ClientError: the code, the data or a setting can't be used.
        BadOption: the folder can't be written.
    """
    from client_fn.code import named
    from client_fn.data import datasets

    code, allow, device = options.code, options.allow, options.device
    site = site_settings.read(environ, code=code, allow=allow, device=device, reveal=Reveal.TEXT)
    workers = options.workers or system.workers_for(site)
    types = dict.fromkeys(type_ for job in jobs for type_ in named.of_job(job).types)
    site = site_settings.with_own_code(site, tuple(types), job_folder)
    for name in dict.fromkeys(job.data.dataset for job in jobs):
        datasets.ensure(name, data_dir=options.data, quiet=options.quiet)
    site = site_settings.prepare(site, options.folder, trainers=workers + at_once, environ=environ)
    packed = site_settings.pack(site)
    notices = (packed.summary() if packed else "", site_settings.describe_repeatability(site))
    return Settings(options.folder, workers, options.data, site=site), tuple(filter(None, notices))


async def train(
    prepared: Prepared,
    console: Console,
    on_folder: Callable[[Path], None] = lambda _: None,
    detail: Detail = Detail.ROUNDS,
    *,
    until: Interruption | None = None,
    resumed: Path | None = None,
    on_saved: Callable[[Fetched], None] = lambda _: None,
) -> Path | None:
    """Train a job to its end, show its progress and save its results.

    If the job does not end, its folder keeps all that is needed to go on with it.

    Args:
        prepared: the job.
        console: where it is shown.
        on_folder: called with the folder of its results as soon as the job has an id.
        detail: how much is said about the job.
        until: ends this before the job has ended, and is told how to go on with it; None: nothing ends it.
        resumed: the folder of a run of this job to go on with; None: a new run.
        on_saved: called with what was saved.

    Returns:
        The path of the saved model; None: no round was completed.

    Raises:
        JobFailed: the job ended without being completed or cancelled.
        JobStopped: the job was cancelled.
        JobRefused: the server refused the job.
        NotAnswered: the server did not accept the job in time.
        BadOption: the folder of its results can't be written, or has other results.
        NotSaved: a file of its results can't be written.
        CorruptPayload: the broker has lost a model.
        Missing: there is nothing to go on with.
        ConnectFailed: no broker answers at the URL.
        PlatformFailed: no worker can start.
        ServerFailed: the broker can't run.
    """
    folder, run = _begin(prepared) if resumed is None else (resumed, unfinished.read(resumed))
    on_folder(folder)
    until = until or Interruption()
    with _kept_until_the_end(folder, run, prepared.options.url, until, console, is_known=resumed is not None):
        then = "submitting the job" if resumed is None else f"going on with job {run.job}"
        async with _open(prepared, folder, console, detail, then) as client:
            if resumed is None:
                await client.register(prepared.clients)
                until.is_submitted = True
                await client.submit(prepared.job, job_id=run.job, timeout_s=SUBMIT_S)
            return await follow.follow(
                client, run.job, console, folder=folder, detail=detail, until=until, on_saved=on_saved
            )


def _begin(prepared: Prepared) -> tuple[Path, Unfinished]:
    """Create the folder of a new run."""
    job = prepared.job.id or new_id(prepared.job.name)
    folder, run = run_folder.choose(prepared.options.out, job, time.time()), _unfinished(job, prepared)
    unfinished.begin(folder, run)
    return folder, run


@contextlib.asynccontextmanager
async def _open(prepared: Prepared, folder: Path, console: Console, detail: Detail, then: str) -> AsyncIterator[Client]:
    """Run the system until the end of the block, on the given broker or on the store in the run's folder."""
    options, settings = prepared.options, prepared.settings
    store = None if options.url else folder / unfinished.STORE

    def say(text: str) -> None:
        if detail is not Detail.RESULT:
            console.print(text, markup=False, soft_wrap=True)

    # Importing torch takes seconds, on a board a minute.
    say(f"starting a server and {settings.workers} workers ...")
    async with own_system.open_system(settings, url=options.url, store=store) as url, connect(url) as client:
        say(f"broker {BrokerUrl.parse(url).address}; {then}")
        yield client


@contextlib.contextmanager
def _kept_until_the_end(
    folder: Path, run: Unfinished, url: str, until: Interruption, console: Console, *, is_known: bool
) -> Iterator[None]:
    """Delete what a run keeps when its job has ended and its results are saved, or if there is nothing to go on with.

    A job on a broker that others have started goes on to exist, so it can be gone on with as soon as it is accepted.

    Args:
        folder: the run's folder.
        run: the run.
        url: the broker's address; empty: it is the run's own one.
        until: knows how far the job is, and is told how to go on with an interrupted run, when everything has ended.
        console: where this is said if the run has failed.
        is_known: whether the job was accepted before.
    """
    try:
        yield
    except (asyncio.CancelledError, Exception) as exc:
        has_job = is_known or until.done > 0 or (bool(run.broker) and until.total is not None)
        if isinstance(exc, JobFailed | JobStopped) or not (has_job or isinstance(exc, ServerFailed)):
            unfinished.end(folder, keeps_log=not isinstance(exc, asyncio.CancelledError))
            if isinstance(exc, asyncio.CancelledError) and run.broker and until.is_submitted:
                until.stopped = hints.goes_on(run.job, url_option(url))
        elif isinstance(exc, asyncio.CancelledError):
            until.stopped = f"stopped; {unfinished.how_to_go_on(folder, url)}"
        elif has_job:
            console.print(unfinished.how_to_go_on(folder, url), markup=False, soft_wrap=True)
        raise
    if until.is_over:
        done = f"stopped after {until.done} of {until.total} rounds"
        until.stopped = f"{done}; {unfinished.how_to_go_on(folder, url)}"
    else:
        unfinished.end(folder)


def _unfinished(job: str, prepared: Prepared) -> Unfinished:
    options = prepared.options
    return Unfinished(
        job=job,
        broker=BrokerUrl.parse(options.url).address if options.url else "",
        job_folder=str(prepared.job_folder.absolute()),
        folder=str(options.folder.absolute()),
        workers=options.workers,
        code=None if options.code is None else str(options.code.absolute()),
        allow=None if options.allow is None else tuple(options.allow),
        device=options.device,
        data=None if options.data is None else str(options.data.absolute()),
    )


def check_same_broker(what: str, broker: str, url: str) -> None:
    """Check that what goes on does so on the broker that has its jobs.

    Args:
        what: what goes on, such as `this sweep`.
        broker: the address of its broker; empty: a broker of its own.
        url: the given URL; empty: none.

    Raises:
        BadOption: they are not the same.
        BadUrl: the URL can't be used.
    """
    if not broker and not url:
        return
    if not broker:
        raise BadOption(f"{what} has a broker of its own: leave out --url")
    where = f"{what} is on the broker {broker}"
    if not url:
        raise BadOption(f"{where}: give its --url")
    address = BrokerUrl.parse(url)
    if not address.leads_to(BrokerUrl.parse(broker)):
        raise BadOption(f"{where}, not on {address.address}: give its --url")


def prepare_again(folder: Path, given: Options, *, environ: Mapping[str, str]) -> Prepared:
    """Get what a run needs that is to go on, as `prepare` does.

    Args:
        folder: the run's folder.
        given: what the person has set; for the rest, what was set for the run.
        environ: the environment.

    Raises:
        Missing: there is nothing to go on with.
        BadOption: the job is on another broker than the given one, or the folder can't be written.
        ClientError: the code, the data or a setting can't be used.
    """
    run = unfinished.read(folder)
    check_same_broker(f"the job of {folder}", run.broker, given.url)
    options = dataclasses.replace(
        given,
        out=folder,
        url=given.url,
        folder=given.folder if given.folder != FOLDER else Path(run.folder),
        workers=given.workers or run.workers,
        code=given.code or (None if run.code is None else Path(run.code)),
        allow=given.allow or run.allow,
        device=given.device or run.device,
        data=given.data or (None if run.data is None else Path(run.data)),
    )
    job, job_folder = run_folder.read_job(folder), Path(run.job_folder)
    return prepare(job, options, job_folder=job_folder, environ=environ, clients=[])
