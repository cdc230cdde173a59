"""The cells of the paper's Figure 3, and the jobs that fill them.

A cell is a network, a number of local epochs, an optimizer and a number of clients per round. The same cell may be run
with the optimizers' state carried over, or with another strategy.
"""

import itertools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from benchmarks import rows
from benchmarks.rows import Planned

ROOT: Final = Path(__file__).parents[2]
CONFIGS: Final = ROOT / "configs/paper"
FILE: Final = Path(__file__).parent / "runs.jsonl"

NETWORKS: Final = ("nn", "cnn")
EPOCHS: Final = (5, 10)
OPTIMIZERS: Final = ("adam", "nadam", "sgd")
CLIENTS: Final = (10, 30, 50, 70, 100)
STATES: Final = ("reset", "carry")
SEEDS: Final = (1, 2, 3, 4, 5)

FEDAVG: Final = "fedavg"

TELLING: Final = (10, 100, 30, 50, 70)
"""The numbers of clients, the most telling ones first: the ends of the paper's speed-ups."""


@dataclass(frozen=True)
class Cell:
    """A cell, or a variant of it.

    Attributes:
        network: `nn` or `cnn`.
        epochs: local epochs per round.
        optimizer: of the clients.
        clients: number of clients per round.
        state: `reset` makes a new optimizer in each round, as the published code; `carry` keeps its state, as the text.
        strategy: `fedavg`, or a table of `configs/paper/strategies.toml`.
        target: test accuracy that ends a run.
    """

    network: str
    epochs: int
    optimizer: str
    clients: int
    state: str
    strategy: str
    target: float

    @property
    def name(self) -> str:
        """What screens and folders call it."""
        parts = [self.network, f"e{self.epochs}", self.optimizer, f"k{self.clients}", self.state]
        parts += [self.strategy] if self.strategy != FEDAVG else []
        parts += [f"to{self.target:g}"] if self.target != target_of(self.network) else []
        return "-".join(parts)

    @property
    def of_paper(self) -> "Cell":
        """The paper's own cell, of which this may be a variant."""
        return replace(self, state=STATES[0], strategy=FEDAVG, target=target_of(self.network))


@cache
def config(network: str) -> dict[str, Any]:
    """Return the job file of a network, `nn` or `cnn`."""
    return tomllib.loads((CONFIGS / f"{network}.toml").read_text())


@cache
def strategies() -> dict[str, dict[str, Any]]:
    """Return the strategies beside the paper's FedAvg, by name."""
    return tomllib.loads((CONFIGS / "strategies.toml").read_text())


def target_of(network: str) -> float:
    """Return the test accuracy that ends a run of a network, `nn` or `cnn`."""
    return float(config(network)["stop"]["target_accuracy"])


def grid(state: str = STATES[0], strategy: str = FEDAVG, to: float | None = None) -> list[Cell]:
    """Return the cells of Figure 3, or a variant of each.

    Args:
        state: as in `Cell`.
        strategy: as in `Cell`. One that sets the optimizer has the cells of that optimizer alone.
        to: test accuracy that ends a run; None: that of the paper.
    """
    of_strategy = strategies()[strategy].get("training", {}).get("optimizer") if strategy != FEDAVG else None
    return [
        Cell(network, epochs, optimizer, clients, state, strategy, to or target_of(network))
        for network, epochs, optimizer, clients in itertools.product(NETWORKS, EPOCHS, OPTIMIZERS, CLIENTS)
        if of_strategy in (None, optimizer)
    ]


def all_cells() -> list[Cell]:
    """Return the cells and their variants: those of the paper first."""
    # SGD has no state.
    carried = [cell for cell in grid("carry") if cell.optimizer != "sgd"]
    return [*grid(), *carried, *(cell for name in strategies() for cell in grid(strategy=name))]


def planned(cell: Cell, seed: int) -> Planned:
    """Return a run of a cell.

    Args:
        cell: the cell.
        seed: of the job: its initial weights and the order of the samples. Cohorts and partition are always the same.
    """
    own = {} if cell.strategy == FEDAVG else strategies()[cell.strategy]
    base = config(cell.network)
    training = {"local_epochs": cell.epochs, "optimizer": cell.optimizer, "optimizer_state": cell.state}
    job = {
        **base,
        "name": "paper",
        "seed": seed,
        "training": {**base["training"], **training, **own.get("training", {})},
        "cohort": {**base["cohort"], "clients": cell.clients},
        "stop": {**base["stop"], "target_accuracy": cell.target},
    }
    if "strategy" in own:
        job["strategy"] = own["strategy"]
    return Planned({**asdict(cell), "seed": seed}, job)


def cell_of(row: Mapping[str, Any]) -> Cell:
    """Return the cell of a row."""
    return Cell(**{name: row[name] for name in Cell.__dataclass_fields__})


def read(path: Path = FILE) -> list[dict[str, Any]]:
    """Return the rows whose job is still that of their cell, and whose rounds have counted all of their clients.

    Args:
        path: the file; it may be missing.
    """
    known = {FEDAVG, *strategies()}
    return [
        row
        for row in rows.read(path).values()
        if not row["error"]
        and not row["refused"]
        and row["strategy"] in known
        and planned(cell_of(row), row["seed"]).job == row["job"]
    ]


def by_cell(found: Iterable[dict[str, Any]]) -> dict[Cell, list[dict[str, Any]]]:
    """Return rows by their cell, sorted by seed."""
    return rows.grouped(sorted(found, key=lambda row: int(row["seed"])), cell_of)


def most_telling_first(cells: Iterable[Cell], found: Iterable[dict[str, Any]]) -> list[tuple[Cell, int]]:
    """Return the runs that are missing, each as cell and seed.

    First one run of every cell, then the second. Of these, the paper's own cells, Adam and few clients come first.

    Args:
        cells: the cells to consider.
        found: the rows that are there.
    """
    there = by_cell(found)
    order = list(cells)
    missing = []
    for cell in order:
        seeds = {row["seed"] for row in there.get(cell, [])}
        for number, seed in enumerate((seed for seed in SEEDS if seed not in seeds), start=len(seeds)):
            rank = (number, cell != cell.of_paper, OPTIMIZERS.index(cell.optimizer), TELLING.index(cell.clients))
            missing.append((rank, order.index(cell), cell, seed))
    return [(cell, seed) for *_, cell, seed in sorted(missing, key=lambda each: each[:2])]
