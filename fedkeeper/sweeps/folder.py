"""Reads the folder of a sweep, which stands for those of its runs."""

from collections.abc import Iterable
from pathlib import Path

from fedkeeper.errors import Missing
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs import stored
from fedkeeper.runs.stored import Ended, StoredRun
from fedkeeper.sweeps import plan as sweep_plan
from fedkeeper.sweeps.plan import Plan, PlannedRun


def read_all(folders: Iterable[Path]) -> list[StoredRun]:
    """Read runs, each once; the folder of a sweep stands for those of its runs that have ended.

    Raises:
        Missing: a folder is none of a run or a sweep, or a file in it is damaged.
    """
    found: list[StoredRun] = []
    for folder in dict.fromkeys(map(run_folder.behind_link, folders)):
        if not (folder / sweep_plan.FILE).is_file():
            found.append(stored.read(folder))
            continue
        plan = sweep_plan.read(folder)
        ended = [last_attempt(folder, plan, run) for run in sweep_plan.runs(plan)]
        found += [stored.read(path) for path, how, _ in ended if how is not None]
        if not any(how for _, how, _ in ended):
            raise Missing(f"no run of {folder} has ended yet")
    return list({run.folder.resolve(): run for run in found}.values())


def last_attempt(folder: Path, plan: Plan, run: PlannedRun) -> tuple[Path, Ended | None, int]:
    """Return the folder of a run's last attempt, how that has ended (None: it has not), and its number.

    Args:
        folder: the sweep's folder.
        plan: the sweep.
        run: one of its runs.
    """
    number = 1
    while (folder / sweep_plan.job_id(plan, run, number + 1)).is_dir():
        number += 1
    path = folder / sweep_plan.job_id(plan, run, number)
    return path, stored.read_ended(path), number
