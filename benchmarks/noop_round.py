"""What the fabric alone costs: rounds in which every client returns the 582,026 weights that it got, untrained.

Everything else is real: nats-server with file storage and `sync_interval: always`, FL server, bridge, two worker
processes, a 2.3 MB update per client through the broker, the gate, the exact sum, the commit.

    python -m benchmarks.noop_round [--clients 10 100] [--rounds 12] [--small]
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from broker.messages.job import Job, from_dict
from broker.messages.progress import RoundCompleted, RoundOpened
from broker.messages.register import ClientRecord
from broker.support import heap, logs
from fedkeeper import system
from fedkeeper.sdk import Client, connect
from fedkeeper.system import Settings

WARM_UP: Final = 2
"""Rounds left out: workers start, fetch, build."""


SMALL: Final = {"type": "nn", "args": {"input_size": 64, "hidden": 16}}
"""1,210 parameters, for very many clients."""


def job(clients: int, rounds: int, model: dict[str, Any]) -> Job:
    """A dry job: everything but training."""
    return from_dict(
        {
            "name": "noop",
            "model": model,
            "training": {"dry": True},
            "data": {"dataset": "nothing", "clients": clients},
            "cohort": {"clients": clients, "deadline_s": 600.0},
            "evaluation": {"every": 0},
            "stop": {"rounds": rounds + WARM_UP},
        }
    )


async def measure(
    fabric: Client, clients: int, rounds: int, model: dict[str, Any]
) -> tuple[list[RoundCompleted], list[float]]:
    """The measured rounds, and the wall time from each one's opening to the next one's."""
    names = [f"noop-{i:05d}" for i in range(clients)]
    await fabric.register(
        [ClientRecord(id=name, platform="local", labels={"data": "nothing"}, samples=600) for name in names]
    )
    opened, completed = [], []
    job_id = await fabric.submit(job(clients, rounds, model), timeout_s=60)
    async for said in fabric.watch(job_id):
        if isinstance(said.event, RoundOpened):
            opened.append(said.time_s)
        if isinstance(said.event, RoundCompleted):
            completed.append(said.event)
    periods = [after - before for before, after in itertools.pairwise(opened)]
    return completed[WARM_UP:], periods[WARM_UP:]


def report(clients: int, rounds: list[RoundCompleted], periods: list[float]) -> None:
    """One line of medians."""
    parts = {
        "round": [one.split.round_s for one in rounds],
        "invocation": [one.split.invocation_s for one in rounds],
        "clients start": [one.split.clients_start_s for one in rounds],
        "updates in": [one.split.training_s for one in rounds],
        "aggregation": [one.split.aggregation_s for one in rounds],
        "round to round": periods,
    }
    shown = "  ".join(f"{name} {statistics.median(values) * 1000:.0f} ms" for name, values in parts.items() if values)
    spread = f"{min(parts['round']) * 1000:.0f}-{max(parts['round']) * 1000:.0f} ms"
    print(f"{clients:4d} clients, {len(rounds)} rounds, medians: {shown}  (rounds {spread})")


async def main(cohorts: list[int], rounds: int, model: dict[str, Any]) -> None:
    """Measure each cohort on one running system."""
    with tempfile.TemporaryDirectory(prefix="noop-") as folder:
        settings = Settings(Path(folder), workers=system.cores())
        async with system.whole_system(settings, store=settings.folder / "broker") as url, connect(url) as fabric:
            for clients in cohorts:
                started = time.perf_counter()
                report(clients, *await measure(fabric, clients, rounds, model))
                print(f"     ({time.perf_counter() - started:.1f} s in all)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--small", action="store_true", help="1,210 parameters instead of 582,026")
    arguments = parser.parse_args()
    logs.configure(quiet=True)
    heap.keep_large_blocks()
    asyncio.run(main(arguments.clients, arguments.rounds, SMALL if arguments.small else {"type": "cnn"}))
