"""Whether what the broker has acknowledged is still there after a power failure.

The store lies in an ext4 file system in a file (a loop device). After some seconds of tasks, progress events and
invocations (many at once, so that they travel in batches), updates and models of 2.3 MB and records, nats-server is
frozen and the file is copied: what was written and not synced is in the memory of the kernel, and not in the copy, as
after a power failure. A server that starts from the copy must have every payload that was acknowledged before.

    sudo python -m benchmarks.power_failure [--seconds 20] [--times 2] [--sync 2m]

Needs Linux, root for `mount`, and 3 GB in the temporary folder. `--sync` sets another `sync_interval` than ours.
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import broker
from broker import Broker, topics
from broker.families import family_of
from broker.nats.server import NatsServer
from broker.support import logs
from broker.support.tasks import task_group

IMAGE_MB: Final = 3000
LARGE_BYTES: Final = 2_328_104
"""An update of 582,026 float32 parameters."""

TOGETHER: Final = 64
"""So many small messages are published at the same time."""

QUIET_S: Final = 5.0
"""When nothing has come for so long, all was read."""

Acknowledged = dict[str, bytes]
"""SHA-256 digest of each acknowledged payload, by topic."""

Publish = Callable[[str, bytes], Awaitable[object]]


@contextlib.contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """Mount a file system that lies in a file, until the end of the block.

    Args:
        image: the file.
        folder: where to; created.
    """
    folder.mkdir()
    run("mount", "-o", "loop", image, folder)
    try:
        yield folder
    finally:
        run("umount", folder)


def run(*command: str | Path) -> None:
    """Run a program of the system, and wait for its end."""
    subprocess.run(list(map(str, command)), check=True)  # noqa: S603 (our own words)


async def write(bus: Broker, acknowledged: Acknowledged) -> None:
    """Write payloads of all kinds until cancelled, and note each when the broker has acknowledged it.

    Args:
        bus: a connection.
        acknowledged: gets the payloads.
    """

    async def small(name: Callable[[str], str]) -> None:
        for count in range(1 << 30):
            batch = [name(f"c{count:06d}{place:02d}") for place in range(TOGETHER)]
            await asyncio.gather(*(note(bus.publish, topic, topic.encode() * 10) for topic in batch))

    async def large(name: Callable[[int, bytes], str]) -> None:
        for count in range(1 << 30):
            payload = os.urandom(LARGE_BYTES)
            await note(bus.publish, name(count, payload), payload)

    async def records() -> None:
        for count in range(1 << 30):
            await note(bus.put, topics.job_record(f"job-{count}"), b"%d" % count)
            await asyncio.sleep(0.01)

    async def note(publish: Publish, topic: str, payload: bytes) -> None:
        await publish(topic, payload)
        acknowledged[topic] = hashlib.sha256(payload).digest()

    async with task_group() as group:
        group.create_task(small(lambda name: topics.task("edge", name)), name="tasks")
        group.create_task(small(lambda name: topics.progress("job", "client", name)), name="progress")
        group.create_task(small(lambda name: topics.invocation("edge", name)), name="invocations")
        group.create_task(large(lambda count, _: topics.update("job", 1, f"c{count}", 1)), name="updates")
        group.create_task(large(lambda _, payload: topics.model("job", hashlib.sha256(payload).hexdigest())), name="m")
        group.create_task(records(), name="records")


async def read(bus: Broker, topic_filter: str, durable: str | None) -> AsyncIterator[tuple[str, bytes]]:
    """Yield each payload under a filter with its topic, until nothing more comes.

    Args:
        bus: a connection.
        topic_filter: the filter.
        durable: name of the consumer of a queue; None: it is a log.
    """
    async with bus.subscribe(topic_filter, durable=durable) as events:
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(QUIET_S):
                    event = await anext(events)
                yield event.topic, await event.read()
                if durable:
                    await event.ack()


async def lost(url: str, acknowledged: Acknowledged) -> Counter[str]:
    """Return how many acknowledged payloads are gone, by family.

    Args:
        url: address of the server that has started from the copy.
        acknowledged: what must be there.
    """
    missing = dict(acknowledged)
    async with broker.connect(url) as bus:
        for topic in list(missing):
            if family_of(topic).name in {"UPDATES", "MODELS", "RECORDS"}:
                value = await bus.get(topic)
                if value is not None and hashlib.sha256(value.payload).digest() == missing[topic]:
                    del missing[topic]
        filters = (topics.job_progress("job"), None), (topics.invocation("edge", topics.ANY), None)
        for topic_filter, durable in (*filters, (topics.platform_tasks("edge"), "bridge")):
            async for topic, payload in read(bus, topic_filter, durable):
                if missing.get(topic) == hashlib.sha256(payload).digest():
                    del missing[topic]
    return Counter(family_of(topic).name for topic in missing)


async def fail_once(folder: Path, seconds: float, settings: str) -> tuple[Counter[str], Counter[str]]:
    """Write for some seconds, take the power away, and return by family what was acknowledged and what is gone.

    Args:
        folder: an empty one.
        seconds: how long is written.
        settings: more lines for the server's configuration.
    """
    image, copy, acknowledged = folder / "disk", folder / "copy", Acknowledged()
    with image.open("wb") as file:
        file.truncate(IMAGE_MB << 20)
    run("mkfs.ext4", "-q", image)
    with mounted(image, folder / "before") as before:
        store = before / "store"
        async with (
            NatsServer(store, settings=settings.format(store=store)) as server,
            broker.connect(server.url) as bus,
        ):
            writing = asyncio.create_task(write(bus, acknowledged), name="writing")
            await asyncio.wait([writing], timeout=seconds)
            known = dict(acknowledged)
            os.kill(server.pid, signal.SIGSTOP)
            await asyncio.to_thread(run, "cp", "--sparse=always", image, copy)
            os.kill(server.pid, signal.SIGCONT)
            writing.cancel()
            await asyncio.wait([writing])
    with mounted(copy, folder / "after") as after:
        async with NatsServer(after / "store") as server:
            return Counter(family_of(topic).name for topic in known), await lost(server.url, known)


async def main(seconds: float, times: int, sync: str) -> None:
    """Take the power away some times, and print what was lost.

    Args:
        seconds: how long is written before.
        times: how often.
        sync: `sync_interval` of nats-server; empty: ours.
    """
    settings = f'jetstream {{{{ store_dir: "{{store}}", sync_interval: {sync} }}}}' if sync else ""
    for _ in range(times):
        with tempfile.TemporaryDirectory(prefix="power-") as folder:
            acknowledged, gone = await fail_once(Path(folder), seconds, settings)
        lines = [f"{name} {gone[name]} of {count}" for name, count in sorted(acknowledged.items())]
        print(f"lost after {seconds:g} s: " + ", ".join(lines), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--sync", default="", help="sync_interval of nats-server, to see what it would lose")
    options = parser.parse_args()
    logs.configure(quiet=True)
    asyncio.run(main(options.seconds, options.times, options.sync))
