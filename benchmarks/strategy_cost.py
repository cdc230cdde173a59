"""What each strategy costs the server: memory, seconds from the last update to the committed model, bytes.

    python -m benchmarks.strategy_cost [--clients 100] [--only median krum]

The server is a process of its own, with a model of 582,026 float32 parameters that needs no training. The clients are
programs that send noise of an update's size. Each strategy has a server, a broker and a job of its own, of three
rounds; the seconds are the median of the last two. Memory is the peak of the server's resident memory (VmHWM).
"""

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import broker
from benchmarks.processes import MB, memory_mb
from benchmarks.server_memory import (
    PLATFORM,
    answer_tasks,
    dry_client,
    dry_header,
    running_server,
    weights,
)
from bridges import presence
from broker.base import Broker
from broker.messages import job_file, strategy
from broker.messages.progress import RoundCompleted
from broker.messages.round import RoundTask
from broker.messages.tensors import Tensors
from broker.messages.update import UpdateHeader
from broker.nats.server import NatsServer
from broker.support.tasks import task_group
from fedkeeper.sdk import Client

PARAMETERS: Final = 582_026
ROUNDS: Final = 3

STRATEGIES: Final[dict[str, dict[str, Any]]] = {
    "fedavg": {"name": "fedavg"},
    "guarded fedavg": {"name": "fedavg", "guard": {"name": "median"}},
    "fedavgm": {"name": "fedavgm"},
    "fedadagrad": {"name": "fedadagrad"},
    "fedadam": {"name": "fedadam"},
    "fedyogi": {"name": "fedyogi"},
    "fedprox": {"name": "fedprox"},
    "fednova": {"name": "fednova"},
    "scaffold": {"name": "scaffold"},
    "feddyn": {"name": "feddyn"},
    "qfedavg": {"name": "qfedavg"},
    "median": {"name": "median"},
    "guarded median": {"name": "median", "guard": {"name": "median"}},
    "trimmed mean": {"name": "trimmed_mean"},
    "krum": {"name": "krum"},
    "multi-krum": {"name": "krum", "keep": 5},
}


class Cost(NamedTuple):
    """What a strategy costs.

    Attributes:
        peak_mb: peak of the server's memory, in MB.
        commit_s: from the last update to the committed model, in seconds.
        round_s: a whole round, in seconds.
        up_mb: bytes that all clients send in a round, in MB.
        down_mb: bytes that a client without a cache reads for a task, in MB.
    """

    peak_mb: float
    commit_s: float
    round_s: float
    up_mb: float
    down_mb: float


async def measure(table: dict[str, Any], clients: int) -> Cost:
    """Run a job with a strategy and return what it costs.

    Args:
        table: the strategy, as a job file has it.
        clients: number of clients in a round.
    """
    megabytes = PARAMETERS * 4 / MB
    with tempfile.TemporaryDirectory() as folder:
        async with (
            NatsServer(Path(folder)) as nats,
            broker.connect(nats.url) as bus,
            running_server(nats.url, megabytes) as pid,
        ):
            return await _run(bus, pid, table, clients)


async def _run(bus: Broker, pid: int, table: dict[str, Any], clients: int) -> Cost:
    sdk, ended, senders = Client(bus), list[RoundCompleted](), _Clients()
    await sdk.register([dry_client(number) for number in range(clients)])
    async with task_group() as group:
        tasks = [
            group.create_task(presence.announce(bus, presence.Bridge(PLATFORM)), name="presence"),
            group.create_task(answer_tasks(bus, senders.update_of), name="clients"),
        ]
        async for update in sdk.watch(await sdk.submit(_job(table, clients))):
            if isinstance(update.event, RoundCompleted):
                ended.append(update.event)
        for task in tasks:
            task.cancel()
    warm = ended[1:]
    return Cost(
        peak_mb=memory_mb(pid, "VmHWM"),
        commit_s=statistics.median(event.split.aggregation_s for event in warm),
        round_s=statistics.median(event.split.round_s for event in warm),
        up_mb=warm[-1].bytes_in / MB,
        down_mb=max(senders.down) / MB,
    )


def _job(table: dict[str, Any], clients: int) -> Any:
    spec = {
        "name": "dry",
        "strategy": table,
        "training": {"optimizer": "sgd", "learning_rate": 0.1},
        "data": {"dataset": "dry", "clients": clients},
        "cohort": {"clients": clients, "deadline_s": 3600, "grace_s": 0},
        "evaluation": {"every": 0},
        "stop": {"rounds": ROUNDS},
    }
    return job_file.from_dict(spec)


class _Clients:
    """What the clients send.

    Attributes:
        down: number of bytes that each task refers to.
    """

    def __init__(self) -> None:
        self.down: list[int] = []
        self._noise = [_noise(seed) for seed in range(8)]

    def update_of(self, task: RoundTask) -> tuple[Tensors, UpdateHeader]:
        """Return the update of a task: noise, and what the strategy needs beside it."""
        self.down.append(sum(blob.bytes for blob in task.blobs))
        number = int(task.client_id.rpartition("-")[2])
        update = self._noise[number % len(self._noise)]
        if isinstance(task.strategy, strategy.Scaffold):
            update = {**update, **{f"aux.{name}": tensor for name, tensor in update.items()}}
        metrics = {"steps": 5.0 + number % 3, "global_loss": 1.0}
        return update, dry_header(task, metrics=metrics, strategy=strategy.name_of(task.strategy))


def _noise(seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    model = weights(PARAMETERS * 4 / MB)
    return {name: (1e-3 * rng.standard_normal(each.shape)).astype(np.float32) for name, each in model.items()}


def main() -> None:
    """Read the arguments, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    options = parser.parse_args()
    costs = {name: asyncio.run(measure(STRATEGIES[name], options.clients)) for name in options.only}
    table = Table("strategy", "peak MB", "commit s", "round s", "up MB", "down MB")
    for name, cost in costs.items():
        table.add_row(name, f"{cost.peak_mb:.0f}", f"{cost.commit_s:.3f}", *(f"{value:.2f}" for value in cost[2:]))
    Console(width=80).print(table)


if __name__ == "__main__":
    main()
