"""Cost of the system without training: each client returns its 582,026 weights unchanged.

Everything else is real: nats-server with file storage and `sync_interval: always`, FL server, bridge, two worker
processes, a 2.3 MB update per client through the broker, the gate, the exact sum and the commit.

    python -m benchmarks.noop_round [--clients 10 100] [--rounds 12] [--small] [--update delta int8]
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final, get_args

from broker.messages.job import Job
from broker.messages.job_file import from_dict
from broker.messages.progress import RoundCompleted, RoundOpened
from broker.messages.register import ClientRecord
from broker.messages.update_forms import UpdateForm
from broker.support import heap, logs
from fedkeeper.sdk import Client, connect
from fedkeeper.services import system
from fedkeeper.services.system import Settings

WARM_UP: Final = 2
"""Rounds that are not counted: workers start, fetch and build the model."""

SMALL: Final = {"type": "nn", "args": {"input_size": 64, "hidden": 16}}
"""A model of 1,210 parameters, for very many clients."""


def job(clients: int, rounds: int, model: dict[str, Any], update: str = "delta") -> Job:
    """Return a job with everything but training.

    Args:
        clients: number of clients in each round.
        rounds: number of measured rounds.
        model: the section `[model]` of the job.
        update: the form of an update.
    """
    return from_dict(
        {
            "name": "noop",
            "model": model,
            "training": {"dry": True, "update": update},
            "data": {"dataset": "nothing", "clients": clients},
            "cohort": {"clients": clients, "deadline_s": 600.0},
            "evaluation": {"every": 0},
            "stop": {"rounds": rounds + WARM_UP},
        }
    )


async def measure(
    sdk: Client, clients: int, rounds: int, model: dict[str, Any], update: str = "delta"
) -> tuple[list[RoundCompleted], list[float]]:
    """Run a job; return its measured rounds, and the seconds from each round's opening to the next one.

    Args:
        sdk: the system that runs it.
        clients: number of clients.
        rounds: number of measured rounds.
        model: the section `[model]` of the job.
        update: the form of an update.
    """
    names = [f"noop-{i:05d}" for i in range(clients)]
    await sdk.register(
        [ClientRecord(id=name, platform="local", labels={"data": "nothing"}, samples=600) for name in names]
    )
    opened, completed = [], []
    job_id = await sdk.submit(job(clients, rounds, model, update), timeout_s=60)
    async for progress in sdk.watch(job_id):
        if isinstance(progress.event, RoundOpened):
            opened.append(progress.time_s)
        if isinstance(progress.event, RoundCompleted):
            completed.append(progress.event)
    periods = [after - before for before, after in itertools.pairwise(opened)]
    return completed[WARM_UP:], periods[WARM_UP:]


def report(clients: int, rounds: list[RoundCompleted], periods: list[float]) -> None:
    """Print one line of medians.

    Args:
        clients: number of clients.
        rounds: the measured rounds.
        periods: seconds from each round's opening to the next one.
    """
    phases = {
        "round": [completed.split.round_s for completed in rounds],
        "invocation": [completed.split.invocation_s for completed in rounds],
        "clients start": [completed.split.clients_start_s for completed in rounds],
        "updates in": [completed.split.training_s for completed in rounds],
        "aggregation": [completed.split.aggregation_s for completed in rounds],
        "round to round": periods,
    }
    medians = "  ".join(
        f"{name} {statistics.median(values) * 1000:.0f} ms" for name, values in phases.items() if values
    )
    spread = f"{min(phases['round']) * 1000:.0f}-{max(phases['round']) * 1000:.0f} ms"
    print(f"{clients:4d} clients, {len(rounds)} rounds, medians: {medians}  (rounds {spread})")


async def main(cohorts: list[int], rounds: int, model: dict[str, Any], forms: list[str]) -> None:
    """Measure each cohort size and form of updates on one running system.

    Args:
        cohorts: numbers of clients.
        rounds: number of measured rounds.
        model: the section `[model]` of the jobs.
        forms: the forms of updates.
    """
    with tempfile.TemporaryDirectory(prefix="noop-") as folder:
        settings = Settings(Path(folder), workers=system.cores())
        async with system.whole_system(settings, store=settings.folder / "broker") as url, connect(url) as sdk:
            for clients, form in itertools.product(cohorts, forms):
                start_s = time.perf_counter()
                report(clients, *await measure(sdk, clients, rounds, model, form))
                print(f"     ({form}; {time.perf_counter() - start_s:.1f} s in all)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--small", action="store_true", help="1,210 parameters instead of 582,026")
    parser.add_argument("--update", nargs="+", choices=get_args(UpdateForm), default=["delta"])
    arguments = parser.parse_args()
    logs.configure(quiet=True)
    heap.keep_large_blocks()
    of_model = SMALL if arguments.small else {"type": "cnn"}
    asyncio.run(main(arguments.clients, arguments.rounds, of_model, arguments.update))
