"""Sweeps from their beginning, or from where they were stopped, to their comparison."""

import shutil
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from broker import BrokerUrl
from fedkeeper import configs, own_system, screen, site_settings, system
from fedkeeper.errors import BadOption, Missing
from fedkeeper.options import Reveal
from fedkeeper.results import Swept
from fedkeeper.runs import comparison, grid, plot, stored, sweep_plan, sweeping
from fedkeeper.runs import folder as run_folder
from fedkeeper.runs.grid import Axis
from fedkeeper.runs.sweep_plan import Machine, Plan
from fedkeeper.runs.sweep_view import SweepView
from fedkeeper.sdk import connect
from fedkeeper.system import Settings

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
        return f"fedkeeper sweep --resume {self.folder}" + (" --url URL" if self.url else "")


def begin(
    job: str,
    axes: tuple[Axis, ...],
    seeds: int,
    *,
    overrides: tuple[str, ...],
    machine: Machine,
    out: Path,
    url: str,
    id_: str,
    now_s: float,
) -> Sweep:
    """Return a new sweep. Nothing is written yet.

    Args:
        job: the job file, or the name of one that comes with FedKeeper.
        axes: the grid.
        seeds: number of seeds.
        overrides: replacements of single fields of the file, as `section.key=value`.
        machine: how it uses this machine.
        out: the folder of all runs.
        url: the broker of a running system; empty: a system of its own.
        id_: the sweep's id.
        now_s: the time, in seconds since the epoch.

    Raises:
        BadOption: the grid can't be used.
        JobError: the job, or one of the grid's, is not valid.
        Missing: there is no such file.
    """
    for name in (override.partition("=")[0].strip() for override in overrides):
        if name in [axis.field for axis in axes]:
            raise BadOption(f"--set {name} and --grid {name}: give one of them")
    table = configs.read_table(job, overrides)
    machine = msgspec.structs.replace(machine, job_folder=str(configs.find(job).parent.resolve()))
    broker = BrokerUrl.parse(url).address if url else ""
    plan = sweep_plan.create(table, axes, seeds, id=id_, created_s=now_s, broker=broker, machine=machine)
    return Sweep(plan, run_folder.choose(out, f"sweep-{plan.name}-{id_}", now_s), url)


def resume(folder: Path, *, machine: Machine, url: str) -> Sweep:
    """Return a sweep that was begun.

    Args:
        folder: its folder, or a link to it.
        machine: what of the machine's use is to be changed.
        url: the broker, if the sweep uses a running system.

    Raises:
        Missing: it is no folder of a sweep.
        BadOption: the sweep uses a running system, and the URL is missing.
    """
    plan = sweep_plan.read(folder)
    if plan.broker and not url:
        raise BadOption(f"this sweep runs on {plan.broker}: give its --url again")
    changes = {name: value for name in machine.__struct_fields__ if (value := getattr(machine, name))}
    plan = msgspec.structs.replace(plan, machine=msgspec.structs.replace(plan.machine, **changes))
    # A link such as runs/latest may soon point to something else.
    folder = folder.parent / folder.readlink() if folder.is_symlink() else folder
    return Sweep(plan, folder, url)


def settings(sweep: Sweep, environ: Mapping[str, str]) -> Settings:
    """Get everything that the sweep's own system needs: the user's code, and the files of built-in datasets.

    Blocks: a download takes long, and Ctrl-C must interrupt it.

    Args:
        sweep: the sweep.
        environ: the environment.

    Raises:
        ClientError: the code, the data or a setting can't be used.
        BadOption: a folder can't be written.
    """
    from client_fn.code import named
    from client_fn.data import datasets

    machine, jobs = sweep.plan.machine, [run.job for run in sweep_plan.runs(sweep.plan)]
    code, data = (Path(name) if name else None for name in (machine.code, machine.data))
    workers, folder = machine.workers or system.cores(), Path(machine.folder)
    types = tuple(dict.fromkeys(type_ for job in jobs for type_ in named.of_job(job).types))
    site = site_settings.read(
        environ, code=code, allow=machine.allow or None, device=machine.device, reveal=Reveal.TEXT
    )
    site = site_settings.with_own_code(site, types, Path(machine.job_folder))
    for name in sorted({job.data.dataset for job in jobs}):
        datasets.ensure(name, data_dir=data)
    site = site_settings.prepare(site, folder, trainers=workers + sweep.at_once, environ=environ)
    if packed := site_settings.pack(site):
        screen.say(packed.summary())
    return Settings(folder, workers, data, site=site)


async def run(sweep: Sweep, settings: Settings | None, *, quiet: bool = False) -> None:
    """Run what is missing of a sweep.

    Args:
        sweep: the sweep.
        settings: its own system's settings; None: it uses a running system.
        quiet: only tell what fails.

    Raises:
        Missing: the folder can't be written, or a file in it is damaged.
        ConnectFailed: no broker answers at the URL.
        NotAnswered: no FL server takes the jobs.
        PlatformFailed: no worker can start.
        ServerFailed: the broker can't run.
    """
    sweep_plan.write(sweep.plan, sweep.folder)
    run_folder.mark_latest(sweep.folder)
    runs, total = sweeping.pending(sweep.plan, sweep.folder), grid.count(sweep.plan.grid, sweep.plan.seeds)
    if not runs:
        return
    async with AsyncExitStack() as stack:
        url = sweep.url
        if settings is not None:
            sweep.store.mkdir(parents=True, exist_ok=True)
            url = await stack.enter_async_context(own_system.open_system(settings, store=sweep.store))
        client = await stack.enter_async_context(connect(url))
        view = SweepView(screen.console(), [each.run for each in runs], total, quiet=quiet)
        with view:
            await sweeping.run_all(client, runs, at_once=min(sweep.at_once, len(runs)), view=view)
    shutil.rmtree(sweep.store, ignore_errors=True)


def compare(sweep: Sweep, *, metric: str = "") -> Swept:
    """Return the comparison of all runs of a sweep, and plot it into the sweep's folder.

    Args:
        sweep: a sweep whose runs have ended.
        metric: the metric to compare them by; empty: that which decides in the job, or was measured.

    Raises:
        Missing: a file in it is damaged.
        BadOption: the metric was not measured.
    """
    runs = stored.read_all([sweep.folder])
    compared = comparison.compare(runs, metric=metric)
    completed = sum(run.is_completed for run in runs)
    if completed:
        try:
            picture = plot.draw(runs, sweep.folder / f"{compared.metric}.png", metric=metric)
            compared = msgspec.structs.replace(compared, plot=str(picture))
        except Missing as exc:
            screen.say(f"no plot: {exc}", style="yellow")
    return Swept(
        folder=str(sweep.folder),
        runs=grid.count(sweep.plan.grid, sweep.plan.seeds),
        completed=completed,
        failed=len(runs) - completed,
        comparison=compared,
    )
