"""Sweeps from their beginning, or from where they were stopped, to their comparison."""

import shlex
import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from broker import BrokerUrl
from broker.messages import job_file
from broker.messages.register import ClientRecord
from client_fn import site
from fedkeeper import configs, own_data
from fedkeeper.display import screen
from fedkeeper.errors import BadOption, Missing
from fedkeeper.local import own_system
from fedkeeper.local import run as local_run
from fedkeeper.local.run import Options
from fedkeeper.options import own_url_option
from fedkeeper.results import Swept
from fedkeeper.runs import comparison, plot
from fedkeeper.runs import folder as run_folder
from fedkeeper.sdk import connect
from fedkeeper.services import system
from fedkeeper.services.system import Settings
from fedkeeper.sweeps import folder as sweep_folder
from fedkeeper.sweeps import grid, names, sweeping
from fedkeeper.sweeps import plan as sweep_plan
from fedkeeper.sweeps.grid import Axis
from fedkeeper.sweeps.plan import Machine, Plan
from fedkeeper.sweeps.sweeping import Pending
from fedkeeper.sweeps.view import SweepView

MOST_AT_ONCE: Final = 4
"""More jobs side by side bring little: each one's clients already train side by side."""


@dataclass(frozen=True)
class Sweep:
    """A sweep that can run.

    Attributes:
        plan: what it runs.
        folder: where it leaves its results.
        url: the broker of a running system; empty: the sweep has a system of its own.
    """

    plan: Plan
    folder: Path
    url: str = ""

    @property
    def at_once(self) -> int:
        """Number of jobs that run side by side."""
        most = MOST_AT_ONCE if self.url else min(MOST_AT_ONCE, system.cores())
        return self.plan.machine.at_once or most

    @property
    def store(self) -> Path:
        """The data folder of its own broker, which stays until all of its runs have ended."""
        return Path(self.plan.machine.folder) / f"sweep-{self.plan.id}"

    @property
    def resume_hint(self) -> str:
        """How to go on with it, as a command."""
        return f"fedkeeper sweep --resume {shlex.quote(str(self.folder))}{own_url_option(self.url)}"


def read_job(file: str, overrides: tuple[str, ...], axes: tuple[Axis, ...]) -> dict[str, Any]:
    """Return the job of a sweep as its file has it.

    Args:
        file: the job file, or the name of one that comes with FedKeeper.
        overrides: replacements of single fields, as `section.key=value`.
        axes: the grid.

    Raises:
        BadOption: a field is replaced that the grid varies.
        JobError: the file is not TOML, or an override is malformed.
        Missing: there is no such file.
    """
    for name in (override.partition("=")[0].strip() for override in overrides):
        if name in [axis.field for axis in axes]:
            raise BadOption(f"--set {name} and --grid {name}: give one of them")
    return configs.read_table(file, overrides)


def with_own_data(
    table: dict[str, Any], axes: tuple[Axis, ...], place: Path, folder: Path, *, test: float
) -> tuple[dict[str, Any], tuple[ClientRecord, ...]]:
    """Split the user's own data among clients; return the job for it, and the clients.

    Args:
        table: the job as its file has it.
        axes: the grid.
        place: the file or folder with the data.
        folder: the shards' folder.
        test: share of the samples for a test set.

    Raises:
        BadOption: the grid varies how data is split, or the data can't be read or split.
        NoSuchFile: there is no such data.
        JobError: the job is not valid.
        ClientError: a shard can't be written.
        BadTopic: the dataset's name can't be a client's.
    """
    if named := [axis.field for axis in axes if axis.field.partition(".")[0] == "data"]:
        raise BadOption(f"--grid {named[0]} and --from: the data is split once; see `fedkeeper stage`")
    with own_data.mistakes_of_options():
        job, clients = own_data.prepare_file(job_file.from_dict(table), place, folder, test=test)
    evaluation = {**table.get("evaluation", {}), "data": job.evaluation.data}
    return {**table, "data": job_file.without_defaults(job.data), "evaluation": evaluation}, tuple(clients)


def begin(
    table: dict[str, Any], axes: tuple[Axis, ...], seeds: int, *, out: Path, url: str, now_s: float, **facts: Any
) -> Sweep:
    """Return a new sweep. Nothing is written yet.

    Args:
        table: the job as its file has it.
        axes: the grid.
        seeds: number of seeds.
        out: the folder of all runs.
        url: the broker of a running system; empty: a system of its own.
        now_s: the time, in seconds since the epoch.
        facts: further attributes of the plan.

    Raises:
        BadOption: the grid can't be used.
        JobError: the job, or one of the grid's, is not valid.
        BadUrl: the URL can't be used.
    """
    broker = BrokerUrl.parse(url).address if url else ""
    plan = sweep_plan.create(table, axes, seeds, created_s=now_s, broker=broker, **facts)
    return Sweep(plan, run_folder.choose(out, f"sweep-{plan.name}-{plan.id}", now_s), url)


def check_names(sweep: Sweep, environ: Mapping[str, str]) -> None:
    """Check the names of optimizers, schedulers and metrics in a sweep's jobs, as far as this machine knows them.

    Args:
        sweep: the sweep.
        environ: the environment.

    Raises:
        JobError: names are not known.
        BadSettings: a variable can't be used.
    """
    jobs = [run.job for run in sweep_plan.runs(sweep.plan)]
    trains_here = not (sweep.url or site.read(environ).python)
    if mistakes := names.mistakes(jobs, trains_here=trains_here):
        raise sweep_plan.refusal(mistakes)


def resume(folder: Path, *, machine: Machine, url: str) -> Sweep:
    """Return a sweep that was begun.

    Args:
        folder: its folder, or a link to it.
        machine: what of the machine's use is to be changed.
        url: the broker, if the sweep uses a running system.

    Raises:
        Missing: it is no folder of a sweep.
        BadOption: the sweep uses another system than the one at the URL.
        BadUrl: the URL can't be used.
    """
    plan = sweep_plan.read(folder)
    local_run.check_same_broker("this sweep", plan.broker, url)
    changes = {name: value for name in machine.__struct_fields__ if (value := getattr(machine, name))}
    plan = msgspec.structs.replace(plan, machine=msgspec.structs.replace(plan.machine, **changes))
    return Sweep(plan, run_folder.behind_link(folder), url)


def settings(sweep: Sweep, environ: Mapping[str, str], *, quiet: bool = False) -> tuple[Settings, tuple[str, ...]]:
    """Get what the sweep's jobs need, as `local_run.settings` does; return the same.

    Args:
        sweep: the sweep.
        environ: the environment.
        quiet: show no progress bar of a download.

    Raises:
        ClientError: the code, the data or a setting can't be used.
        BadOption: a folder can't be written.
    """
    machine, jobs = sweep.plan.machine, [run.job for run in sweep_plan.runs(sweep.plan)]
    code, data = (Path(name) if name else None for name in (machine.code, machine.data))
    options = Options(
        folder=Path(machine.folder),
        workers=machine.workers,
        code=code,
        allow=machine.allow or None,
        device=machine.device,
        data=data,
        quiet=quiet,
    )
    return local_run.settings(
        jobs, options, job_folder=Path(machine.job_folder), environ=environ, at_once=sweep.at_once
    )


async def run(sweep: Sweep, settings: Settings | None, *, quiet: bool = False) -> None:
    """Run what is missing of a sweep.

    Args:
        sweep: the sweep.
        settings: its own system's settings; None: it uses a running system.
        quiet: only tell what fails.

    Raises:
        BadOption: the folder can't be written.
        NotSaved: a file can't be written.
        Missing: a file of a former run is damaged.
        ConnectFailed: no broker answers at the URL.
        NotAnswered: no FL server takes the jobs.
        PlatformFailed: no worker can start.
        ServerFailed: the broker can't run.
    """
    sweep_plan.write(sweep.plan, sweep.folder)
    run_folder.mark_latest(sweep.folder)
    runs, total = sweeping.pending(sweep.plan, sweep.folder), grid.count(sweep.plan.grid, sweep.plan.seeds)
    if runs:
        await _run(sweep, settings, runs, total, quiet=quiet)
    shutil.rmtree(sweep.store, ignore_errors=True)


async def _run(sweep: Sweep, settings: Settings | None, runs: list[Pending], total: int, *, quiet: bool) -> None:
    async with AsyncExitStack() as stack:
        url = sweep.url
        if settings is not None:
            sweep.store.mkdir(parents=True, exist_ok=True)
            url = await stack.enter_async_context(own_system.open_system(settings, store=sweep.store))
        client = await stack.enter_async_context(connect(url))
        await client.register(list(sweep.plan.clients))
        view = SweepView(screen.console(), [each.run for each in runs], total, quiet=quiet)
        with view:
            await sweeping.run_all(client, runs, at_once=min(sweep.at_once, len(runs)), view=view)


def compare(sweep: Sweep, *, metric: str = "") -> Swept:
    """Return the comparison of all runs of a sweep, and plot it into the sweep's folder.

    Args:
        sweep: a sweep whose runs have ended.
        metric: the metric to compare them by; empty: that which decides in the job, or was measured.

    Raises:
        Missing: a file in it is damaged.
        BadOption: the metric was not measured.
    """
    runs = sweep_folder.read_all([sweep.folder])
    compared = comparison.compare(runs, metric=metric)
    phases = Counter(run.ended.phase for run in runs if run.ended)
    if phases["completed"]:
        try:
            picture = plot.draw(runs, sweep.folder / plot.file_name(compared.metric), metric=metric)
            compared = msgspec.structs.replace(compared, plot=str(picture))
        except (Missing, BadOption) as exc:
            screen.say(f"no plot: {exc}", style="yellow")
    return Swept(
        folder=str(sweep.folder),
        runs=grid.count(sweep.plan.grid, sweep.plan.seeds),
        completed=phases["completed"],
        failed=phases["failed"],
        cancelled=phases["cancelled"],
        comparison=compared,
    )
