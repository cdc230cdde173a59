"""The command `fedkeeper up`: broker, FL server and local bridge on this machine, until Ctrl-C."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from broker import BrokerUrl
from broker.errors import BadUrl, StoreInUse
from broker.support import logs
from fedkeeper import broker_note, running
from fedkeeper.display import hints, screen
from fedkeeper.errors import FedKeeperError
from fedkeeper.options import (
    FOLDER,
    KEEP,
    KEEP_BYTES,
    Allow,
    Code,
    DataDir,
    Device,
    Folder,
    KeepBytes,
    KeepDays,
    KeepJobs,
    MetricsOption,
    Reveal,
    RevealOption,
    Verbose,
    Workers,
    retention,
)
from fedkeeper.services import site_settings, system
from fedkeeper.services.system import Settings


def up(
    folder: Folder = FOLDER,
    port: Annotated[
        int, typer.Option(help="The broker's port on the loopback address; 0: as last time, or a free one.")
    ] = 0,
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
    is_ours = not url or site_settings.is_this_machine(url)
    reveal = reveal or (Reveal.TEXT if is_ours else Reveal.CLASS)
    site = site_settings.read(os.environ, code=code, allow=allow, device=device, reveal=reveal, metrics=metrics)
    workers = workers or system.workers_for(site)
    site = site_settings.prepare(site, folder, trainers=workers + 1, environ=os.environ)
    if packed := site_settings.pack(site):
        screen.say(packed.summary())
    screen.say(site_settings.describe_models(site, packed))
    if notice := site_settings.describe_repeatability(site):
        screen.say(notice)
    settings = Settings(folder, workers, data, site=site, keep=retention(keep_days, keep_jobs, keep_bytes))
    running.run(serve(settings, url, port))


async def serve(settings: Settings, url: str, port: int) -> None:
    """Run the whole system, or with a URL the parts around that broker, until cancelled.

    Args:
        settings: the system's settings.
        url: the broker's address; empty: start one.
        port: the port of the broker that is started; 0: its last one, or a free one.

    Raises:
        FedKeeperError: another `fedkeeper up` uses the folder.
    """
    async with contextlib.AsyncExitStack() as stack:
        if url:
            await stack.enter_async_context(system.services(url, settings))
        else:
            whole = system.whole_system(settings, store=settings.folder / "broker", port=port)
            try:
                url = await stack.enter_async_context(whole)
            except StoreInUse as exc:
                raise _running_already(settings.folder) from exc
        noted = stack.enter_context(broker_note.published(settings.folder, url))
        screen.say(hints.is_ready(noted, is_found=settings.folder.absolute() == FOLDER.absolute()))
        await asyncio.Event().wait()  # until Ctrl-C


def _running_already(folder: Path) -> FedKeeperError:
    where = "here" if folder.absolute() == FOLDER.absolute() else f"in {folder}"
    at = ""
    # The first one leaves its address when it is up.
    with contextlib.suppress(BadUrl):
        at = f" ({BrokerUrl.parse(broker_note.read(folder)).address})"
    return FedKeeperError(f"`fedkeeper up` is running {where} already{at}: use it, or give another folder: --dir DIR")
