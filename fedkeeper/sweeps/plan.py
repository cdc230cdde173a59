"""The plan of a sweep: its job, its grid and its seeds, as `sweep.toml` keeps them, and the runs that follow. Pure."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from broker.messages import job_file
from broker.messages.errors import JobError
from broker.messages.job import Job
from broker.messages.register import ClientRecord
from broker.support import validation
from broker.support.validation import Mistake
from broker.topics import MAX_ID
from fedkeeper import files
from fedkeeper.display import field_values
from fedkeeper.errors import BadOption, Missing, NoSuchFile
from fedkeeper.sweeps import grid
from fedkeeper.sweeps.grid import Axis

FILE: Final = "sweep.toml"


class Machine(msgspec.Struct, frozen=True):
    """How a sweep uses the machine that it was started on: the options of its command, each empty if it was not given.

    Attributes:
        at_once: number of jobs that run side by side.
        workers: number of worker processes.
        folder: the store, the credentials and the clients' shards.
        code: file or folder of the user's code.
        job_folder: folder of the job file, beside which the user's code may lie.
        allow: what jobs may import.
        device: torch's name of the device.
        data: folder of the datasets' files.
    """

    at_once: int = 0
    workers: int = 0
    folder: str = ""
    code: str = ""
    job_folder: str = ""
    allow: tuple[str, ...] = ()
    device: str = ""
    data: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep runs.

    Attributes:
        id: the sweep's id: part of the ids of its jobs.
        name: the job's name.
        created_s: when the sweep was started, in seconds since the epoch.
        broker: address of the running system that it uses, without a password; empty: a system of its own.
        seeds: number of seeds.
        grid: the fields that vary.
        job: the job as its file has it.
        machine: how it uses the machine.
        clients: the clients of the user's own data, to be registered; none: the register has them.
    """

    id: str
    name: str
    created_s: float
    broker: str = ""
    seeds: int = 1
    grid: tuple[Axis, ...] = ()
    job: dict[str, Any] = {}
    machine: Machine = Machine()
    clients: tuple[ClientRecord, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        number: number of its combination, from 1.
        values: the combination: the value of each field of the grid.
        seed: number of its seed, from 1.
        job: the job, without an id.
        several_seeds: whether the sweep has more than one.
    """

    number: int
    values: dict[str, Any]
    seed: int
    job: Job
    several_seeds: bool

    @property
    def key(self) -> tuple[int, int]:
        """What tells the run from the others of its sweep."""
        return self.seed, self.number

    @property
    def label(self) -> str:
        """The run in words, such as `learning_rate 0.1, seed 2`."""
        return field_values.label(
            self.values | ({"seed": self.job.seed} if self.several_seeds or not self.values else {})
        )


def create(raw: dict[str, Any], axes: tuple[Axis, ...], seeds: int, **facts: Any) -> Plan:
    """Return the plan of a sweep.

    Args:
        raw: the job as its file has it, with the overrides of `--set`.
        axes: the grid.
        seeds: number of seeds.
        facts: further attributes of the plan.

    Raises:
        BadOption: the grid can't be used.
        JobError: the job, or one of the grid's, is not valid.
    """
    fields = [axis.field for axis in axes]
    if not axes and seeds == 1:
        raise BadOption("nothing to compare: give --grid section.key=value,value or --seeds N")
    if "id" in fields:
        raise BadOption("--grid id: the sweep gives its jobs their ids")
    if "seed" in fields and seeds > 1:
        raise BadOption("--grid seed and --seeds: give one of them; --seeds brings the runs of a combination together")
    if (number := grid.count(axes, seeds)) > grid.MAX_RUNS:
        raise BadOption(f"{grid.describe(axes, seeds)}: at most {grid.MAX_RUNS} runs are possible, not {number}")
    job = {key: value for key, value in job_file.without_none(raw).items() if key != "id"}
    plan = Plan(name=job_file.from_dict(job).name, seeds=seeds, grid=axes, job=job, **facts)
    runs(plan)
    return plan


def runs(plan: Plan) -> list[PlannedRun]:
    """Return the runs of a sweep: every combination with the first seed, then every one with the next.

    Raises:
        JobError: combinations are not valid jobs; it has every mistake of all of them.
    """
    base = job_file.from_dict(plan.job)
    planned, mistakes = [], dict[tuple[str, str], Mistake]()
    for seed in range(plan.seeds):
        for number, values in enumerate(grid.combinations(plan.grid), 1):
            raw = copy.deepcopy(plan.job)
            if plan.seeds > 1:
                raw["seed"] = base.seed + seed
            if plan.seeds > 1 or "seed" in values:
                # So that the seed changes the model and the training alone, and the first seed's jobs are as without.
                raw.setdefault("cohort", {}).setdefault("seed", base.draw_seed)
            for field, value in values.items():
                job_file.set_field(raw, field, value)
            try:
                job = job_file.from_dict(raw)
            except JobError as exc:
                mistakes |= {(each.field, each.shown): each for each in exc.errors}
            else:
                planned.append(PlannedRun(number, values, seed + 1, job, plan.seeds > 1))
    if mistakes:
        raise refusal(list(mistakes.values()))
    return planned


def refusal(mistakes: Sequence[Mistake]) -> JobError:
    """Return the error for mistakes of a sweep's jobs.

    Args:
        mistakes: the mistakes, at least one.
    """
    return JobError.of(mistakes[: validation.MOST], "the sweep's jobs")


def job_id(plan: Plan, run: PlannedRun, attempt: int = 1) -> str:
    """Return the id of a run's job: the same each time, so that a broker that has run it is found to have done so.

    Args:
        plan: the sweep.
        run: one of its runs.
        attempt: how often the run is started; a job that has failed is not started again under its id.
    """
    ending = f"-{plan.id}-{run.number}" + (f"-s{run.seed}" if run.several_seeds else "")
    ending += f"-t{attempt}" if attempt > 1 else ""
    return plan.name[: MAX_ID - len(ending)].rstrip("-") + ending


def write(plan: Plan, folder: Path) -> None:
    """Write a plan into the sweep's folder, which is created.

    Args:
        plan: the plan.
        folder: the sweep's folder.

    Raises:
        BadOption: the folder can't be written.
        NotSaved: the file can't be written.
    """
    files.check_folder(folder, "--out")
    files.write(folder / FILE, msgspec.toml.encode(plan))


def read(folder: Path) -> Plan:
    """Read the plan of a sweep from its folder.

    Raises:
        Missing: the folder has no plan, or the file is damaged.
    """
    file = folder / FILE
    try:
        return msgspec.toml.decode(file.read_bytes(), type=Plan)
    except FileNotFoundError as exc:
        raise NoSuchFile(f"{file} is missing: give the folder of a sweep, such as runs/latest") from exc
    except (OSError, ValueError) as exc:
        raise Missing(f"{file} can't be read: {exc}") from exc
