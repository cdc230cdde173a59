"""Makes runs, one at a time. A run that was stopped keeps its store in `.fedkeeper/paper`, and goes on from there."""

import asyncio
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import rows, simulation
from benchmarks.paper import cells
from benchmarks.rows import Planned
from benchmarks.simulation import Outcome
from broker.messages import job_file
from broker.support import logs
from client_fn.site import Site

FOLDER: Final = cells.ROOT / ".fedkeeper/paper"

SHOWN_ROUNDS: Final = 10

_JOB_ID: Final = "paper"
"""The job's id in its own store."""

_BEGUN: Final = "begun.json"


class RunFailed(Exception):
    """Raised when a run's job fails. It has no row: nobody should commit one."""


@dataclass(frozen=True)
class Begun:
    """A run that was begun and has no row yet.

    Attributes:
        folder: its store.
        planned: the run.
        most_rounds: it ends after so many; None: its job says when.
    """

    folder: Path
    planned: Planned
    most_rounds: int | None = None

    @property
    def job(self) -> dict[str, Any]:
        """The job that it submits."""
        return _limited(self.planned.job, self.most_rounds)

    def note_commit(self) -> tuple[str, ...]:
        """Note the commit of the code that goes on with the run now, and return all that it has had."""
        facts = json.loads((self.folder / _BEGUN).read_text())
        commits = tuple(dict.fromkeys((*facts["commits"], rows.commit())))
        (self.folder / _BEGUN).write_text(json.dumps({**facts, "commits": commits}))
        return commits

    @property
    def can_go_on(self) -> bool:
        """Whether its cell still has this job: no job file or strategy's table was changed or removed."""
        strategy = self.planned.names["strategy"]
        if strategy != cells.FEDAVG and strategy not in cells.strategies():
            return False
        return cells.planned(cells.cell_of(self.planned.names), self.planned.names["seed"]) == self.planned


def _limited(job: dict[str, Any], most_rounds: int | None) -> dict[str, Any]:
    return job if most_rounds is None else {**job, "stop": {**job["stop"], "rounds": most_rounds}}


def begin(planned: Planned, folder: Path = FOLDER, *, most_rounds: int | None = None) -> Begun:
    """Make the folder of a run.

    Args:
        planned: the run.
        folder: for the folders of all runs.
        most_rounds: it ends after so many; None: its job says when.
    """
    # The job's digest: what was begun with other settings, and can't go on, must not be in the way.
    job = _limited(planned.job, most_rounds)
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{cells.cell_of(planned.names).name}-s{planned.names['seed']}-{digest}"
    begun = Begun(folder / name, planned, most_rounds)
    begun.folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {
        "names": planned.names,
        "job": planned.job,
        "most_rounds": most_rounds,
        "commits": [],
    }
    (begun.folder / _BEGUN).write_text(json.dumps(facts))
    return begun


def unfinished(folder: Path = FOLDER) -> list[Begun]:
    """Return the runs that were begun and can go on, by name.

    Args:
        folder: with the folders of all runs.
    """
    return [begun for begun in _all_begun(folder) if begun.can_go_on]


def stale(folder: Path = FOLDER) -> list[Begun]:
    """Return the runs that were begun and can't go on, because their cells have other jobs now; by name.

    Args:
        folder: with the folders of all runs.
    """
    return [begun for begun in _all_begun(folder) if not begun.can_go_on]


def _all_begun(folder: Path) -> Iterator[Begun]:
    for path in sorted(folder.glob(f"*/{_BEGUN}")):
        facts = json.loads(path.read_text())
        yield Begun(path.parent, Planned(facts["names"], facts["job"]), facts.get("most_rounds"))


class Watch:
    """Shows every tenth round, and says when the time is over.

    Args:
        until_s: when it is over, in seconds since the epoch; None: never.
    """

    def __init__(self, until_s: float | None) -> None:
        self._until_s = until_s
        self._begin_s = time.time()

    def __call__(self, outcome: Outcome) -> bool:
        """Take note of a completed round, and return whether it is to be the last one for now.

        Args:
            outcome: what there is so far.
        """
        done, now_s = len(outcome.round_s), time.time()
        if done % SHOWN_ROUNDS == 0 and outcome.accuracy:
            print(f"  round {done}: {outcome.accuracy[-1]:.4f}, {now_s - self._begin_s:.0f} s", flush=True)
        return self._until_s is not None and now_s > self._until_s


def make(begun: Begun, path: Path, *, until_s: float | None = None, device: str = "", quiet: bool = True) -> bool:
    """Go on with a run, and append its row when it has ended. Return whether it has.

    Args:
        begun: the run.
        path: the file of rows.
        until_s: it is stopped after the round in which this time passes, in seconds since the epoch; None: never.
        device: what to train on, as torch names it; empty: the processor.
        quiet: show no log.

    Raises:
        RunFailed: its job has failed, or not all of its clients' updates count. Nothing of the run is left.
    """
    if quiet:
        logs.configure(quiet=True)
    commits = begun.note_commit()
    outcome = asyncio.run(_go_on(begun, Watch(until_s), device))
    if not outcome.ended:
        return False
    flaw = outcome.error or _refusals(outcome)
    if not flaw:
        rows.append({**row_of(begun.planned, outcome, device), "commit": ", ".join(commits)}, path)
    shutil.rmtree(begun.folder)
    if flaw:
        raise RunFailed(f"{begun.folder.name}: it failed, and has no row: {flaw}")
    return True


def _refusals(outcome: Outcome) -> str:
    """Say which updates were refused: the models of such a run are not those of the paper's cohorts."""
    each = ", ".join(f"{number} ({code})" for code, number in outcome.refused.items())
    return f"updates were refused: {each}" if each else ""


async def _go_on(begun: Begun, until: Callable[[Outcome], bool], device: str) -> Outcome:
    async with simulation.open_simulation(store=begun.folder, device=device) as system:
        return await system.run(job_file.from_dict(begun.job), job_id=_JOB_ID, until=until)


def row_of(planned: Planned, outcome: Outcome, device: str) -> dict[str, Any]:
    """Return the row of a run that has ended.

    Args:
        planned: the run.
        outcome: what it has come to.
        device: what it was trained on, as torch names it; empty: the processor.
    """
    measured = [seconds for seconds in outcome.round_s if seconds is not None]
    return {
        **rows.row_of(planned, outcome, seconds=sum(measured) + outcome.parts.get("evaluation_s", 0.0)),
        "round_s": [None if seconds is None else round(seconds, 2) for seconds in outcome.round_s],
        "parts": {name: round(seconds, 2) for name, seconds in outcome.parts.items()},
        "torch": importlib.metadata.version("torch"),
        "processor": ", ".join(outcome.processors),
        "device": device_name(device),
        "together": Site(device=device).most_together,
        # What else the machine did: with more of it than cores, the seconds say little.
        "load": round(os.getloadavg()[2], 1),
    }


def device_name(device: str = "") -> str:
    """Return the name of a processor or card.

    Args:
        device: as torch names it; empty: the processor.
    """
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.machine())
