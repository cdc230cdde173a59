"""Rounds of the paper's fabric: 3 clients on OpenFaaS, 7 on OpenWhisk, 90 on Google Cloud Functions, all emulated.

    python -m benchmarks.fabric_round [--rounds N] [--rows benchmarks/paper/fabric.jsonl]

Trains the paper's two-layer network on MNIST (FEDKEEPER_DATA) for one local epoch. 100 processes with torch do not fit
into the memory of one machine. Therefore each of the 90 Cloud Functions starts cold in every round, and only a few run
at the same time. `--rows` appends the result as a row to a file: `python -m benchmarks.paper draw` shows the last one
beside the paper's Figure 5.
"""

import argparse
import asyncio
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
import tomli_w
from rich.console import Console

from benchmarks import rows
from benchmarks.paper.runs import device_name
from broker.messages.invocation import InvocationRequest
from broker.messages.job import Job
from broker.messages.progress import ClientTraining, JobCompleted, RoundCompleted, RoundOpened
from emulators.demo import IMAGE, Fabric, command
from emulators.paths import REPOSITORY
from fedkeeper import configs
from fedkeeper.sdk import Client, connect
from fedkeeper.services import system
from server import invitations

OVERRIDES: Final = (
    "training.local_epochs=1",
    "cohort.clients=100",
    "cohort.deadline_s=900",
    "stop.target_accuracy=1.0",
)
INSTANCES: Final = 8
"""How many Cloud Functions run at the same time."""

FOLDER = Path(".fedkeeper/fabric-round")
PAPER = REPOSITORY / "configs/fabric-paper.toml"


def write_local_file(folder: Path) -> Path:
    """Write the paper's deployment file with all addresses on this machine; return its path."""
    raw = msgspec.toml.decode(PAPER.read_text())
    raw["broker"] = {}
    raw["data"] |= {"at": str(folder / "shards"), "stage": True}
    raw["platforms"]["openfaas"]["image"] = IMAGE
    del raw["platforms"]["openwhisk"]["image"], raw["platforms"]["gcf"]["at"]
    path = folder / "fabric-paper.toml"
    path.write_text(tomli_w.dumps(raw))
    return path


def count_processes() -> Counter[str]:
    """Return number and memory of the fabric's processes, by kind. The memory is the proportional set size in MB."""
    totals: Counter[str] = Counter()
    for entry in Path("/proc").iterdir():
        kind = _kind(entry) if entry.name.isdigit() else ""
        if kind:
            totals[f"{kind}, processes"] += 1
            totals[f"{kind}, MB"] += _pss_kb(entry) // 1024
    return totals


def _kind(entry: Path) -> str:
    try:
        line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
    marks = {
        "functions_framework": "gcf function",
        "functions-framework": "gcf function",
        "openfaas/template": "openfaas function",
        "openwhisk/launcher": "openwhisk function",
        "openwhisk.proxy": "openwhisk proxy",
        "emulators.": "emulator",
        "fedkeeper bridge": "bridge",
        "fedkeeper server": "server",
        "nats-server": "broker",
    }
    return next((kind for mark, kind in marks.items() if mark in line), "")


def _pss_kb(entry: Path) -> int:
    try:
        lines = (entry / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


async def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Deploy the fabric, train, print the times, and return them as a row.

    Args:
        folder: a new folder for everything that is written.
        rounds: number of rounds.
    """
    console = Console(highlight=False, soft_wrap=True)
    async with Fabric(folder / "system", start_s=900.0, instances=INSTANCES).up(console) as url:
        start_s = time.monotonic()
        await command(console, "deploy", str(write_local_file(folder)), url=url, quiet=True)
        deployed_s = time.monotonic() - start_s
        print(f"deployed 100 functions in {deployed_s:.1f} s")
        async with connect(url) as sdk:
            job = configs.read_job("mnist-nn", (*OVERRIDES, f"stop.rounds={rounds}"))
            measured = await train(sdk, job)
    return {
        "network": job.model.type,
        "epochs": job.training.local_epochs,
        "clients": job.cohort.clients,
        "instances": {"openfaas": 3, "openwhisk": 7, "gcf": INSTANCES},
        "deployed_s": round(deployed_s, 1),
        "rounds": measured,
        "device": device_name(),
        "cores": system.cores(),
        "commit": rows.commit(),
    }


async def train(sdk: Client, job: Job) -> list[dict[str, Any]]:
    """Run a job, print a line for each round, and return the rounds' times.

    Args:
        sdk: the system that runs it.
        job: the job.
    """
    measured: list[dict[str, Any]] = []
    job_id = await sdk.submit(job)
    cold: Counter[bool | None] = Counter()
    async for progress in sdk.watch(job_id):
        match progress.event:
            case RoundOpened(round=1):
                record = await sdk.job(job_id)
                # The token has the same length with any secret.
                task = invitations.task_for(record.cohort[0], record, "")
                print(f"{len(msgspec.json.encode(InvocationRequest(task, 1)))} bytes per trigger")
            case ClientTraining(cold=is_cold):
                cold[is_cold] += 1
            case RoundCompleted() as completed:
                split = {key: round(value, 2) for key, value in msgspec.to_builtins(completed.split).items()}
                details = {**split, "trained_s": round(completed.trained_s, 1), "bytes_out": completed.bytes_out}
                print(f"round {completed.round}: {len(completed.counted)} clients, {cold[True]} cold: {details}")
                measured.append({"counted": len(completed.counted), "cold": cold[True], **details})
                cold.clear()
                for kind, value in sorted(count_processes().items()):
                    print(f"  {kind:<28}{value:>8}")
            case JobCompleted(accuracy=accuracy):
                print(f"accuracy {accuracy}")
    return measured


def main() -> None:
    """Run the benchmark with the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=Path, help="the file to append the result to")
    options, folder = parser.parse_args(), FOLDER.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    row = asyncio.run(measure(folder, options.rounds))
    if options.rows:
        rows.append(row, options.rows)


if __name__ == "__main__":
    main()
