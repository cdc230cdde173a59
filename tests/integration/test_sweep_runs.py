"""Sweeps with fake clients: every run's results, jobs that fail, a sweep that is stopped and goes on."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from broker.base import Broker
from broker.errors import CorruptPayload
from broker.messages import progress
from broker.messages.job_record import JobRecord
from broker.messages.progress import Progress
from broker.messages.round import RoundTask
from fedkeeper.errors import NoSuchJob, NotSaved
from fedkeeper.runs import comparison, saving, stored
from fedkeeper.runs.recorder import Recorder
from fedkeeper.sdk import Client
from fedkeeper.sweeps import folder as sweep_folder
from fedkeeper.sweeps import grid, sweeping
from fedkeeper.sweeps import plan as sweep_plan
from fedkeeper.sweeps.plan import Plan
from fedkeeper.sweeps.view import SweepView
from server.models import Which
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running
from tests.support.job_progress import events_of, watch_to_end

JOB: dict[str, Any] = {
    "name": "demo",
    "data": {"dataset": "own", "clients": 10},
    "cohort": {"clients": 4, "grace_s": 0.2, "deadline_s": 600.0},
    "stop": {"rounds": 2},
    "evaluation": {"data": "/test"},
}


def plan(*grids: str, seeds: int = 1) -> Plan:
    return sweep_plan.create(JOB, grid.parse(grids), seeds, id="3fa9c1", created_s=1.0)


async def run(sdk: Client, plan: Plan, folder: Path, *, at_once: int = 2) -> str:
    """Run what is missing, and return what is said."""
    runs = sweeping.pending(plan, folder)
    console = Console(width=200, record=True, file=None, stderr=True, force_terminal=False)
    with SweepView(console, [each.run for each in runs], grid.count(plan.grid, plan.seeds)) as view:
        await sweeping.run_all(sdk, runs, at_once=at_once, view=view)
    return console.export_text()


async def test_every_run_leaves_its_results_and_one_that_fails_its_reason(
    sdk: Client, bus: Broker, tmp_path: Path
) -> None:
    swept, folder = plan("training.batch_size=8,16", "data.dataset=own,gone"), tmp_path / "sweep"
    await sdk.register([*fakes.clients(10), *fakes.clients(10, data="gone", first=10)])
    async with running(serve(bus, FakeLearning(fails_on="gone")), Fleet(bus).serve()):
        said = await run(sdk, swept, folder)
        again = sweeping.pending(swept, folder)

    names = ["demo-3fa9c1-1", "demo-3fa9c1-2", "demo-3fa9c1-3", "demo-3fa9c1-4"]
    assert _names(folder) == names
    assert {"job.toml", "metrics.jsonl", "model.safetensors", "ended.json"} <= {*_names(folder / names[0])}
    lines = said.splitlines()
    assert sorted(line[1:4] for line in lines) == ["1/4", "2/4", "3/4", "4/4"]
    assert sum("dataset own: accuracy" in line for line in lines) == 2
    assert sum("dataset gone: failed: " in line and "no data 'gone' here" in line for line in lines) == 2
    assert [each.job for each in again] == ["demo-3fa9c1-2-t2", "demo-3fa9c1-4-t2"], "those that failed"

    sweep_plan.write(swept, folder)
    compared = comparison.compare(sweep_folder.read_all([folder]))
    assert [bool(each.last) for each in compared.combinations] == [True, True, False, False]
    assert {each.runs[0].phase for each in compared.combinations} == {"completed", "failed"}


async def test_a_job_whose_model_is_lost_fails_and_the_others_go_on(
    sdk: Client, bus: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept, save = plan("training.batch_size=8,16,32"), saving.save_model

    async def lose(sdk: Client, record: JobRecord, folder: Path, which: Which = "last") -> Path:
        if (error := errors.get(record.id)) is not None:
            raise error
        return await save(sdk, record, folder, which)

    errors = {"demo-3fa9c1-1": CorruptPayload("fl.models.x", "it is missing"), "demo-3fa9c1-2": NoSuchJob("gone")}
    monkeypatch.setattr(saving, "save_model", lose)
    await sdk.register(fakes.clients(10))
    async with running(serve(bus, FakeLearning()), Fleet(bus).serve()):
        await run(sdk, swept, tmp_path / "sweep")
    ended = [each.ended for each in _all(tmp_path / "sweep")]
    assert [each and each.phase for each in ended] == ["failed", "failed", "completed"]
    assert ended[0] is not None
    assert ended[0].reason == "fl.models.x: it is missing"


async def test_the_events_of_a_job_are_read_no_longer_when_its_metrics_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    async def watch(job: str) -> AsyncGenerator[Progress, None]:
        try:
            yield Progress(job, progress.JobCancelled(rounds=1, model=None), 0.0, "1")
        finally:
            ended.append(job)

    def fail(*_: Any) -> None:
        raise NotSaved(tmp_path, "No space left on device")

    run, recorder, view = sweep_plan.runs(plan(seeds=2))[0], Recorder(tmp_path), SweepView(Console(), [], 1)
    monkeypatch.setattr(recorder, "record", fail)
    sdk: Any = SimpleNamespace(watch=watch)
    with pytest.raises(NotSaved) as failed:
        await sweeping._follow(sdk, "mine", run, recorder, view)
    assert (failed.type, ended) == (NotSaved, ["mine"])


async def test_all_combinations_of_all_seeds_have_the_same_cohorts(sdk: Client, bus: Broker, tmp_path: Path) -> None:
    swept = plan("training.batch_size=8,16", seeds=2)
    await sdk.register(fakes.clients(10))
    fleet = Fleet(bus)
    async with running(serve(bus, FakeLearning()), fleet.serve()):
        await run(sdk, swept, tmp_path)
    cohorts: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for task in fleet.tasks:
        cohorts[task.job].append((task.round, task.client_id))
    assert len(cohorts) == 4
    assert len({tuple(sorted(cohort)) for cohort in cohorts.values()}) == 1
    assert len({task.model_seed for task in fleet.tasks}) == 2, "one for each seed"


async def test_a_stopped_sweep_goes_on_where_it_was(sdk: Client, bus: Broker, tmp_path: Path) -> None:
    swept = plan("training.batch_size=8,16,32")
    is_waiting, may_go_on = asyncio.Event(), asyncio.Event()

    async def waits_in_the_last_job(bus: Broker, task: RoundTask) -> None:
        if task.job == "demo-3fa9c1-3" and task.round == 2:
            is_waiting.set()
            await may_go_on.wait()
        await fakes.answer(bus, task)

    await sdk.register(fakes.clients(10))
    fleet = Fleet(bus, waits_in_the_last_job)
    async with running(serve(bus, FakeLearning()), fleet.serve()):
        first = asyncio.create_task(run(sdk, swept, tmp_path, at_once=1))
        async with asyncio.timeout(60):
            await is_waiting.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        missing = [each.job for each in sweeping.pending(swept, tmp_path)]
        may_go_on.set()
        said = await run(sdk, swept, tmp_path)
        opened = events_of(await watch_to_end(sdk, "demo-3fa9c1-3"), progress.RoundOpened)

    assert missing == ["demo-3fa9c1-3"]
    assert said.startswith("[3/3] batch_size 32: accuracy ")
    assert [event.round for event in opened] == [1, 2]
    assert len(stored.read(tmp_path / "demo-3fa9c1-3").rows) == 2
    assert not sweeping.pending(swept, tmp_path)
    assert set(fleet.task_counts.values()) == {1}, "no client has trained twice"


async def test_jobs_that_the_broker_has_done_are_found(sdk: Client, bus: Broker, tmp_path: Path) -> None:
    swept = plan("training.batch_size=8,16")
    await sdk.register(fakes.clients(10))
    fleet = Fleet(bus)
    async with running(serve(bus, FakeLearning()), fleet.serve()):
        await run(sdk, swept, tmp_path / "first")
        await run(sdk, swept, tmp_path / "second")
    assert set(fleet.task_counts.values()) == {1}
    digests = [[run.rows[-1]["model"] for run in _all(tmp_path / name)] for name in ("first", "second")]
    assert digests[0] == digests[1]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _all(folder: Path) -> list[stored.StoredRun]:
    return [stored.read(path) for path in sorted(folder.iterdir())]
