"""Seconds of a round's training: clients one by one in one trainer, against the same clients in one program.

The trainer is the system's own, with its memory, its answers and its updates; only the broker is missing. The samples
are random: 600 images of 28x28 for each client, 5 epochs of batch 10 with Adam, 300 steps each. On a GPU the program is
measured without and with a CUDA graph. The distance is the largest one of a client's update from the one that it has
alone, as a share of that one's norm. The last column says whether a replayed step gave what the step itself gives.

    python -m benchmarks.together [--device cuda] [--models nn cnn] [--clients 10 100] [--repeat 3] [--small]
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from benchmarks import rows
from broker.support import logs
from client_fn import alike
from client_fn.site import MOST_TOGETHER, Site, machine_memory_mb
from client_fn.trainer.answers import Answer
from client_fn.trainer.process import Trainer
from client_fn.trainer.shared import SharedBytes
from client_fn.training.orders import Build, Model, Train, Training

Member = tuple[Train, dict[str, SharedBytes]]

COLUMNS: Final = ("model", "clients", "device", "one by one", "together", "replayed", "ratio", "distance", "graph")


class Plan(NamedTuple):
    """What is measured.

    Attributes:
        models: `nn`, `cnn`.
        clients: numbers of clients.
        device: torch's name of the device.
        repeat: how often each way is measured.
        samples: of each client.
        epochs: of each client.
        hidden: width of the `nn`; 0: the paper's.
    """

    models: Sequence[str] = ("nn", "cnn")
    clients: Sequence[int] = (10,)
    device: str = "cpu"
    repeat: int = 3
    samples: int = 600
    epochs: int = 5
    hidden: int = 0

    def small(self) -> "Plan":
        """Return a plan that shows in seconds that everything works. On a GPU it has enough steps for a graph."""
        return self._replace(repeat=1, samples=20, epochs=1 if self.device == "cpu" else 15, hidden=16)


class Trained(NamedTuple):
    """What a training in as few programs as possible has brought.

    Attributes:
        answers: of the clients.
        replayed: number of steps that were made from a record.
        unrecorded: why a record was not used; empty: none has failed.
    """

    answers: list[Answer]
    replayed: int
    unrecorded: str

    @property
    def graph(self) -> str:
        """Whether the first replayed step gave what the step itself gives."""
        return "failed" if self.unrecorded else "passed" if self.replayed else "not used"


async def measure(trainer: Trainer, plan: Plan, model: str, clients: int) -> dict[str, Any]:
    """Return a row: the medians of all ways, in seconds, after a first training that does not count.

    Args:
        trainer: trains.
        plan: says how; the ways take turns.
        model: `nn` or `cnn`.
        clients: number of clients.
    """
    members = await members_of(trainer, plan, model, clients)
    seconds: dict[str, list[float]] = {way: [] for way in ("one by one", "together", "replayed")}
    distance, told = 0.0, {"graph": "not used", "unrecorded": "", "replayed steps": 0}
    for number in range(plan.repeat + 1):
        begin_s = time.perf_counter()
        alone = [await trainer.do(order, files) for order, files in members]
        if number:
            seconds["one by one"].append(time.perf_counter() - begin_s)
        for way in ("together",) if plan.device == "cpu" else ("together", "replayed"):
            begin_s = time.perf_counter()
            trained = await train_together(trainer, members, graph=way == "replayed")
            if number:
                seconds[way].append(time.perf_counter() - begin_s)
            distance = max(distance, *map(distance_of, trained.answers, alone))
            if way == "replayed" and told["graph"] != "failed":
                told = {"graph": trained.graph, "unrecorded": trained.unrecorded, "replayed steps": trained.replayed}
    medians: dict[str, Any] = {
        way: round(statistics.median(each), 3) if each else None for way, each in seconds.items()
    }
    ratio = round(medians["one by one"] / (medians["replayed"] or medians["together"]), 2)
    row = {"model": model, "clients": clients, "device": plan.device, **medians, "ratio": ratio, "distance": distance}
    return row | told


async def members_of(trainer: Trainer, plan: Plan, model: str, clients: int) -> list[Member]:
    """Return the clients' orders and their files.

    Args:
        trainer: builds the model.
        plan: says how they are trained.
        model: `nn` or `cnn`.
        clients: number of clients.
    """
    args = {"hidden": plan.hidden} if plan.hidden and model == "nn" else {}
    named = Model(model, args)
    weights = SharedBytes((await trainer.do(Build(named, seed=1), {})).files["weights"])
    random = np.random.default_rng(1)
    members = []
    for number in range(clients):
        x = random.random((plan.samples, 28, 28), dtype=np.float32)
        shard = safetensors.numpy.save({"x": x, "y": random.integers(0, 10, plan.samples)})
        order = Train(named, Training(local_epochs=plan.epochs), seed=number, device=plan.device, left_s=3600.0)
        members.append((order, {"weights": weights, "shard": SharedBytes(shard)}))
    return members


async def train_together(trainer: Trainer, members: Sequence[Member], *, graph: bool = True) -> Trained:
    """Train clients in as few programs as possible.

    Args:
        trainer: trains.
        members: the clients' orders and files.
        graph: whether steps may be replayed.

    Raises:
        SystemExit: a client was not trained with the others.
    """
    parts = -(-len(members) // MOST_TOGETHER)
    answers: list[Answer] = []
    replayed, unrecorded = 0, ""
    for part in range(parts):
        own = members[part::parts]
        order, files = alike.order_for(own, machine_memory_mb(), graph=graph)
        answer = await trainer.do(order, files)
        replayed += answer.facts.get("replayed", 0)
        unrecorded = unrecorded or answer.facts.get("unrecorded", "")
        for found in alike.answers_of(answer, len(own)):
            if isinstance(found, str):
                raise SystemExit(f"a client must be trained alone: {found}")
            answers.append(found)
    # As the parts were dealt, so they are put together again.
    dealt = [number for part in range(parts) for number in range(part, len(members), parts)]
    in_order = [answer for _, answer in sorted(zip(dealt, answers, strict=True), key=lambda pair: pair[0])]
    return Trained(in_order, replayed, unrecorded)


def distance_of(got: Answer, expected: Answer) -> float:
    """Return how far an update is from the expected one, as a share of that one's norm.

    Args:
        got: a client's answer.
        expected: the answer of the same client, trained alone.
    """
    found, wanted = _flat(got), _flat(expected)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _flat(answer: Answer) -> NDArray[np.float64]:
    named = safetensors.numpy.load(answer.files["update"])
    return np.concatenate([named[name].ravel().astype(np.float64) for name in sorted(named)])


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row's cells for a table."""
    ways = (row[name] for name in ("one by one", "together", "replayed"))
    seconds = ["-" if found is None else f"{found:.2f} s" for found in ways]
    ratio, distance = f"{row['ratio']:.1f}", f"{row['distance']:.0e}"
    return [row["model"], str(row["clients"]), row["device"], *seconds, ratio, distance, row["graph"]]


async def run(plan: Plan, file: Path | None = None) -> list[dict[str, Any]]:
    """Measure all combinations, print a table, and return its rows.

    Args:
        plan: what is measured.
        file: gets each row as a line of JSON, with the kind of processor; None: no file.
    """
    trainer = Trainer(Site(device=plan.device))
    found = []
    try:
        facts = {"processor": await trainer.try_device(plan.device), "commit": rows.commit()}
        await trainer.start()
        for model in plan.models:
            for count in plan.clients:
                found.append(await measure(trainer, plan, model, count))
                if file is not None:
                    with file.open("a") as lines:
                        lines.write(json.dumps(found[-1] | facts) + "\n")
    finally:
        await trainer.end()
    print(f"trained on {facts['processor']}\n{rows.table(COLUMNS, map(cells, found))}")
    for row in found:
        if row["unrecorded"]:
            print(f"no graph for the {row['model']} of {row['clients']} clients: {row['unrecorded']}")
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=["nn", "cnn"])
    parser.add_argument("--clients", nargs="+", type=int, default=[10])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rows", type=Path, help="a file that gets each row as JSON")
    parser.add_argument("--small", action="store_true", help="few samples and a narrow nn: shows that it works")
    options = parser.parse_args()
    logs.configure(quiet=True)
    plan = Plan(options.models, options.clients, options.device, options.repeat)
    asyncio.run(run(plan.small() if options.small else plan, options.rows))


if __name__ == "__main__":
    main()
