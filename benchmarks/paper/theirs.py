"""The paper's own numbers, as its repository has them, and what is wrong with them (`theirs.json`)."""

import json
import math
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from benchmarks.paper.cells import Cell

WITHIN, FEWER, MORE = "within", "fewer", "more"
"""Where our mean lies: within the paper's spread, below it, or above it."""

FILE: Final = Path(__file__).parent / "theirs.json"


@cache
def numbers() -> dict[str, Any]:
    """Return all of them."""
    return dict(json.loads(FILE.read_text()))


@cache
def _cells() -> dict[tuple[Any, ...], dict[str, Any]]:
    return {(each["network"], each["epochs"], each["optimizer"], each["clients"]): each for each in numbers()["cells"]}


def _of(cell: Cell) -> dict[str, Any]:
    return _cells()[cell.network, cell.epochs, cell.optimizer, cell.clients]


def rounds(cell: Cell) -> list[int]:
    """Return the number of rounds of each of the paper's runs of a cell."""
    return list(_of(cell)["rounds"])


def trap(cell: Cell) -> str:
    """Return what is wrong with a cell's numbers; empty: nothing that is known."""
    return str(_of(cell).get("trap", ""))


def mean(cell: Cell) -> float:
    """Return the mean number of rounds of the paper's runs of a cell."""
    return statistics.fmean(rounds(cell))


def spread(cell: Cell) -> tuple[float, float]:
    """Return between which numbers of rounds a run agrees with the paper's.

    That is from its smallest to its largest run, and `spread` of that beyond: runs of one setting in its logs differ
    by that much.
    """
    share, runs = numbers()["spread"], rounds(cell)
    return min(runs) * (1 - share), max(runs) * (1 + share)


def most_within(cell: Cell) -> int:
    """Return the most rounds of a run that is within the paper's spread.

    Args:
        cell: the cell.
    """
    return math.floor(spread(cell)[1])


def verdict(cell: Cell, ours: Sequence[int | None]) -> str:
    """Return where the mean of our runs lies; empty: there are none.

    Args:
        cell: the cell.
        ours: number of rounds of each run; None: it has not reached the target.
    """
    if not ours:
        return ""
    low, high = spread(cell)
    reached = [number for number in ours if number is not None]
    if len(reached) < len(ours):
        return MORE
    average = statistics.fmean(reached)
    return FEWER if average < low else MORE if average > high else WITHIN


def curve(network: str, epochs: int) -> dict[str, Any]:
    """Return accuracy and seconds of each round of the paper's run with 100 clients and Adam.

    Args:
        network: `nn` or `cnn`.
        epochs: local epochs.
    """
    return next(dict(each) for each in numbers()["curves"] if (each["network"], each["epochs"]) == (network, epochs))


def share_of_rounds(network: str, target: float) -> float:
    """Return what share of its rounds the paper's run of a network had needed until an accuracy.

    Args:
        network: `nn` or `cnn`; of its curves, that of 5 local epochs counts.
        target: the accuracy.
    """
    values = curve(network, 5)["accuracy"]
    first = next((number for number, value in enumerate(values, 1) if value is not None and value >= target), None)
    return 1.0 if first is None else first / len(values)
