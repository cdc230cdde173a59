"""Memory of a bridge on a small board: `fedkeeper bridge openfaas`, idle and in rounds of 20 clients.

    python -m benchmarks.bridge_memory [--clients 20] [--rounds 3]

Broker, bridge and functions are real processes. The gateway is emulated, and the functions do not train. The first
part measures functions that publish their updates to the broker (`reply = "broker"`, the default). The second part
measures models and updates of 2.3 MB that go through the bridge (`reply = "response"`). VmHWM is the process's peak
memory, VmRSS its memory now.
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import broker
from broker import topics
from broker.base import Broker
from broker.messages import cloudevents
from broker.messages.cloudevents import Envelope
from broker.messages.invocation import Invocation
from broker.messages.job_sections import Model, Training
from broker.messages.round import BlobRef, RoundTask
from broker.nats.server import NatsServer
from broker.support import logs, processes
from emulators.openfaas import gateway as openfaas
from emulators.openfaas.gateway import Gateway
from emulators.openfaas.scripted import IMAGE, write_code

LIMIT_MB: Final = 80
WITHIN_S: Final = 120.0

MODEL: Final = os.urandom(4 * 582_026)
"""Random bytes, as many as the paper's CNN has."""

CONCURRENCY: Final = {"broker": 20, "response": 4}
"""Concurrent calls, by the way of the updates; for `response` the value in configs/edge."""


def memory_mb(pid: int) -> str:
    """Return a process's peak memory and its memory now, as a text."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak, now = (
        next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key)) for key in ("VmHWM", "VmRSS")
    )
    return f"at most {peak:.1f} MB, now {now:.1f} MB{'' if peak < LIMIT_MB else f'  ABOVE {LIMIT_MB} MB'}"


@contextlib.asynccontextmanager
async def bridge(folder: Path, url: str, gateway: str, reply: str) -> AsyncIterator[int]:
    """Run a bridge until the end of the block; yield its process id when it is up.

    Args:
        folder: where its configuration file is written.
        url: the broker's address.
        gateway: the gateway's URL.
        reply: the way of the updates, `broker` or `response`.
    """
    config = folder / f"{reply}.toml"
    config.write_text(f'gateway = "{gateway}"\nreply = "{reply}"\nconcurrency = {CONCURRENCY[reply]}\n')
    command = (sys.executable, "-m", "fedkeeper", "bridge", "openfaas", "--config", str(config), "--url", url)
    dying = processes.signal_on_parent_death(signal.SIGKILL)
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=PIPE, preexec_fn=dying)
    try:
        await _wait_until_up(process)
        async with asyncio.TaskGroup() as group:
            group.create_task(_discard_log(process), name="its log")
            yield process.pid
            process.terminate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _wait_until_up(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    async with asyncio.timeout(WITHIN_S):
        while b"the bridge is up" not in (line := await process.stderr.readline()):
            if not line:
                raise RuntimeError("the bridge ended")


async def _discard_log(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    await process.stderr.read()


async def deploy(gateway: Gateway, clients: list[str]) -> None:
    """Create a function for each client.

    Args:
        gateway: the emulated gateway.
        clients: the clients' ids.
    """
    gateway.provider.limit = len(clients)
    for client in clients:
        await gateway.provider.deploy({"service": client, "image": IMAGE})


async def train(bus: Broker, clients: list[str], round_: int) -> None:
    """Run one round without a server: publish the tasks and wait until each has succeeded.

    Args:
        bus: a connection to the broker.
        clients: the clients' ids.
        round_: the round's number.
    """
    digest = hashlib.sha256(MODEL).hexdigest()
    ref = BlobRef(topics.model("job", digest), digest, len(MODEL))
    await bus.publish(ref.topic, MODEL)
    missing = set(clients)
    invocations = topics.invocation("openfaas", topics.ANY)
    async with asyncio.timeout(WITHIN_S), bus.subscribe(invocations, start="first") as deliveries:
        for client in clients:
            task = task_for(client, round_, ref)
            await bus.publish(
                topics.task("openfaas", client),
                cloudevents.encode(Envelope(task.id, "/benchmarks", "task", 0.0, task.id), task),
            )
        async for delivery in deliveries:
            invocation = cloudevents.data_of(await delivery.read(), Invocation)
            if invocation.outcome == "succeeded" and invocation.round == round_:
                missing.discard(invocation.client)
            if not missing:
                return


def task_for(client: str, round_: int, model: BlobRef) -> RoundTask:
    """Return a client's task.

    Args:
        client: the client's id.
        round_: the round's number.
        model: the published model.
    """
    return RoundTask(
        client_id=client,
        client_type="openfaas",
        url="",
        model_configuration=Model(args={"topics": [topics.update("job", round_, client, 1)]}),
        data_loc="",
        training_hyperparameters=Training(),
        job="job",
        round=round_,
        model=model,
        token="not checked",  # noqa: S106 (no server takes part)
        seed=1,
        deadline_s=time.time() + WITHIN_S,
        max_attempts=3,
    )


async def main(clients: int, rounds: int) -> None:
    """Measure both ways of the updates.

    Args:
        clients: number of clients.
        rounds: number of rounds of each part.
    """
    names = [f"c-{i:02d}" for i in range(clients)]
    with tempfile.TemporaryDirectory(prefix="bridge-memory-") as name:
        folder = Path(name)
        code = write_code(folder / "code")
        async with NatsServer(folder / "nats") as nats, broker.connect(nats.url) as bus:
            for i, reply in enumerate(CONCURRENCY):
                async with openfaas.running({IMAGE: code}) as gateway:
                    await deploy(gateway, names)
                    async with bridge(folder, nats.url, gateway.url, reply) as pid:
                        print(f"{reply:<9} idle               {memory_mb(pid)}", flush=True)
                        for round_ in range(1, rounds + 1):
                            await train(bus, names, i * rounds + round_)
                            print(f"{reply:<9} round {round_}, {clients} clients {memory_mb(pid)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logs.configure(quiet=True)
    asyncio.run(main(arguments.clients, arguments.rounds))
