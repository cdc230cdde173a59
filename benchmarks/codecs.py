"""What `training.update` costs and saves: bytes of an update, rounds to an accuracy, and the server's time for each.

    python -m benchmarks.codecs [--only digits] [--processes 2]
    python -m benchmarks.codecs --cost [--repeats 200]

The jobs run in one process (`benchmarks.simulation`), and their results are rows of `benchmarks/results/codecs.jsonl`;
a rerun adds those that are missing, and prints all. `--cost` makes one update of 582,026 parameters in each form, and
prints how long it takes to make it, and to check and add it, the forms taking turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from benchmarks import rows, strategies
from benchmarks.rows import RESULTS, Planned
from broker.messages.update_forms import UpdateForm, form_of

FILE: Final = RESULTS / "codecs.jsonl"
FORMS: Final[tuple[UpdateForm, ...]] = ("delta", "bf16", "fp16", "int8")

SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "first.weight": (32, 1, 5, 5),
    "first.bias": (32,),
    "second.weight": (64, 32, 5, 5),
    "second.bias": (64,),
    "hidden.weight": (512, 1024),
    "hidden.bias": (512,),
    "out.weight": (10, 512),
    "out.bias": (10,),
}
"""The `cnn` on MNIST: 582,026 parameters."""

CLIENTS: Final = 100
"""Clients of the round whose sum the updates enter: its scale depends on them."""


@dataclass(frozen=True)
class Setting:
    """Data, training and strategies, the same for all forms.

    Attributes:
        base: the setting of `benchmarks.strategies` that it is taken from.
        rounds: number of rounds with each strategy, by its name there.
        model: the model's type; empty: the base's.
        local_epochs: of a client in a round; None: the base's.
        seeds: each is also the seed of the partition.
    """

    base: str
    rounds: dict[str, int]
    model: str = ""
    local_epochs: int | None = None
    seeds: tuple[int, ...] = (1, 2, 3)


SETTINGS: Final[dict[str, Setting]] = {
    # Without a target: all forms are compared after the same number of rounds.
    "digits": Setting("digits-shards", {"fedavg": 100, "fedadam": 40, "scaffold": 40}),
    # The paper's section 4: ten clients of 100 in a round. Few rounds, of the cnn with one epoch: each is run 12 times.
    "mnist-nn": Setting("mnist-shards", {"fedavg": 20}),
    "mnist-cnn": Setting("mnist-shards", {"fedavg": 12}, model="cnn", local_epochs=1),
}


def plan(names: Sequence[str]) -> list[Planned]:
    """Return the runs of some settings: first one seed of all forms, then the next.

    Args:
        names: the settings' names.
    """
    return [
        Planned({"setting": name, "strategy": label, "update": form, "seed": seed}, _job(name, label, form, seed))
        for name in names
        for seed in SETTINGS[name].seeds
        for label in SETTINGS[name].rounds
        for form in FORMS
    ]


def _job(name: str, label: str, form: UpdateForm, seed: int) -> dict[str, Any]:
    setting = SETTINGS[name]
    base = strategies.SETTINGS[setting.base]
    job = strategies.job_of(base, base.strategies[label], seed)
    epochs = {} if setting.local_epochs is None else {"local_epochs": setting.local_epochs}
    return {
        **job,
        "name": "codecs",
        **({"model": {"type": setting.model}} if setting.model else {}),
        "training": {**job["training"], **epochs, "update": form},
        "stop": {"rounds": setting.rounds[label]},
    }


def results(found: Iterable[dict[str, Any]]) -> str:
    """Return a table: an update's size, the rounds to each target, and the accuracy of the last ten rounds.

    Args:
        found: the rows of one setting.
    """
    lines = []
    for (label, form), group in rows.grouped(found, lambda row: (row["strategy"], row["update"])).items():
        cells = [rows.median_rounds(group, target) for target in strategies.TARGETS]
        ends = [strategies.merit(row["accuracy"]) for row in group]
        size = statistics.fmean(row["update_bytes"] for row in group)
        spread = f"{statistics.fmean(ends):.4f} ({', '.join(f'{end:.4f}' for end in ends)})"
        lines.append((label, form, f"{size:,.0f}", *cells, spread))
    targets = [f"{target:.0%}" for target in strategies.TARGETS]
    return rows.table(("strategy", "update", "bytes", *targets, "accuracy, last 10 rounds"), lines)


class Cost(NamedTuple):
    """What an update costs, medians.

    Attributes:
        size: of the message, in bytes.
        round_ms: to round the change at the client, in milliseconds.
        check_ms: to decode and check it at the server.
        add_ms: to add it to the sum.
    """

    size: int
    round_ms: float
    check_ms: float
    add_ms: float


def costs(repeats: int) -> dict[UpdateForm, Cost]:
    """Measure the cost of each form.

    Args:
        repeats: how often; the forms take turns.
    """
    work = {form: _Work(form) for form in FORMS}
    times: dict[UpdateForm, list[tuple[float, float, float]]] = {form: [] for form in FORMS}
    for _ in range(repeats):
        for form in FORMS:
            times[form].append(work[form].once())
    return {
        form: Cost(len(work[form].update), *(1e3 * statistics.median(part) for part in zip(*each, strict=True)))
        for form, each in times.items()
    }


class _Work:
    """One update of a form: what a client does to make it, and a server to count it."""

    def __init__(self, form: UpdateForm) -> None:
        # Imported here because tests of the tables need no torch.
        import numpy as np
        import torch

        from broker import topics
        from broker.messages import tensor_header
        from broker.messages.job_record import Member
        from broker.messages.round import token
        from broker.messages.update import UpdateHeader
        from client_fn.training import codecs as rounding
        from client_fn.training import tensors
        from server import aggregator, codecs, gate

        rng = np.random.default_rng(1)
        base = {name: rng.uniform(-0.1, 0.1, shape).astype(np.float32) for name, shape in SHAPES.items()}
        generator = torch.Generator().manual_seed(1)
        change = {name: torch.randn(shape, generator=generator).mul_(1e-3) for name, shape in SHAPES.items()}
        sums = aggregator.plan(base, frozenset(), CLIENTS * 100_000)
        self._expectation = gate.Expectation(
            "job",
            1,
            "ab" * 32,
            "nonce",
            {"c": Member("c", "local", "", "", 600)},
            sums,
            max_samples=100_000,
            start=base,
            form=form_of(form),
            codec=codecs.of(form, sums.layout, SHAPES),
        )
        header = UpdateHeader(
            job="job",
            round=1,
            attempt=1,
            client="c",
            samples=600,
            base="ab" * 32,
            token=token("nonce", "c"),
            update=form,
        )
        self._aggregate = aggregator.Aggregate(sums)
        self._topic = gate.parse_topic(topics.update("job", 1, "c", 1))
        self._make: Callable[[], Any] = lambda: rounding.encode(change, (), form, 1)
        self.update = tensor_header.with_metadata(tensors.to_bytes(self._make()), header.to_metadata())

    def once(self) -> tuple[float, float, float]:
        """Return the seconds to round, to check and to add."""
        from server import gate

        begin_s = time.perf_counter()
        self._make()
        made_s = time.perf_counter()
        checked = gate.check(self.update, self._topic, self._expectation)
        checked_s = time.perf_counter()
        self._aggregate.add(checked.tensors, checked.header.samples)
        return made_s - begin_s, checked_s - made_s, time.perf_counter() - checked_s


def cost_table(found: dict[UpdateForm, Cost]) -> str:
    """Return a table of costs.

    Args:
        found: by form.
    """
    lines = [(form, f"{cost.size:,}", *(f"{value:.2f}" for value in cost[1:])) for form, cost in found.items()]
    return rows.table(("update", "bytes", "client: round, ms", "server: check, ms", "server: add, ms"), lines)


def main() -> None:
    """Read the arguments, make the runs that are missing or measure the costs, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=["digits"])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="begin no run after this time")
    parser.add_argument("--cost", action="store_true", help="measure what one update costs")
    parser.add_argument("--repeats", type=int, default=100, help="how often each cost is measured")
    options = parser.parse_args()
    if options.cost:
        print(cost_table(costs(options.repeats)))
        return
    until_s = None if options.minutes is None else time.time() + 60 * options.minutes
    runs = plan(options.only)
    rows.add_missing(runs, FILE, processes=options.processes, until_s=until_s)
    for name, group in rows.grouped(rows.found(runs, FILE), lambda row: row["setting"]).items():
        print(f"\n{name}\n\n{results(group)}")


if __name__ == "__main__":
    main()
