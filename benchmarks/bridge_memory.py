"""What an edge bridge takes of a small board's memory: `fedkeeper bridge openfaas`, idle and in rounds of 20 clients.

    python -m benchmarks.bridge_memory [--clients 20] [--rounds 3]

Broker, bridge and functions are real processes, the gateway is emulated, and the functions train nothing. Once they
publish by themselves, which is the default (`reply = "broker"`), and once model and update of 2.3 MB each travel
through the bridge (`reply = "response"`). VmHWM is the most that the process ever had, VmRSS what it has now.
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
from broker.messages.job import Model, Training
from broker.messages.round import BlobRef, RoundTask
from broker.nats.server import NatsServer
from broker.support import logs, processes
from emulators.openfaas import gateway as openfaas
from emulators.openfaas.gateway import Gateway
from emulators.openfaas.scripted import IMAGE, write_code

BAR_MB: Final = 80
WITHIN_S: Final = 120.0

MODEL: Final = os.urandom(4 * 582_026)
"""As many bytes as the paper's CNN has."""

CONCURRENCY: Final = {"broker": 20, "response": 4}
"""Calls under way at once, by how updates come back; for `response` what configs/edge says."""


def memory_mb(pid: int) -> str:
    """The most that a process ever had, and what it has now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    most, now = (next(int(line.split()[1]) / 1024 for line in lines if line.startswith(k)) for k in ("VmHWM", "VmRSS"))
    return f"at most {most:.1f} MB, now {now:.1f} MB{'' if most < BAR_MB else f'  ABOVE {BAR_MB} MB'}"


@contextlib.asynccontextmanager
async def bridge(folder: Path, url: str, gateway: str, reply: str) -> AsyncIterator[int]:
    """The bridge's process, once it is up; yields its id."""
    config = folder / f"{reply}.toml"
    config.write_text(f'gateway = "{gateway}"\nreply = "{reply}"\nconcurrency = {CONCURRENCY[reply]}\n')
    command = (sys.executable, "-m", "fedkeeper", "bridge", "openfaas", "--config", str(config), "--url", url)
    dying = processes.signal_on_parent_death(signal.SIGKILL)
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=PIPE, preexec_fn=dying)
    try:
        await _up(process)
        async with asyncio.TaskGroup() as group:
            group.create_task(_read_on(process), name="its log")
            yield process.pid
            process.terminate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _up(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    async with asyncio.timeout(WITHIN_S):
        while b"the bridge is up" not in (line := await process.stderr.readline()):
            if not line:
                raise RuntimeError("the bridge ended")


async def _read_on(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    await process.stderr.read()


async def deploy(gateway: Gateway, clients: list[str]) -> None:
    """A function for each client."""
    gateway.provider.limit = len(clients)
    for client in clients:
        await gateway.provider.deploy({"service": client, "image": IMAGE})


async def train(bus: Broker, clients: list[str], round_: int) -> None:
    """A round without a server: tasks out, until each of them has succeeded."""
    digest = hashlib.sha256(MODEL).hexdigest()
    ref = BlobRef(topics.model("job", digest), digest, len(MODEL))
    await bus.publish(ref.topic, MODEL)
    waiting = set(clients)
    ends = topics.invocation("openfaas", topics.ANY)
    async with asyncio.timeout(WITHIN_S), bus.subscribe(ends, start="first") as deliveries:
        for client in clients:
            one = task_for(client, round_, ref)
            await bus.publish(topics.task("openfaas", client), cloudevents.encode(_envelope(one.id), one))
        async for delivery in deliveries:
            said = cloudevents.data_of(await delivery.read(), Invocation)
            if said.outcome == "succeeded" and said.round == round_:
                waiting.discard(said.client)
            if not waiting:
                return


def task_for(client: str, round_: int, model: BlobRef) -> RoundTask:
    """A task whose function returns its update with its answer, where the bridge asks for that."""
    return RoundTask(
        client_id=client,
        client_type="openfaas",
        url="",
        model_configuration=Model(),
        data_loc="",
        training_hyperparameters=Training(),
        job="job",
        round=round_,
        model=model,
        state=None,
        token="nobody checks it",  # noqa: S106 (no server takes part)
        seed=1,
        deadline_s=time.time() + WITHIN_S,
        max_attempts=3,
        client_config={"topics": [topics.update("job", round_, client, 1)]},
    )


def _envelope(name: str) -> Envelope:
    return Envelope(name, "/benchmarks", "task", 0.0, name)


async def main(clients: int, rounds: int) -> None:
    """Measure both ways of an update."""
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
