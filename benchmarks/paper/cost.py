"""What a run will cost, learned from the runs that are there."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, Final

from benchmarks import rows
from benchmarks.paper import theirs
from benchmarks.paper.cells import Cell, target_of

EPOCH_S: Final = {"nn": 0.07, "cnn": 0.4}
"""Seconds for an epoch of one client (600 images, batches of 10) on a core of an AMD EPYC, until a row tells."""


def estimate_s(cell: Cell, found: Iterable[dict[str, Any]], device: str) -> float:
    """Return how long a run of a cell will take, in seconds.

    Args:
        cell: the cell.
        found: the rows that are there.
        device: what it will run on, as rows name it.
    """
    found = list(found)
    return expected_rounds(cell, found) * cell.clients * cell.epochs * epoch_s(cell.network, found, device)


def expected_rounds(cell: Cell, found: Sequence[dict[str, Any]]) -> float:
    """Return how many rounds a run of a cell will make: as ours did, or the paper's if there is none of ours.

    Args:
        cell: the cell.
        found: the rows that are there.
    """
    like = [row for row in found if _is_like(row, cell)]
    needed = [rows.rounds_to(row["accuracy"], cell.target) or _made_in_vain(row, cell) for row in like]
    if known := [number for number in needed if number]:
        return statistics.fmean(known)
    is_early = cell.target < target_of(cell.network)
    return theirs.mean(cell) * (theirs.share_of_rounds(cell.network, cell.target) if is_early else 1.0)


def _made_in_vain(row: dict[str, Any], cell: Cell) -> int:
    """Return how many rounds a run has made that has not reached the target; 0: it ended at a lower one."""
    return len(row["accuracy"]) if row["target"] >= cell.target else 0


def _is_like(row: dict[str, Any], cell: Cell) -> bool:
    """Whether a row is a run of the cell, to any target."""
    names = ("network", "epochs", "optimizer", "clients", "state", "strategy")
    return all(row[name] == getattr(cell, name) for name in names)


def epoch_s(network: str, found: Sequence[dict[str, Any]], device: str) -> float:
    """Return how long an epoch of one client takes, in seconds, with all that a round adds.

    Args:
        network: `nn` or `cnn`.
        found: the rows that are there.
        device: what it runs on; rows of another device count only if there is none of this one.
    """
    like = [row for row in found if row["network"] == network and any(row["round_s"])]
    like = [row for row in like if row["device"] == device] or like
    if not like:
        return EPOCH_S[network]
    seconds = sum(float(value) for row in like for value in row["round_s"] if value is not None)
    epochs: int = sum(row["clients"] * row["epochs"] for row in like for value in row["round_s"] if value is not None)
    return seconds / epochs
