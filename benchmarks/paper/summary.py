"""What our runs of a cell have come to, beside the paper's."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import rows
from benchmarks.paper import cells, theirs
from benchmarks.paper.cells import FEDAVG, Cell


@dataclass(frozen=True)
class Summary:
    """The runs of a cell.

    Attributes:
        cell: the cell.
        rounds: number of rounds of each run until the target; None: it has not reached it.
        seeds: the runs' seeds.
        made: number of rounds that each run has made.
    """

    cell: Cell
    rounds: tuple[int | None, ...]
    seeds: tuple[int, ...] = ()
    made: tuple[int, ...] = ()

    @property
    def mean(self) -> float | None:
        """The mean number of rounds; None: there is no run, or one has not reached the target."""
        reached = [number for number in self.rounds if number is not None]
        return statistics.fmean(reached) if reached and len(reached) == len(self.rounds) else None

    @property
    def verdict(self) -> str:
        """Where it lies, as `theirs.verdict` has it; empty also if the paper's list is a copy of another cell's."""
        return "" if theirs.trap(self.cell) else theirs.verdict(self.cell, self.rounds)

    @property
    def text(self) -> str:
        """The mean and each run: `236 [212, 260]`; empty: there is no run."""
        if not self.rounds:
            return ""
        pairs = zip(self.rounds, self.made, strict=True)
        each = ", ".join(f">{made}" if number is None else str(number) for number, made in pairs)
        if len(self.rounds) == 1:
            return each
        return f"{'-' if self.mean is None else f'{self.mean:.1f}'} [{each}]"

    @property
    def brief(self) -> str:
        """The mean and the number of runs: `236.0 (2)`; empty: there is no run."""
        if not self.rounds:
            return ""
        return f"{f'>{max(self.made)}' if self.mean is None else f'{self.mean:.1f}'} ({len(self.rounds)})"


def of(found: Iterable[dict[str, Any]]) -> dict[Cell, Summary]:
    """Return the summaries of all cells that have a row.

    Args:
        found: the rows.
    """
    return {cell: summary_of(cell, group) for cell, group in cells.by_cell(found).items()}


def summary_of(cell: Cell, group: Iterable[Mapping[str, Any]]) -> Summary:
    """Return the summary of a cell.

    Args:
        cell: the cell.
        group: its rows.
    """
    runs = list(group)
    rounds = tuple(rows.rounds_to(row["accuracy"], cell.target) for row in runs)
    return Summary(cell, rounds, tuple(row["seed"] for row in runs), tuple(len(row["accuracy"]) for row in runs))


def carried(summaries: Mapping[Cell, Summary], cell: Cell) -> Summary:
    """Return the runs of a cell whose optimizers keep their state.

    Args:
        summaries: of all cells.
        cell: the paper's cell.
    """
    variant = replace(cell, state="carry")
    return summaries.get(variant, Summary(variant, ()))


def within_by_state(summaries: Mapping[Cell, Summary]) -> tuple[int, int, int]:
    """Return in how many cells runs are within the paper's spread that keep the optimizers' state, and that do not.

    Args:
        summaries: of all cells.

    Returns:
        Both numbers, and that of the cells that have runs of both kinds.
    """
    pairs = [(carried(summaries, cell), summaries[cell]) for cell in cells.grid() if cell in summaries]
    both = [(kept, reset) for kept, reset in pairs if kept.rounds and reset.verdict]
    kept_within, reset_within = (sum(pair[i].verdict == theirs.WITHIN for pair in both) for i in (0, 1))
    return kept_within, reset_within, len(both)


def best(summaries: Mapping[Cell, Summary], cell: Cell) -> Summary | None:
    """Return the best other strategy in a cell: that with the smallest mean; None: there is none.

    One that sets the clients' optimizer has runs in the cells of that optimizer. They stand beside the other
    optimizers' cells too, as far as FedAvg was run there.

    Args:
        summaries: of all cells.
        cell: the paper's cell.
    """
    was_run = cell in summaries or replace(cell, state="carry") in summaries
    others = [
        each
        for each in summaries.values()
        if each.cell.strategy != FEDAVG
        and (each.cell.of_paper == cell or (was_run and _sets_its_optimizer(each.cell, cell)))
    ]
    return min((each for each in others if each.mean is not None), key=lambda each: each.mean or 0.0, default=None)


def _sets_its_optimizer(other: Cell, cell: Cell) -> bool:
    """Whether a strategy's cell is one of the paper's but for the optimizer, which the strategy sets."""
    own = cells.strategies()[other.strategy].get("training", {})
    return "optimizer" in own and replace(other.of_paper, optimizer=cell.optimizer) == cell


def halved(summaries: Mapping[Cell, Summary]) -> tuple[int, int]:
    """Return in how many cells the best other strategy needs at most half of the paper's rounds, and of how many.

    A cell whose list is a copy does not count.

    Args:
        summaries: of all cells.
    """
    found = [(each, best(summaries, each)) for each in cells.grid() if not theirs.trap(each)]
    beaten = [theirs.mean(cell) for cell, other in found if other and 2 * (other.mean or 0.0) <= theirs.mean(cell)]
    return len(beaten), sum(other is not None for _, other in found)


def halved_of_ours(summaries: Mapping[Cell, Summary]) -> tuple[int, int]:
    """Return in how many cells the best other strategy needs at most half of our FedAvg's rounds, and of how many.

    Runs of the same seeds are compared. One that has not reached the target counts with the rounds it has made.

    Args:
        summaries: of all cells.
    """
    verdicts = []
    for cell in cells.grid():
        ours, other = (_by_seed(each) for each in (summaries.get(cell), best(summaries, cell)))
        if common := ours.keys() & other.keys():
            verdicts.append(2 * sum(other[seed] for seed in common) <= sum(ours[seed] for seed in common))
    return sum(verdicts), len(verdicts)


def _by_seed(summary: Summary | None) -> dict[int, int]:
    if summary is None:
        return {}
    pairs = zip(summary.rounds, summary.made, strict=True)
    return dict(zip(summary.seeds, (made if number is None else number for number, made in pairs), strict=True))


def table(summaries: Mapping[Cell, Summary]) -> tuple[Sequence[str], list[list[str]]]:
    """Return the columns of a table, and a line for each cell of Figure 3 that has a run.

    Args:
        summaries: of all cells.
    """
    columns = (
        "network",
        "epochs",
        "optimizer",
        "clients",
        "theirs",
        "within is",
        "ours",
        "is",
        "state kept",
        "best other",
    )
    lines = []
    for cell in cells.grid():
        ours, kept, other = summaries.get(cell, Summary(cell, ())), carried(summaries, cell), best(summaries, cell)
        if ours.rounds or kept.rounds or other:
            best_text = f"{other.text} ({other.cell.strategy})" if other else ""
            low, high = theirs.spread(cell)
            interval = "" if theirs.trap(cell) else f"{low:.1f} to {high:.1f}"
            lines.append([*names(cell), of_paper(cell), interval, ours.text, ours.verdict, kept.text, best_text])
    return columns, lines


def screen(summaries: Mapping[Cell, Summary]) -> str:
    """Return the grid as text of at most 80 columns: all cells, also those without a run.

    Args:
        summaries: of all cells.
    """
    lines = [("net", "E", "optim", "k", "theirs", "ours (runs)", "is", "state kept", "best other")]
    for cell in cells.grid():
        ours, kept, other = summaries.get(cell, Summary(cell, ())), carried(summaries, cell), best(summaries, cell)
        low, high = min(theirs.rounds(cell)), max(theirs.rounds(cell))
        paper = f"{theirs.mean(cell):.1f} [{low}-{high}]" + ("†" if theirs.trap(cell) else "")
        best_text = f"{other.cell.strategy} {other.brief}" if other else ""
        lines.append((*names(cell), paper, ours.brief, ours.verdict, kept.brief, best_text))
    widths = [max(len(line[number]) for line in lines) for number in range(len(lines[0]))]
    return "\n".join(
        " ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def names(cell: Cell) -> tuple[str, str, str, str]:
    """Return what a cell is called in a table: network, local epochs, optimizer, clients."""
    return cell.network, str(cell.epochs), cell.optimizer, str(cell.clients)


def of_paper(cell: Cell) -> str:
    """Return the paper's runs of a cell: `236.0 [212, 260]`."""
    each = ", ".join(map(str, theirs.rounds(cell)))
    return f"{theirs.mean(cell):.1f} [{each}]" + ("†" if theirs.trap(cell) else "")
