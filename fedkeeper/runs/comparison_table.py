"""The table of a comparison, as a person reads it. Pure."""

from typing import Final, NamedTuple

from fedkeeper import measured
from fedkeeper.display import units
from fedkeeper.results import Combination, ComparedRun, Comparison, Statistics
from fedkeeper.runs import grid

GAP: Final = 2
"""Columns of the screen between two columns of the table."""

DIGEST_SHOWN: Final = 12

FAILED: Final = "failed"

TAKEN: Final = ("run", "seed", "best", "runs", "rounds", "time", "digest")
"""Names of columns that no field's column may have."""


class Column(NamedTuple):
    """A column: its name, its cells, and how early it is left out where the screen is narrow (0: never)."""

    name: str
    cells: list[str]
    expendable: int = 0

    @property
    def width(self) -> int:
        """Columns of the screen that it needs."""
        return GAP + max(len(line) for cell in (self.name, *self.cells) for line in cell.split("\n"))


def table(comparison: Comparison, width: int, *, each: bool = False) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the names of the columns, and the rows: one for each combination, or for each run.

    Args:
        comparison: the comparison.
        width: columns of the screen; less important columns are left out until the table fits.
        each: one row for each run, with its seed.
    """
    rows = [(combination, run) for combination in comparison.combinations for run in combination.runs]
    columns = _of_combinations(comparison) if has_spread(comparison, each=each) else _of_runs(comparison, rows)
    while sum(column.width for column in columns) > width and any(column.expendable for column in columns):
        columns.remove(max(columns, key=lambda column: column.expendable))
    cells = [tuple(column.cells[row] for column in columns) for row in range(len(columns[0].cells))]
    return tuple(column.name for column in columns), cells


def has_spread(comparison: Comparison, *, each: bool = False) -> bool:
    """Whether the table has a row for several runs.

    Args:
        comparison: the comparison.
        each: as for `table`.
    """
    return not each and any(len(combination.runs) > 1 for combination in comparison.combinations)


def notes(comparison: Comparison) -> list[str]:
    """Return what the table can't say: the runs that were not completed, and what is not known."""
    said = []
    for combination in comparison.combinations:
        for run in combination.runs:
            if run.phase not in (None, "completed"):
                which = grid.label(combination.values | ({} if run.seed is None else {"seed": run.seed}))
                said.append(f"{run.phase}: {which}: {run.reason}")
    if comparison.better is None and any(combination.last for combination in comparison.combinations):
        name = comparison.metric
        said.append(f"not sorted, and without a best value: evaluation.directions says whether more {name} is better")
    return said


def _of_combinations(comparison: Comparison) -> list[Column]:
    """One row for each combination: means, and the spread among the seeds."""
    found = comparison.combinations
    return [
        *_settings(comparison, list(found)),
        Column(comparison.metric, [_spread(each.last) for each in found]),
        *([] if comparison.better is None else [Column("best", [_spread(each.best) for each in found], 2)]),
        Column("runs", [_number(each) for each in found]),
        Column("rounds", [_mean(each.rounds) for each in found], 3),
        Column("time", [units.format_duration(each.seconds.mean) if each.seconds else "" for each in found], 4),
    ]


def _of_runs(comparison: Comparison, rows: list[tuple[Combination, ComparedRun]]) -> list[Column]:
    """One row for each run."""
    runs = [run for _, run in rows]
    settings = _settings(comparison, [combination for combination, _ in rows])
    if len({run.seed for run in runs}) > 1:
        settings.append(Column("seed", ["" if run.seed is None else str(run.seed) for run in runs]))
    # A folder's name is long: it is shown if nothing else tells the runs apart, or if there is room.
    names = [run.folder.rstrip("/").rpartition("/")[2] for run in runs]
    return [
        Column("run", names, 5 if settings else 0),
        *settings,
        Column(comparison.metric, [_value(run) for run in runs]),
        *([] if comparison.better is None else [Column("best", [_best(run) for run in runs], 1)]),
        Column("rounds", [str(run.rounds) for run in runs], 3),
        Column("time", [units.format_duration(run.seconds) for run in runs], 4),
        Column("digest", [run.digest[:DIGEST_SHOWN] for run in runs], 2),
    ]


def _settings(comparison: Comparison, combinations: list[Combination]) -> list[Column]:
    names = grid.short_names(comparison.fields, (*TAKEN, comparison.metric))
    return [
        Column(names[field], [grid.value_text(each.values.get(field)) for each in combinations])
        for field in comparison.fields
    ]


def _spread(numbers: Statistics | None) -> str:
    if numbers is None:
        return FAILED
    mean = measured.format_value(numbers.mean)
    if numbers.sd is None:
        return mean
    ends = f"{measured.format_value(numbers.min)}..{measured.format_value(numbers.max)}"
    return f"{mean} ±{measured.format_value(numbers.sd)}\n{ends}"


def _number(combination: Combination) -> str:
    completed = combination.rounds.n if combination.rounds else 0
    return str(completed) if completed == len(combination.runs) else f"{completed} of {len(combination.runs)}"


def _mean(numbers: Statistics | None) -> str:
    return "" if numbers is None else f"{numbers.mean:.1f}".removesuffix(".0")


def _value(run: ComparedRun) -> str:
    if run.phase not in (None, "completed"):
        return str(run.phase)
    return "" if run.last is None else measured.format_value(run.last)


def _best(run: ComparedRun) -> str:
    return "" if run.best is None else f"{measured.format_value(run.best)} ({run.best_round})"
