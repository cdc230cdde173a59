"""Results as rows of a JSON Lines file: a rerun adds what is missing. Runs take turns on several processes."""

import asyncio
import json
import multiprocessing
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import simulation
from benchmarks.simulation import HONEST, Behaviour, Outcome
from broker.messages import job_file
from broker.support import logs

RESULTS: Final = Path(__file__).parent / "results"

_ROOT: Final = Path(__file__).parent.parent


@dataclass(frozen=True)
class Planned:
    """A run that is to be made. Its names and its job say which row is its result.

    Attributes:
        names: what tables call it, by column.
        job: the job, as in a job file.
    """

    names: dict[str, Any]
    job: dict[str, Any]
    behaviour: Behaviour = field(default=HONEST, compare=False)

    @property
    def key(self) -> str:
        """Tells it from others."""
        return _key({**self.names, "job": self.job})


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a file by the key of their run.

    Args:
        path: the file; it may be missing.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    return {_key(row): row for row in map(json.loads, lines)}


def found(plan: Iterable[Planned], path: Path) -> list[dict[str, Any]]:
    """Return the rows that are there, in the order of the plan. Rows of other settings are left out.

    Args:
        plan: the runs.
        path: the file.
    """
    rows = read(path)
    return [rows[each.key] for each in plan if each.key in rows]


def add_missing(plan: Sequence[Planned], path: Path, *, processes: int = 1, until_s: float | None = None) -> None:
    """Make the runs that have no row yet, and append their rows.

    Args:
        plan: the runs.
        path: the file.
        processes: number of processes.
        until_s: no run is begun after this time, in seconds since the epoch; None: all are made.
    """
    rows = read(path)
    missing = [each for each in plan if each.key not in rows]
    print(f"{len(plan) - len(missing)} of {len(plan)} runs are in {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"commit": commit()}
    for number, row in enumerate(_made(missing, processes, until_s), start=1):
        if row is not None:
            append({**row, **facts}, path)
            print(f"{number}/{len(missing)} {line(row)}", flush=True)


def append(row: Mapping[str, Any], path: Path) -> None:
    """Append a row to a file.

    Args:
        row: the row.
        path: the file; its folder exists.
    """
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _made(plan: Iterable[Planned], processes: int, until_s: float | None) -> Iterator[dict[str, Any] | None]:
    """Make runs, and yield their rows as they come; None for a run that was not begun any more."""
    if processes == 1:
        yield from (_make(each, until_s) for each in plan)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_make, each, until_s) for each in plan]):
            yield done.result()


def _make(planned: Planned, until_s: float | None) -> dict[str, Any] | None:
    if until_s is not None and time.time() > until_s:
        return None
    logs.configure(quiet=True)
    begin_s = time.perf_counter()
    outcome = asyncio.run(simulation.run(job_file.from_dict(planned.job), behaviour=planned.behaviour))
    return row_of(planned, outcome, seconds=time.perf_counter() - begin_s)


def row_of(planned: Planned, outcome: Outcome, *, seconds: float) -> dict[str, Any]:
    """Return the row of a run.

    Args:
        planned: the run.
        outcome: what it has come to.
        seconds: how long it took.
    """
    return {
        **planned.names,
        "job": planned.job,
        "accuracy": [round(value, 4) for value in outcome.accuracy],
        "model": outcome.model,
        "update_bytes": outcome.update_bytes,
        "refused": outcome.refused,
        "error": outcome.error,
        "seconds": round(seconds, 1),
    }


def line(row: Mapping[str, Any]) -> str:
    """Return a run's names, what it has come to, and how long it took."""
    names = " ".join(str(value) for name, value in row.items() if name not in _FACTS)
    last = f"{row['accuracy'][-1]:.3f}" if row["accuracy"] else "no round"
    return f"{names}: {last}, {row['seconds']:.0f} s {row['error']}"


_OUTCOME: Final = {"job", "accuracy", "model", "update_bytes", "refused", "error", "seconds"}

_CIRCUMSTANCES: Final = {"commit", "torch", "processor", "device", "together", "load", "round_s", "parts"}

_FACTS: Final = _OUTCOME | _CIRCUMSTANCES
"""The columns of a row that do not name its run; the job does."""


def _key(row: Mapping[str, Any]) -> str:
    named = {name: value for name, value in row.items() if name not in _FACTS or name == "job"}
    return json.dumps(named, sort_keys=True)


def commit() -> str:
    """Return the commit of the code that runs, in short; with `+` if it, beside rows and docs, was changed since."""
    others = (":(exclude,glob)benchmarks/**/*.jsonl", ":(exclude)docs")
    changed = _git("diff", "HEAD", "--quiet", "--", ".", *others).returncode
    return _git("rev-parse", "--short=10", "HEAD").stdout.strip() + ("+" if changed else "")


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607


def rounds_to(accuracy: Sequence[float], target: float) -> int | None:
    """Return the first round whose model reaches an accuracy; None: none does.

    Args:
        accuracy: of each round's model.
        target: the accuracy.
    """
    return next((number for number, value in enumerate(accuracy, start=1) if value >= target), None)


def median_rounds(group: Iterable[Mapping[str, Any]], target: float) -> str:
    """Return the median of the rounds to an accuracy, and those of each row; a dash for one that has not come so far.

    Args:
        group: rows of the seeds.
        target: the accuracy.
    """
    each = [rounds_to(row["accuracy"], target) for row in group]
    if all(number is None for number in each):
        return "-"
    if len(each) == 1:
        return str(each[0])
    middle = statistics.median(float("inf") if number is None else number for number in each)
    seeds = ", ".join("-" if number is None else str(number) for number in each)
    return f"{'-' if middle == float('inf') else f'{middle:.0f}'} ({seeds})"


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown.

    Args:
        columns: their names.
        lines: the cells.
    """
    rows = [list(columns), ["---"] * len(columns), *map(list, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def grouped(rows: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> dict[Any, list[dict[str, Any]]]:
    """Return rows by a key, in the order in which the keys come first.

    Args:
        rows: the rows.
        key: returns a row's key.
    """
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
