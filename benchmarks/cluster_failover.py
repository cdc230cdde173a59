"""How long a job stands still when a node of a NATS cluster is killed in a round.

Three nats-servers on this machine, three replicas of every stream, FL server, bridge and workers. Each node in turn is
killed during a round and started again when the job is over. The final model must be that of the undisturbed job.

    python -m benchmarks.cluster_failover [--clients 6] [--rounds 12] [--times 2]
"""

import argparse
import asyncio
import itertools
import socket
import tempfile
import time
from pathlib import Path
from typing import Final

from broker.messages.job import Job
from broker.messages.job_file import from_dict
from broker.messages.progress import JobCompleted, Progress, RoundOpened
from broker.messages.register import ClientRecord
from broker.support import logs
from emulators.nats_cluster import NODES, Cluster, running_cluster
from fedkeeper.sdk import Client, connect
from fedkeeper.services import system
from fedkeeper.services.system import Settings

LIMIT_S: Final = 300.0


def job(clients: int, rounds: int) -> Job:
    """Return a job whose rounds are short: a small model, untrained.

    Args:
        clients: number of clients in each round.
        rounds: number of rounds.
    """
    return from_dict(
        {
            "name": "failover",
            "model": {"type": "nn", "args": {"input_size": 64, "hidden": 16}},
            "training": {"dry": True},
            "data": {"dataset": "nothing", "clients": clients},
            "cohort": {"clients": clients, "quorum": 1.0, "deadline_s": 120.0},
            "evaluation": {"every": 0},
            "stop": {"rounds": rounds},
        }
    )


async def run_job(sdk: Client, spec: Job, cluster: Cluster, node: int | None) -> tuple[list[Progress], float]:
    """Run a job, and kill a node when half of its rounds are over.

    Args:
        sdk: the system that runs the job.
        spec: the job.
        cluster: the cluster.
        node: the node to kill; None for none.

    Returns:
        The job's events, and when the node was killed, in seconds since the epoch.
    """
    events, killed_s = list[Progress](), 0.0
    job_id = await sdk.submit(spec, timeout_s=60)
    async with asyncio.timeout(LIMIT_S):
        async for progress in sdk.watch(job_id):
            events.append(progress)
            is_half = isinstance(progress.event, RoundOpened) and progress.event.round == spec.stop.rounds // 2
            if is_half and node is not None and not killed_s:
                killed_s = time.time()
                await cluster.nodes[node].kill()
    return events, killed_s


def report(node: int, events: list[Progress], killed_s: float, digest: str) -> None:
    """Print one line.

    Args:
        node: the node that was killed.
        events: the job's events.
        killed_s: when it was killed, in seconds since the epoch.
        digest: of the undisturbed job's model.
    """
    times_s = [progress.time_s for progress in events if progress.time_s > killed_s]
    pause_s = max(after - before for before, after in itertools.pairwise([killed_s, *times_s]))
    answer = "equal" if digest_of(events) == digest else "DIFFERENT"
    print(f"node {node} killed: stood still for {pause_s:4.1f} s, digest {answer}, {len(events)} events", flush=True)


def digest_of(events: list[Progress]) -> str:
    """Return the digest of a completed job's model; empty if the job was not completed."""
    end = events[-1].event
    return end.model.sha256 if isinstance(end, JobCompleted) and end.model is not None else ""


async def main(clients: int, rounds: int, times: int) -> None:
    """Kill each node several times.

    Args:
        clients: number of clients.
        rounds: rounds of a job.
        times: number of times that each node is killed.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2 * NODES)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    with tempfile.TemporaryDirectory(prefix="failover-") as folder:
        settings, spec = Settings(Path(folder), workers=2), job(clients, rounds)
        async with (
            running_cluster(Path(folder), ports) as cluster,
            system.services(cluster.url, settings),
            connect(cluster.url) as sdk,
        ):
            names = [f"client-{i:03d}" for i in range(clients)]
            labels = {"data": "nothing"}
            await sdk.register([ClientRecord(id=name, platform="local", labels=labels, samples=600) for name in names])
            events, _ = await run_job(sdk, spec, cluster, None)
            print(f"undisturbed: {events[-1].time_s - events[0].time_s:.1f} s, {len(events)} events", flush=True)
            for node in list(range(NODES)) * times:
                report(node, *await run_job(sdk, spec, cluster, node), digest_of(events))
                await cluster.nodes[node].start()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--times", type=int, default=2)
    options = parser.parse_args()
    logs.configure(quiet=True)
    asyncio.run(main(options.clients, options.rounds, options.times))
