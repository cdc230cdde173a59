"""The command `fedkeeper run`: one job on this machine, in a system of its own."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from broker import BrokerUrl
from broker.messages.register import ClientRecord
from broker.support import logs
from fedkeeper import configs, own_system, running, screen, site_settings, system
from fedkeeper.commands import stage
from fedkeeper.options import FOLDER, Allow, Code, DataDir, Device, Folder, JobFile, Out, Reveal, Set, Verbose, Workers
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import follow
from fedkeeper.sdk import connect
from fedkeeper.system import Settings


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
    verbose: Verbose = False,
) -> None:
    """Train a job on this machine: start broker, server and workers, show the progress, and stop everything again."""
    from client_fn.code import named
    from client_fn.data import datasets

    logs.configure(verbose=verbose, quiet=not verbose)
    spec, workers = configs.read_job(job, tuple(overrides or ())), workers or system.cores()
    site = site_settings.read(os.environ, code=code, allow=allow, device=device, reveal=Reveal.TEXT)
    site = site_settings.with_own_code(site, named.of_job(spec).types, configs.find(job).parent)
    own_clients: list[ClientRecord] = []
    if own_data is not None:
        spec, own_clients = stage.prepare(spec, own_data, folder / "shards", test=test)
    # Outside the event loop and before anything is started: a download takes long, and Ctrl-C must interrupt it.
    datasets.ensure(spec.data.dataset, data_dir=data)
    site = site_settings.prepare(site, folder, trainers=workers + 1, environ=os.environ)
    settings = Settings(folder, workers, data, site=site)
    if packed := site_settings.pack(site):
        screen.say(packed.summary())
    if notice := site_settings.describe_repeatability(site):
        screen.say(notice)

    async def train() -> None:
        async with own_system.open_system(settings, url=url) as address, connect(address) as client:
            screen.say(f"broker {BrokerUrl.parse(address).address}, {settings.workers} workers; starting ...")
            await client.register(own_clients)
            job_id = await client.submit(spec, timeout_s=60)
            await follow.follow(client, job_id, screen.console(), folder=run_folder.choose(out, job_id, time.time()))

    running.run(train())
