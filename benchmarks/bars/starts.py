"""How long it takes until something runs: the quickstart, and a new worker."""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Final

import broker
from benchmarks.bars.bar import Found
from benchmarks.bars.session import Session
from bridges import local, presence
from bridges.local.pool import Pool, open_pool
from broker import topics
from broker.errors import ConnectFailed, NoSystem
from broker.messages import cloudevents
from broker.messages.progress import UpdateCounted
from broker.messages.round import RoundTask
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from client_fn.site import Site
from client_fn.trainer.fork_server import open_fork_server
from fedkeeper import configs
from fedkeeper.sdk import Client, connect
from fedkeeper.services import provision, site_settings, system
from fedkeeper.services.store import open_store

RUNS: Final = 5
"""Runs of the quickstart: each takes many seconds."""

PLATFORM: Final = "bench"
LIMIT_S: Final = 600.0
POLL_S: Final = 0.1


async def measure_quickstart(session: Session) -> dict[str, Found]:
    """Measure `fedkeeper run quickstart`: from Enter to the first counted update, and to its end."""
    sets = ["--set", "stop.rounds=1"] if session.is_small else []
    first, whole = list[float](), list[float]()
    for _ in range(1 if session.is_small else min(RUNS, session.rounds)):
        folder = session.new_folder()
        begin_s = time.time()
        async with task_group() as group:
            counted = group.create_task(_first_counted_s(folder), name="first counted update")
            await _run(folder, sets)
            whole.append(time.time() - begin_s)
        first.append(counted.result() - begin_s)
        shutil.rmtree(folder)
    return {"quickstart-first": Found(first), "quickstart": Found(whole)}


async def _run(folder: Path, sets: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("fedkeeper")), "run", "quickstart", *sets),
        *("--dir", str(folder / "system"), "--out", str(folder / "runs")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if code:
        raise RuntimeError(f"fedkeeper run quickstart has ended with {code}")


async def _first_counted_s(folder: Path) -> float:
    """Return when the first update was counted, in seconds since the epoch, as the server's event says."""
    async with asyncio.timeout(LIMIT_S):
        url = await _url(folder)
        async with broker.connect(url, provision=False) as bus:
            async for progress in Client(bus).watch():
                if isinstance(progress.event, UpdateCounted):
                    return progress.time_s
    raise RuntimeError("no update was counted")


async def _url(folder: Path) -> str:
    """Wait until the run's broker has its streams, and return its URL."""
    while True:
        await asyncio.sleep(POLL_S)
        for url in _candidates(folder):
            with contextlib.suppress(ConnectFailed, NoSystem):
                async with broker.connect(url, provision=False):
                    return url


def _candidates(folder: Path) -> list[str]:
    ports = [port for port in folder.glob("runs/*/store/port") if port.read_text()]
    return [NatsServer(port.parent, port=int(port.read_text())).url for port in ports]


async def measure_worker(session: Session) -> dict[str, Found]:
    """Measure a new worker: from the end of the one before it until it trains, with a task that waits for it."""
    folder = session.new_folder()
    async with (
        open_fork_server(Site(), os.environ) as fork_server,  # as `fedkeeper up` has one
        open_store(folder / "broker") as nats,
        connect(nats.url) as sdk,
        task_group() as group,
    ):
        site = Site(fork_server=fork_server)
        services = [
            group.create_task(system.run_server(nats.url, site), name="server"),
            group.create_task(presence.announce(sdk.broker, presence.Bridge(PLATFORM)), name="presence"),
        ]
        task = await _first_task(sdk, folder)
        settings = local.Settings(name=PLATFORM, broker=nats.url, env=site_settings.worker_environment(site, folder))
        async with open_pool(settings) as pool:
            # The first start also reads torch from the disk.
            (await pool.take()).process.kill()
            seconds = [await _first_step_s(pool, task) for _ in range(session.rounds)]
        for service in services:
            service.cancel()
    shutil.rmtree(folder)
    return {"worker": Found(seconds)}


async def _first_task(sdk: Client, folder: Path) -> RoundTask:
    """Submit the quickstart, and return the task of one of its clients."""
    job = configs.read_job("quickstart", ("cohort.deadline_s=3600", "cohort.grace_s=3600"))
    shards = str(folder / "shards")
    await sdk.register(provision.stage_dataset(job.data, platform=PLATFORM, shards_at=shards, data_dir=None))
    async with sdk.broker.subscribe(topics.platform_tasks(PLATFORM), durable=PLATFORM) as deliveries:
        await sdk.submit(job, timeout_s=LIMIT_S)
        async for delivery in deliveries:
            return cloudevents.data_of(await delivery.read(), RoundTask)
    raise RuntimeError("there was no task")


async def _first_step_s(pool: Pool, task: RoundTask) -> float:
    """Return the seconds until the next worker trains; then kill it."""
    begin_s = time.perf_counter()
    async with asyncio.timeout(LIMIT_S):
        worker = await pool.take()
        reports = worker.send(task, 1)
        while (report := await reports.get()).state != "training":
            if report.state == "failed":
                raise RuntimeError(report.reason)
    took_s = time.perf_counter() - begin_s
    worker.process.kill()
    return took_s
