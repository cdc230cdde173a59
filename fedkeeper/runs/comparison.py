"""Compares runs: in which fields their jobs differ, and mean and spread of what they have measured. Pure."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from broker.messages.job_sections import Direction
from broker.messages.metrics import is_better
from fedkeeper.compared import Combination, ComparedRun, Statistics
from fedkeeper.display import field_values
from fedkeeper.results import Comparison
from fedkeeper.runs import metric as metrics
from fedkeeper.runs.metric import Metric
from fedkeeper.runs.stored import StoredRun

NO_SETTINGS: Final = frozenset({"id", "seed"})
"""Fields of a job that make no other combination."""


class Group(NamedTuple):
    """Runs whose jobs differ at most in their seed.

    Attributes:
        values: the fields by which they differ from other groups.
        runs: the runs.
    """

    values: dict[str, Any]
    runs: list[StoredRun]


class Point(NamedTuple):
    """A metric of a group in one round.

    Attributes:
        round: the round's number.
        mean: mean of the runs that have measured it.
        sd: its standard deviation; 0 for one run.
    """

    round: int
    mean: float
    sd: float


def differing_fields(runs: Sequence[StoredRun]) -> tuple[str, ...]:
    """Return the fields in which the jobs differ, without id and seed, in the order of the job file.

    A field that comes and goes with another one, such as `strategy.beta` with `strategy.name`, differs only if those
    who have it have different values.
    """
    known = [run.fields for run in runs if run.fields]
    names = dict.fromkeys(name for fields in known for name in fields if name not in NO_SETTINGS)

    def differs(name: str, among: Sequence[dict[str, Any]]) -> bool:
        return any(fields.get(name) != among[0].get(name) for fields in among)

    chosen = [
        name.rpartition(".")[0] + "." for name in names if name.endswith(field_values.CHOOSERS) and differs(name, known)
    ]
    return tuple(
        name
        for name in names
        if differs(name, [fields for fields in known if name in fields] if name.startswith(tuple(chosen)) else known)
    )


def groups(runs: Sequence[StoredRun], fields: Sequence[str]) -> list[Group]:
    """Return the runs by combination. Runs of one combination that have the same seed stand alone: nothing spreads.

    Args:
        runs: the runs.
        fields: the fields in which their jobs differ.
    """
    by_values: defaultdict[str, list[StoredRun]] = defaultdict(list)
    for run in runs:
        key = repr([run.fields.get(field) for field in fields]) if run.fields else f"only {run.folder}"
        by_values[key].append(run)
    found = []
    for members in by_values.values():
        values = {field: members[0].fields.get(field) for field in fields}
        are_alike = len({run.seed for run in members}) == len(members)
        found += [Group(values, part) for part in ([members] if are_alike else [[run] for run in members])]
    return found


def compare(runs: Sequence[StoredRun], *, metric: str = "") -> Comparison:
    """Compare runs; the best combination comes first, and those without a completed run last.

    Args:
        runs: the runs, at least one.
        metric: the metric to compare them by; empty: the one which decides in the first job, or was measured.

    Raises:
        BadOption: the metric was not measured.
    """
    chosen = metrics.choose(runs[0].job, [row for run in runs for row in run.rows], metric)
    fields, better = differing_fields(runs), chosen.direction(runs[0].job)
    found = [_combination(group, chosen, better) for group in groups(runs, fields)]

    def rank(combination: Combination) -> tuple[bool, float]:
        if combination.last is None or better is None:
            return combination.last is None, 0.0
        return False, -combination.last.mean if better == "max" else combination.last.mean

    return Comparison(
        metric=chosen.name,
        part=chosen.part,
        better=better,
        fields=fields,
        combinations=tuple(sorted(found, key=rank)),
    )


def curve(runs: Iterable[StoredRun], metric: Metric) -> list[Point]:
    """Return mean and spread of a metric by round.

    Args:
        runs: the runs of one combination.
        metric: the metric.
    """
    by_round: defaultdict[int, list[float]] = defaultdict(list)
    for run in runs:
        for round_, value in metric.points(run.rows):
            by_round[round_].append(value)
    return [
        Point(round_, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
        for round_, values in sorted(by_round.items())
    ]


def statistics_of(values: Iterable[float | None]) -> Statistics | None:
    """Return mean and spread of the values that are there; None: there are none."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return None
    sd = statistics.stdev(found) if len(found) > 1 else None
    return Statistics(len(found), statistics.fmean(found), sd, min(found), max(found))


def _combination(group: Group, metric: Metric, better: Direction | None) -> Combination:
    runs = tuple(_compared(run, metric, better) for run in group.runs)
    counted = [row for row, run in zip(runs, group.runs, strict=True) if run.is_completed]
    return Combination(
        values=group.values,
        last=statistics_of(run.last for run in counted),
        best=statistics_of(run.best for run in counted),
        rounds=statistics_of(run.rounds for run in counted),
        seconds=statistics_of(run.seconds for run in counted),
        runs=runs,
    )


def _compared(run: StoredRun, metric: Metric, better: Direction | None) -> ComparedRun:
    points = metric.points(run.rows)
    best: tuple[int, float] | None = None
    for point in points if better else ():
        best = point if better and is_better(point[1], best and best[1], better) else best
    return ComparedRun(
        folder=str(run.folder),
        seed=run.seed,
        phase=run.ended.phase if run.ended else None,
        reason=run.ended.reason if run.ended else "",
        last=points[-1][1] if points else None,
        best=best and best[1],
        best_round=best and best[0],
        rounds=len(run.rows),
        seconds=sum(row.get("round_s") or 0.0 for row in run.rows),
        digest=run.rows[-1].get("model", "") if run.rows else "",
    )
