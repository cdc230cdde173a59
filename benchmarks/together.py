"""Seconds of a round's training: clients one by one in one trainer, against the same clients in one program.

The trainer is the system's own, with its memory, its answers and its updates; only the broker is missing. The samples
are random: 600 images of 28x28 for each client, 5 epochs of batch 10 with Adam, 300 steps each. The last column is the
largest distance of a client's update from the one that it has alone, as a share of that one's norm.

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

COLUMNS: Final = ("model", "clients", "device", "one by one", "together", "ratio", "distance")


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
        """Return a plan that shows in seconds that everything works."""
        return self._replace(repeat=1, samples=20, epochs=1, hidden=16)


async def measure(trainer: Trainer, plan: Plan, model: str, clients: int) -> dict[str, Any]:
    """Return a row: the medians of both ways, in seconds, after a first training that does not count.

    Args:
        trainer: trains.
        plan: says how; both ways take turns.
        model: `nn` or `cnn`.
        clients: number of clients.
    """
    members = await members_of(trainer, plan, model, clients)
    seconds: dict[str, list[float]] = {"one by one": [], "together": []}
    distance = 0.0
    for number in range(plan.repeat + 1):
        begin_s = time.perf_counter()
        alone = [await trainer.do(order, files) for order, files in members]
        middle_s = time.perf_counter()
        together = await train_together(trainer, members)
        if number:
            seconds["one by one"].append(middle_s - begin_s)
            seconds["together"].append(time.perf_counter() - middle_s)
        distance = max(distance, *map(distance_of, together, alone))
    medians = {name: round(statistics.median(found), 3) for name, found in seconds.items()}
    ratio = round(medians["one by one"] / medians["together"], 2)
    return {"model": model, "clients": clients, "device": plan.device, **medians, "ratio": ratio, "distance": distance}


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


async def train_together(trainer: Trainer, members: Sequence[Member]) -> list[Answer]:
    """Return the answers of clients that are trained in as few programs as possible.

    Args:
        trainer: trains.
        members: the clients' orders and files.

    Raises:
        SystemExit: a client was not trained with the others.
    """
    parts = -(-len(members) // MOST_TOGETHER)
    answers: list[Answer] = []
    for part in range(parts):
        own = members[part::parts]
        order, files = alike.order_for(own, machine_memory_mb())
        for found in alike.answers_of(await trainer.do(order, files), len(own)):
            if isinstance(found, str):
                raise SystemExit(f"a client must be trained alone: {found}")
            answers.append(found)
    # As the parts were dealt, so they are put together again.
    dealt = [number for part in range(parts) for number in range(part, len(members), parts)]
    return [answer for _, answer in sorted(zip(dealt, answers, strict=True), key=lambda pair: pair[0])]


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
    seconds = [f"{row[name]:.2f} s" for name in ("one by one", "together")]
    return [row["model"], str(row["clients"]), row["device"], *seconds, f"{row['ratio']:.1f}", f"{row['distance']:.0e}"]


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
