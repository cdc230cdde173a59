"""Rounds of the paper's fabric: 3 clients on OpenFaaS, 7 on OpenWhisk, 90 on Google Cloud Functions, emulated here.

`python -m benchmarks.fabric_round [--rounds N]`: MNIST (FEDKEEPER_DATA), the paper's two-layer network, one epoch.
A round is cold but for OpenFaaS and OpenWhisk: 100 processes with torch do not fit into this machine's memory, so each
of Cloud Functions' 90 is started for its turn, and ended for the next one's.
"""

import argparse
import asyncio
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec
import tomli_w
from rich.console import Console

from broker.messages.invocation import InvocationRequest
from broker.messages.job import Job
from broker.messages.progress import ClientTraining, JobCompleted, RoundCompleted, RoundOpened
from emulators.demo import IMAGE, Fabric, command
from emulators.paths import REPOSITORY
from fedkeeper import configs
from fedkeeper.sdk import Client as FedKeeper
from fedkeeper.sdk import connect
from server import invitations
from server.strategy import FedAvg

CHANGES: Final = (
    "training.local_epochs=1",
    "cohort.clients=100",
    "cohort.deadline_s=900",
    "stop.target_accuracy=1.0",
)
INSTANCES: Final = 8
FOLDER = Path(".fedkeeper/fabric-round")
PAPER = REPOSITORY / "configs/fabric-paper.toml"


def here(folder: Path) -> Path:
    """The paper's fabric with everything on this machine."""
    raw = msgspec.toml.decode(PAPER.read_text())
    raw["broker"] = {}
    raw["data"] |= {"at": str(folder / "shards"), "stage": True}
    raw["platforms"]["openfaas"]["image"] = IMAGE
    del raw["platforms"]["openwhisk"]["image"], raw["platforms"]["gcf"]["at"]
    path = folder / "fabric-paper.toml"
    path.write_text(tomli_w.dumps(raw))
    return path


def processes() -> Counter[str]:
    """Memory of this machine's processes of the fabric: proportional set size in MB, by what they are."""
    found: Counter[str] = Counter()
    for entry in Path("/proc").iterdir():
        kind = _kind(entry) if entry.name.isdigit() else ""
        if kind:
            found[f"{kind}, processes"] += 1
            found[f"{kind}, MB"] += _pss_kb(entry) // 1024
    return found


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


async def measure(folder: Path, rounds: int) -> None:
    """Deploy, train, and print what it took."""
    console = Console(highlight=False, soft_wrap=True)
    async with Fabric(folder / "system", start_s=900.0, instances=INSTANCES).up(console) as url:
        begun_s = time.monotonic()
        await command(console, "deploy", str(here(folder)), url=url, quiet=True)
        print(f"deployed 100 functions in {time.monotonic() - begun_s:.1f} s")
        async with connect(url) as fabric:
            await train(fabric, configs.read_job("mnist-nn", (*CHANGES, f"stop.rounds={rounds}")))


async def train(fabric: FedKeeper, job: Job) -> None:
    """Run the job; a line for each round."""
    name = await fabric.submit(job)
    cold: Counter[bool | None] = Counter()
    async for said in fabric.watch(name):
        match said.event:
            case RoundOpened(round=1):
                record = await fabric.job(name)
                # Any nonce gives a token of this length.
                task = invitations.task_for(record.cohort[0], record, "", FedAvg())
                print(f"{len(msgspec.json.encode(InvocationRequest(task, 1)))} bytes per trigger")
            case ClientTraining(cold=started):
                cold[started] += 1
            case RoundCompleted() as completed:
                split = {key: round(value, 2) for key, value in msgspec.to_builtins(completed.split).items()}
                shown = {**split, "trained_s": round(completed.trained_s, 1), "bytes_out": completed.bytes_out}
                print(f"round {completed.round}: {len(completed.counted)} clients, {cold[True]} cold: {shown}")
                cold.clear()
                for kind, value in sorted(processes().items()):
                    print(f"  {kind:<28}{value:>8}")
            case JobCompleted(accuracy=accuracy):
                print(f"accuracy {accuracy}")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds, folder = parser.parse_args().rounds, FOLDER.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    asyncio.run(measure(folder, rounds))


if __name__ == "__main__":
    main()
