"""What one or two attackers of ten clients do to a model, with each way to make one change of all updates.

    python -m benchmarks.attacks [--only digits-iid] [--processes 2]

The jobs run in one process (`benchmarks.simulation`), with the function, the gate and the sums of the system. The
attackers hold valid tokens and attack in every round, the first one included. Results are rows of
`benchmarks/results/attacks.jsonl`; a rerun adds those that are missing, and prints all.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import safetensors.numpy

from benchmarks import rows
from benchmarks.rows import RESULTS, Planned
from benchmarks.simulation import HONEST, Behaviour
from broker.deliveries import Receipt, Value
from broker.messages import tensor_header, tensors
from broker.messages.register import ClientRecord
from broker.messages.round import RoundTask, seed
from broker.messages.tensors import Tensors
from client_fn.exchange import Exchange

FILE: Final = RESULTS / "attacks.jsonl"

CLIENTS: Final = 10
CLASSES: Final = 10
ATTACKERS: Final = (1, 2)
SEEDS: Final = (1, 2, 3)

NOISE: Final = 1000.0
"""Noise is uniform up to this. The gate accepts 1,024 of a model whose weights are at most 1."""

Forge = Callable[[Tensors, Tensors, int, int], Tensors]
"""Makes a forged change of the honest one, the round's model, the number of attackers, and a seed."""


def scaled(factor: float) -> Forge:
    """Return an attack that sends a multiple of what the client has trained."""
    return lambda change, base, attackers, seed_: {  # noqa: ARG005
        name: (factor * tensor).astype(tensor.dtype) for name, tensor in change.items()
    }


def replacement(change: Tensors, base: Tensors, attackers: int, seed_: int) -> Tensors:  # noqa: ARG001
    """Let the mean be a model that always answers 0, if the other clients change little (Bagdasaryan et al. 2020)."""
    last = max(name for name in base if name.endswith(".bias"))
    target = {name: np.zeros_like(tensor) for name, tensor in base.items()}
    target[last][0] = 10.0
    return {name: (target[name] - base[name]) * np.float32(CLIENTS / attackers) for name in change}


def noise(change: Tensors, base: Tensors, attackers: int, seed_: int) -> Tensors:  # noqa: ARG001
    """Return uniform noise, almost as large as the gate accepts."""
    draw = np.random.default_rng(seed_)
    return {name: draw.uniform(-NOISE, NOISE, tensor.shape).astype(tensor.dtype) for name, tensor in change.items()}


ATTACKS: Final[dict[str, Forge | None]] = {
    "no change": scaled(0.0),  # no attack, but what it costs to miss the attackers' data
    "label flip": None,  # it is in the data
    "sign flip": scaled(-1.0),
    "x -10": scaled(-10.0),
    "x 100": scaled(100.0),
    "replacement": replacement,
    "noise": noise,
}


@dataclass(frozen=True)
class Attackers(Behaviour):
    """The first clients attack, all in the same way.

    Attributes:
        attack: one of `ATTACKS`.
        number: how many attack.
    """

    attack: str
    number: int

    def stage(self, clients: Sequence[ClientRecord]) -> None:
        """Implements `Behaviour.stage`: with flipped labels, 0 becomes 9, 1 becomes 8, and so on."""
        if ATTACKS[self.attack] is not None:
            return
        for client in clients[: self.number]:
            path = urlsplit(client.data_loc).path
            samples = safetensors.numpy.load_file(path)
            safetensors.numpy.save_file({**samples, "y": CLASSES - 1 - samples["y"]}, path)

    def exchange(self, task: RoundTask, bus: Exchange) -> Exchange:
        """Implements `Behaviour.exchange`."""
        forge = ATTACKS[self.attack]
        is_attacker = int(task.client_id.rpartition("-")[2]) < self.number
        return bus if forge is None or not is_attacker else _Forger(bus, task, forge, self.number)


class _Forger:
    """A broker through which forged updates pass."""

    def __init__(self, bus: Exchange, task: RoundTask, forge: Forge, attackers: int) -> None:
        self._bus = bus
        self._task = task
        self._forge = forge
        self._attackers = attackers
        self.put = bus.put

    async def get(self, topic: str) -> Value | None:
        """Implements `Exchange.get`."""
        return await self._bus.get(topic)

    async def publish(self, topic: str, payload: bytes) -> Receipt:
        """Implements `Exchange.publish`, with another update than the function has made."""
        change, metadata = tensors.decode(payload)
        model = await self._bus.get(self._task.model.topic)
        base = {} if model is None else tensors.decode(model.payload)[0]
        forged = self._forge(change, base, self._attackers, seed(topic))
        return await self._bus.publish(topic, tensor_header.with_metadata(tensors.encode(forged), metadata))


# By the norms of honest clients of seed 1 on two shards each: at most 1.47 in the first round, and 1.0 to 1.3 times the
# median in each later one; so the guard leaves most of them alone.
_GUARD: Final = {"name": "median", "multiple": 1.5, "first": 1.5}

AGGREGATIONS: Final[dict[str, dict[str, Any]]] = {
    "mean": {"name": "fedavg"},
    "guarded mean": {"name": "fedavg", "guard": _GUARD},
    "median": {"name": "median"},
    "guarded median": {"name": "median", "guard": _GUARD},
    "trimmed mean": {"name": "trimmed_mean", "share": 0.2},
    "krum": {"name": "krum", "faulty": 2},
    "multi-krum": {"name": "krum", "faulty": 2, "keep": 6},
}

SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "digits-iid": {"partition": "iid"},
    "digits-shards": {"partition": "shards"},
}

ROUNDS: Final = {"digits-iid": 15, "digits-shards": 40}
"""So many until the model of honest clients hardly improves."""


def job_of(setting: str, strategy: dict[str, Any], seed_: int) -> dict[str, Any]:
    """Return a job as a job file has it: the quickstart with one local epoch.

    Args:
        setting: one of `SETTINGS`.
        strategy: the strategy's table.
        seed_: the job's, and that of the partition.
    """
    return {
        "name": "attacks",
        "seed": seed_,
        "training": {"optimizer": "sgd", "batch_size": 10, "local_epochs": 1},
        "data": {"dataset": "digits", "clients": CLIENTS, "seed": seed_, **SETTINGS[setting]},
        "cohort": {"clients": CLIENTS, "quorum": 0.8},
        "strategy": strategy,
        "stop": {"rounds": ROUNDS[setting]},
    }


def plan(settings: Iterable[str], seeds: Iterable[int] = SEEDS) -> list[Planned]:
    """Return the runs: for each seed, those without attack, then those with one attacker, then with two.

    Args:
        settings: names of the settings.
        seeds: the seeds.
    """
    attacks = [("none", 0), *((attack, number) for number in ATTACKERS for attack in ATTACKS)]
    return [
        Planned(
            {"setting": setting, "aggregation": name, "attack": attack, "attackers": number, "seed": seed_},
            job_of(setting, strategy, seed_),
            HONEST if not number else Attackers(attack, number),
        )
        for seed_ in seeds
        for attack, number in attacks
        for setting in settings
        for name, strategy in AGGREGATIONS.items()
    ]


def final(row: dict[str, Any]) -> float:
    """Return the mean accuracy of a run's last three models: 0 if the job has died."""
    return 0.0 if row["error"] or not row["accuracy"] else statistics.fmean(row["accuracy"][-3:])


def results(found: Sequence[dict[str, Any]], number: int) -> str:
    """Return a table of one setting: final accuracy without attack, and what each attack costs, in points.

    Args:
        found: the rows of the setting.
        number: number of attackers.
    """
    lines = []
    for name, group in rows.grouped(found, lambda row: row["aggregation"]).items():
        honest = {row["seed"]: final(row) for row in group if not row["attackers"]}
        cells = [f"{100 * statistics.fmean(honest.values()):.1f}" if honest else ""]
        for attack in ATTACKS:
            same = [row for row in group if (row["attack"], row["attackers"]) == (attack, number)]
            cells.append(_loss(same, honest))
        lines.append((name, *cells))
    return rows.table(("aggregation", "without", *ATTACKS), lines)


def _loss(attacked: Sequence[dict[str, Any]], honest: dict[int, float]) -> str:
    losses = [100 * (honest[row["seed"]] - final(row)) for row in attacked if row["seed"] in honest]
    if not losses:
        return ""
    died = sum(bool(row["error"]) for row in attacked)
    return f"{statistics.fmean(losses):.1f}" + (f" ({died} of {len(attacked)} jobs died)" if died else "")


def main() -> None:
    """Read the arguments, make the runs that are missing, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="begin no run after this time")
    parser.add_argument("--file", type=Path, default=FILE)
    options = parser.parse_args()
    until_s = None if options.minutes is None else time.time() + 60 * options.minutes
    runs = plan(options.only, options.seeds)
    rows.add_missing(runs, options.file, processes=options.processes, until_s=until_s)
    for setting, group in rows.grouped(rows.found(runs, options.file), lambda row: row["setting"]).items():
        for number in ATTACKERS:
            print(f"\n{setting}, {number} of {CLIENTS} attack: points lost\n\n{results(group, number)}")


if __name__ == "__main__":
    main()
