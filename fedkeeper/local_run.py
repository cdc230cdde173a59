"""Trains a job on this machine, in a system of its own: what the command `fedkeeper run` and the SDK's `run` share."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from broker import BrokerUrl
from broker.messages.job import Job
from broker.messages.register import ClientRecord
from fedkeeper import own_system, site_settings, system
from fedkeeper.options import FOLDER, Reveal
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import follow
from fedkeeper.runs.follow import Detail
from fedkeeper.sdk import connect
from fedkeeper.system import Settings

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
    """

    out: Path = Path("runs")
    url: str = ""
    folder: Path = FOLDER
    workers: int = 0
    code: Path | None = None
    allow: Sequence[str] | None = None
    device: str = ""
    data: Path | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that can start.

    Attributes:
        job: the job.
        clients: the clients of the user's own data, to be registered.
        options: what the person has set.
        settings: the system that will train it.
        notices: sentences about it.
    """

    job: Job
    clients: list[ClientRecord]
    options: Options
    settings: Settings
    notices: tuple[str, ...]


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
    system_settings, notices = settings([job], options, job_folder=job_folder, environ=environ)
    return Prepared(job, clients, options, system_settings, notices)


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

    workers, device = options.workers or system.cores(), options.device
    site = site_settings.read(environ, code=options.code, allow=options.allow, device=device, reveal=Reveal.TEXT)
    types = dict.fromkeys(type_ for job in jobs for type_ in named.of_job(job).types)
    site = site_settings.with_own_code(site, tuple(types), job_folder)
    for name in dict.fromkeys(job.data.dataset for job in jobs):
        datasets.ensure(name, data_dir=options.data)
    site = site_settings.prepare(site, options.folder, trainers=workers + at_once, environ=environ)
    packed = site_settings.pack(site)
    notices = (packed.summary() if packed else "", site_settings.describe_repeatability(site))
    return Settings(options.folder, workers, options.data, site=site), tuple(filter(None, notices))


async def train(
    prepared: Prepared,
    console: Console,
    on_folder: Callable[[Path], None] = lambda _: None,
    detail: Detail = Detail.ROUNDS,
) -> None:
    """Train a job to its end, show its progress and save its results.

    Args:
        prepared: the job.
        console: where it is shown.
        on_folder: called with the folder of its results as soon as the job has an id.
        detail: how much is said about the job.

    Raises:
        FedKeeperError: the job ended without being completed.
        ConnectFailed: no broker answers at the URL.
        PlatformFailed: no worker can start.
        ServerFailed: the broker can't run.
    """
    options, settings = prepared.options, prepared.settings
    if detail is not Detail.RESULT:
        # Importing torch takes seconds, on a board a minute.
        console.print(f"starting a server and {settings.workers} workers ...", markup=False, soft_wrap=True)
    async with own_system.open_system(settings, url=options.url) as url, connect(url) as client:
        if detail is not Detail.RESULT:
            console.print(f"broker {BrokerUrl.parse(url).address}; submitting the job", markup=False, soft_wrap=True)
        await client.register(prepared.clients)
        job = await client.submit(prepared.job, timeout_s=SUBMIT_S)
        folder = run_folder.choose(options.out, job, time.time())
        on_folder(folder)
        await follow.follow(client, job, console, folder=folder, detail=detail)
