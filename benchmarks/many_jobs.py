"""Memory of the FL server and sizes of the broker's streams through many small jobs.

    python -m benchmarks.many_jobs --jobs 1000

Server and clients are those of `benchmarks.server_memory`: each job has one round of two dry clients, and a model of
0.1 MB. Jobs run one after the other, a few at a time.
"""

import argparse
import asyncio
import json
import socket
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final

import broker
from benchmarks.processes import memory_mb
from benchmarks.server_memory import (
    PLATFORM,
    START_S,
    answer_tasks,
    dry_client,
    dry_job,
    running_server,
    same_update,
)
from bridges import presence
from broker.nats.server import LOOPBACK, NatsServer
from broker.support.tasks import task_group
from fedkeeper.sdk import Client

MODEL_MB: Final = 0.1
AT_ONCE: Final = 4
STEPS: Final = 5
CLIENTS: Final = 2


async def measure(jobs: int) -> None:
    """Run the jobs; print the server's memory on the way, and the streams before and after."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = f'http: "{LOOPBACK}:{port}"'
        async with (
            NatsServer(Path(folder), settings=settings) as nats,
            broker.connect(nats.url) as bus,
            running_server(nats.url, MODEL_MB) as pid,
            task_group() as group,
        ):
            await Client(bus).register([dry_client(number) for number in range(CLIENTS)])
            await asyncio.sleep(START_S)
            background = [
                group.create_task(presence.announce(bus, presence.Bridge(PLATFORM)), name="presence"),
                group.create_task(answer_tasks(bus, same_update(MODEL_MB)), name="clients"),
            ]
            before = await asyncio.to_thread(_streams, port)
            print(f"server without a job: {memory_mb(pid, 'VmRSS'):.0f} MB")
            for step in range(STEPS):
                begin_s = time.monotonic()
                await _run(Client(bus), jobs // STEPS)
                done, took_s = (step + 1) * (jobs // STEPS), time.monotonic() - begin_s
                print(f"after {done:5} jobs: {memory_mb(pid, 'VmRSS'):.0f} MB, {took_s:.0f} s", flush=True)
            after = await asyncio.to_thread(_streams, port)
            for task in background:
                task.cancel()
    for name, (messages, size) in sorted(after.items()):
        if (messages, size) != before.get(name):
            was = before.get(name, (0, 0))
            print(
                f"{name:<24} {was[0]:6} messages {was[1] / 1e6:7.2f} MB -> {messages:6} messages {size / 1e6:7.2f} MB"
            )


async def _run(sdk: Client, jobs: int) -> None:
    limit = asyncio.Semaphore(AT_ONCE)

    async def run_one() -> None:
        async with limit:
            job = await sdk.submit(dry_job(CLIENTS, 1), timeout_s=60.0)
            async for _ in sdk.watch(job):
                pass

    async with task_group() as group:
        for number in range(jobs):
            group.create_task(run_one(), name=f"job {number}")


def _streams(port: int) -> dict[str, tuple[int, int]]:
    """Return messages and bytes of each stream, as nats-server's monitoring has them."""
    with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/jsz?streams=true") as answer:
        accounts = json.load(answer)["account_details"]
    streams = [stream for account in accounts for stream in account["stream_detail"]]
    return {stream["name"]: (stream["state"]["messages"], stream["state"]["bytes"]) for stream in streams}


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    asyncio.run(measure(parser.parse_args().jobs))


if __name__ == "__main__":
    main()
