"""The table of a comparison, as a person reads it. Pure."""

import itertools
from collections import defaultdict
from typing import Final, NamedTuple

from fedkeeper.compared import Combination, ComparedRun, Statistics
from fedkeeper.display import field_values, measured, units
from fedkeeper.display.columns import Column
from fedkeeper.results import Comparison

FAILED: Final = "failed"

TAKEN: Final = ("run", "seed", "best", "runs", "rounds", "time", "digest")
"""Names of columns that no field's column may have."""


class Part(NamedTuple):
    """A column and its cells; each cell has a line or several."""

    column: Column
    cells: list[str]


def table(comparison: Comparison, *, each: bool = False) -> tuple[list[Column], list[list[str]]]:
    """Return the columns, and the lines for each combination or each run.

    Args:
        comparison: the comparison.
        each: a line for each run, with its seed.
    """
    runs = [(combination, run) for combination in comparison.combinations for run in combination.runs]
    parts = _of_combinations(comparison) if has_spread(comparison, each=each) else _of_runs(comparison, runs)
    lines: list[list[str]] = []
    for row in zip(*(part.cells for part in parts), strict=True):
        stacked = itertools.zip_longest(*(cell.split("\n") for cell in row), fillvalue="")
        lines.extend(list(line) for line in stacked)
    return [part.column for part in parts], lines


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
        ends: defaultdict[tuple[str, str], list[ComparedRun]] = defaultdict(list)
        for run in combination.runs:
            if run.phase not in (None, "completed"):
                ends[str(run.phase), run.reason].append(run)
        said += [f"{phase}: {_named(combination, runs)}: {reason}" for (phase, reason), runs in ends.items()]
    if comparison.better is None and any(combination.last for combination in comparison.combinations):
        name = comparison.metric
        said.append(f"not sorted, and without a best value: evaluation.directions says whether more {name} is better")
    return said


def _named(combination: Combination, runs: list[ComparedRun]) -> str:
    """Return which runs of a combination are meant, such as `batch_size 16, seeds 1, 2`."""
    seeds = [str(run.seed) for run in runs if run.seed is not None]
    which = [f"seed{'' if len(seeds) == 1 else 's'} {', '.join(seeds)}"] if seeds else []
    return ", ".join(filter(None, (field_values.label(combination.values), *which)))


def _of_combinations(comparison: Comparison) -> list[Part]:
    """Means, and the spread among the seeds."""
    found = comparison.combinations
    times = [units.format_duration(each.seconds.mean) if each.seconds else "" for each in found]
    return [
        *_settings(comparison, list(found)),
        Part(Column(comparison.metric), [_spread(each.last) for each in found]),
        *([] if comparison.better is None else [Part(Column("best", 2), [_spread(each.best) for each in found])]),
        Part(Column("runs"), [_number(each) for each in found]),
        Part(Column("rounds", 3), [_mean(each.rounds) for each in found]),
        Part(Column("time", 4), times),
    ]


def _of_runs(comparison: Comparison, rows: list[tuple[Combination, ComparedRun]]) -> list[Part]:
    runs = [run for _, run in rows]
    settings = _settings(comparison, [combination for combination, _ in rows])
    if len({run.seed for run in runs}) > 1:
        settings.append(Part(Column("seed"), ["" if run.seed is None else str(run.seed) for run in runs]))
    # A folder's name is long: it is shown if nothing else tells the runs apart, or if there is room.
    names = [run.folder.rstrip("/").rpartition("/")[2] for run in runs]
    return [
        Part(Column("run", 5 if settings else 0, least=12), names),
        *settings,
        Part(Column(comparison.metric), [_value(run) for run in runs]),
        *([] if comparison.better is None else [Part(Column("best", 1), [_best(run) for run in runs])]),
        Part(Column("rounds", 3), [str(run.rounds) for run in runs]),
        Part(Column("time", 4), [units.format_duration(run.seconds) for run in runs]),
        Part(Column("digest", 2), [units.short_digest(run.digest) for run in runs]),
    ]


def _settings(comparison: Comparison, combinations: list[Combination]) -> list[Part]:
    names = field_values.short_names(comparison.fields, (*TAKEN, comparison.metric))
    return [
        Part(Column(names[field], least=6), [field_values.value_text(each.values.get(field)) for each in combinations])
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
