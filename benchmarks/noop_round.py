"""Cost of the system without training: each client answers at once with an update of the model's size.

Everything else is real: nats-server with file storage and `sync_interval: always`, FL server, bridge, two worker
processes, an update of 2.3 MB (582,026 parameters) per client through the broker, the gate, the exact sum and the
commit.

    python -m benchmarks.noop_round [--clients 10 100] [--rounds 12] [--small] [--apart]

For each number of clients it prints the phases of a round, and which process used how much of a core in it. With
`--apart`, server and bridge are processes of their own, as with `fedkeeper server` and `fedkeeper bridge local`.
"""

import argparse
import asyncio
import contextlib
import itertools
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import processes
from broker.messages.job import Job
from broker.messages.job_file import from_dict
from broker.messages.progress import RoundCompleted
from broker.messages.register import ClientRecord
from broker.support import heap, logs
from fedkeeper.sdk import Client, connect
from fedkeeper.services import system
from fedkeeper.services.store import open_store
from fedkeeper.services.system import Settings

WARM_UP: Final = 2
"""Rounds that are not counted: workers start, fetch and build the model."""

SMALL: Final = {"type": "nn", "args": {"input_size": 64, "hidden": 16}}
"""A model of 1,210 parameters, for very many clients."""

PHASES: Final = {"invocation": "invocation_s", "clients start": "clients_start_s", "updates in": "training_s",
                 "aggregation": "aggregation_s"}  # fmt: skip
"""The phases of a round, in order, and their names in `Split`."""


class Rounds(NamedTuple):
    """The measured rounds of a job.

    Attributes:
        completed: the server's event of each.
        periods_s: from the commit before it to its own commit, in seconds: with all that lies between two rounds.
        cpu_s: how long each kind of process used a core per round, in seconds.
    """

    completed: list[RoundCompleted]
    periods_s: list[float]
    cpu_s: dict[str, float]

    def phase_s(self, name: str) -> float:
        """Return the median of a phase, in seconds.

        Args:
            name: a key of PHASES.
        """
        values: list[float] = [getattr(completed.split, PHASES[name]) for completed in self.completed]
        return statistics.median(values)


def job(clients: int, rounds: int, model: Mapping[str, Any], **training: Any) -> Job:
    """Return a job with everything but training.

    Args:
        clients: number of clients in each round.
        rounds: number of measured rounds.
        model: the section `[model]` of the job.
        training: more of the section `[training]`.
    """
    return from_dict(
        {
            "name": "noop",
            "model": model,
            "training": {"dry": True, **training},
            "data": {"dataset": "nothing", "clients": clients},
            "cohort": {"clients": clients, "deadline_s": 600.0},
            "evaluation": {"every": 0},
            "stop": {"rounds": rounds + WARM_UP},
        }
    )


async def register(sdk: Client, clients: int) -> None:
    """Register so many clients.

    Args:
        sdk: the system.
        clients: their number.
    """
    names = [f"noop-{i:05d}" for i in range(clients)]
    await sdk.register(
        [ClientRecord(id=name, platform="local", labels={"data": "nothing"}, samples=600) for name in names]
    )


async def measure(sdk: Client, job: Job) -> Rounds:
    """Run a job and return its measured rounds.

    Args:
        sdk: the system that runs it; its processes are this one's descendants.
        job: what `job` has returned; its clients are registered.
    """
    last = job.stop.rounds
    completed, times_s, cpu = list[RoundCompleted](), list[float](), dict[int, dict[str, float]]()
    job_id = await sdk.submit(job, timeout_s=60)
    async for progress in sdk.watch(job_id):
        if isinstance(event := progress.event, RoundCompleted):
            completed.append(event)
            times_s.append(progress.time_s)
            if event.round in {WARM_UP, last}:
                cpu[event.round] = processes.cpu_s()
    if len(completed) < last:
        raise RuntimeError(f"the job ended after {len(completed)} of {last} rounds")
    periods = [after - before for before, after in itertools.pairwise(times_s)]
    before = cpu[WARM_UP]
    used = {role: (after - before.get(role, 0.0)) / (last - WARM_UP) for role, after in cpu[last].items()}
    return Rounds(completed[WARM_UP:], periods[WARM_UP - 1 :], used)


def report(clients: int, rounds: Rounds) -> str:
    """Return what was measured, as lines for people.

    Args:
        clients: number of clients.
        rounds: the measured rounds.
    """
    phases = {name: rounds.phase_s(name) for name in PHASES}
    # A median for each phase does not add up to the median of the rounds.
    phases["between rounds"] = statistics.median(
        period - completed.split.round_s for period, completed in zip(rounds.periods_s, rounds.completed, strict=True)
    )
    whole = f"{statistics.median(rounds.periods_s) * 1000:.0f} ms"
    spread = f"{min(rounds.periods_s) * 1000:.0f} to {max(rounds.periods_s) * 1000:.0f}"
    lines = [f"{clients} clients, {len(rounds.periods_s)} rounds: {whole} per round ({spread})"]
    lines += [f"  {name:<16}{seconds * 1000:8.1f} ms" for name, seconds in phases.items()]
    lines.append("  a core was used per round by")
    total = sum(rounds.cpu_s.values())
    used = sorted(rounds.cpu_s.items(), key=lambda item: -item[1])
    lines += [f"  {role:<16}{seconds * 1000:8.1f} ms" for role, seconds in [*used, ("all together", total)]]
    return "\n".join(lines)


@contextlib.asynccontextmanager
async def open_system(folder: Path, *, is_apart: bool = False) -> AsyncIterator[Client]:
    """Run a whole system until the end of the block, and yield a client of it.

    Args:
        folder: for all that it writes.
        is_apart: whether server and bridge are processes of their own.
    """
    async with contextlib.AsyncExitStack() as stack:
        if is_apart:
            url = await stack.enter_async_context(_apart(folder))
        else:
            settings = Settings(folder, workers=system.cores())
            url = await stack.enter_async_context(system.whole_system(settings, store=folder / "broker"))
        yield await stack.enter_async_context(connect(url))


@contextlib.asynccontextmanager
async def _apart(folder: Path) -> AsyncIterator[str]:
    async with open_store(folder / "broker") as nats:
        parts = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fedkeeper", *words, "--url", nats.url, "--dir", str(folder)),
                stderr=asyncio.subprocess.DEVNULL,
            )
            for words in (("server",), ("bridge", "local"))
        ]
        try:
            yield nats.url
        finally:
            for part in parts:
                part.terminate()
            for part in parts:
                await part.wait()


async def main(cohorts: list[int], rounds: int, model: Mapping[str, Any], *, is_apart: bool) -> None:
    """Measure each cohort size on one running system.

    Args:
        cohorts: numbers of clients, in ascending order.
        rounds: number of measured rounds.
        model: the section `[model]` of the jobs.
        is_apart: whether server and bridge are processes of their own.
    """
    with tempfile.TemporaryDirectory(prefix="noop-") as folder:
        async with open_system(Path(folder), is_apart=is_apart) as sdk:
            for clients in cohorts:
                await register(sdk, clients)
                print(report(clients, await measure(sdk, job(clients, rounds, model))), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--small", action="store_true", help="1,210 parameters instead of 582,026")
    parser.add_argument("--apart", action="store_true", help="server and bridge as processes of their own")
    options = parser.parse_args()
    logs.configure(quiet=True)
    heap.keep_large_blocks()
    chosen = SMALL if options.small else {"type": "cnn"}
    asyncio.run(main(sorted(options.clients), options.rounds, chosen, is_apart=options.apart))
