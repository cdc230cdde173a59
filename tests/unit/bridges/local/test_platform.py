"""When a local worker becomes idle, and when it is replaced."""

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

import msgspec
import pytest

from bridges.errors import InvocationFailed, SiteFault
from bridges.local import LocalPlatform, Settings, worker
from bridges.local.pool import Pool
from bridges.local.worker import Worker
from bridges.platform import Activation, Condition
from broker.messages import codec
from broker.messages.data_report import DataAnswer, DataCheck, DataReport
from broker.messages.invocation import Report, WorkerReady
from broker.support.processes import Group
from tests.support.tasks import task

SETTINGS = Settings(broker="memory://here", workers=1)
TASK = task("c-1", "local")
CHECK = DataCheck(id="look-1", client="c-1", data_loc="/srv/a.csv", limit_s=60.0)


class FakeProcess:
    """A worker's process that records what happens to it."""

    def __init__(self) -> None:
        self.stdin = self
        self.returncode: int | None = None
        self.killed = False
        self.requests: list[bytes] = []

    def write(self, request: bytes) -> None:
        self.requests.append(request)

    def kill(self) -> None:
        self.killed = True


class Site:
    """A platform with one idle worker.

    Args:
        together: how many tasks the worker takes at once.
    """

    def __init__(self, together: int = 1) -> None:
        self.process = FakeProcess()
        self.worker = Worker("worker-1", cast("Group", self.process), lambda: None)
        self.pool = Pool(msgspec.structs.replace(SETTINGS, together=together))
        self.pool.put_back(self.worker)
        self.platform = LocalPlatform(SETTINGS, None, self.pool)

    def reports(self, *states: str, reason: str = "") -> None:
        for state in states:
            report = Report(TASK.id, state, reason=reason, attempt=1)  # type: ignore[arg-type] # those of a Report
            self.hear(report)

    def hear(self, report: Report) -> None:
        """Let the worker write a report."""
        self.worker.is_ready = True
        self.worker._take_line(codec.encode(report))

    def is_idle(self) -> bool:
        return bool(self.pool._idle)


async def start_run(site: Site) -> AsyncGenerator[Activation, None]:
    """Start a run, and wait until it trains."""
    run = site.platform.invoke(TASK, 1)
    first = asyncio.ensure_future(anext(run))
    # The worker is idle, so one turn of the loop is enough to send the task.
    await asyncio.sleep(0)
    site.reports("training")
    assert (await first).state == "running"
    return run


async def test_a_worker_takes_the_next_task_while_it_publishes() -> None:
    site = Site()
    run = await start_run(site)
    site.reports("trained")
    publishing = asyncio.ensure_future(anext(run))
    assert await asyncio.wait_for(site.pool.take(), 5.0) is site.worker
    site.reports("done")
    assert (await publishing).state == "succeeded"
    assert [activation async for activation in run] == []
    assert not site.is_idle()
    assert site.worker.reports == {}
    assert not site.process.killed


async def test_a_worker_that_failed_takes_the_next_task() -> None:
    site = Site()
    run = await start_run(site)
    site.reports("failed", reason="no data")
    with pytest.raises(InvocationFailed, match="no data"):
        await anext(run)
    assert site.is_idle()
    assert not site.process.killed


async def test_a_worker_whose_run_is_closed_while_it_trains_is_killed() -> None:
    site = Site()
    run = await start_run(site)
    await run.aclose()
    assert site.process.killed
    assert site.worker.reports == {}
    assert not site.is_idle()


async def test_a_worker_whose_run_is_cancelled_while_it_trains_is_killed() -> None:
    site = Site()
    run = await start_run(site)
    waiting = asyncio.ensure_future(anext(run))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert site.process.killed
    assert not site.is_idle()


async def test_a_worker_that_has_trained_is_not_killed_when_its_run_is_given_up() -> None:
    site = Site()
    run = await start_run(site)
    site.reports("trained")
    publishing = asyncio.ensure_future(anext(run))
    assert await asyncio.wait_for(site.pool.take(), 5.0) is site.worker
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert not site.process.killed


async def test_a_worker_that_has_ended_gets_no_task() -> None:
    site = Site()
    site.process.returncode = -9
    other = Worker("worker-2", cast("Group", FakeProcess()), lambda: None)
    site.pool.put_back(other)
    assert await site.pool.take() is other


async def test_workers_that_train_clients_together_take_tasks_in_turn() -> None:
    site = Site(together=2)
    other = Worker("worker-2", cast("Group", FakeProcess()), lambda: None)
    site.pool.put_back(other)
    assert [await site.pool.take() for _ in range(4)] == [site.worker, other, site.worker, other]
    assert not site.is_idle()
    site.pool.put_back(other)
    assert await site.pool.take() is other
    site.worker.is_retired = True
    site.pool.put_back(site.worker)
    assert not site.is_idle()


async def test_a_task_that_is_given_up_kills_no_worker_that_has_others() -> None:
    site, other = Site(together=2), task("c-2", "local")
    first = await start_run(site)
    second = site.platform.invoke(other, 1)
    waiting = asyncio.ensure_future(anext(second))
    await asyncio.sleep(0)
    await first.aclose()
    assert not site.process.killed
    assert site.worker.reports.keys() == {(other.id, 1)}
    site.hear(Report(other.id, "training", attempt=1))
    assert (await waiting).state == "running"
    await second.aclose()
    assert site.process.killed


async def test_a_task_that_is_given_up_keeps_its_place_until_the_worker_has_done_with_it() -> None:
    site, other = Site(together=2), task("c-2", "local")
    first = await start_run(site)
    second = asyncio.ensure_future(anext(site.platform.invoke(other, 1)))
    await asyncio.sleep(0)
    await first.aclose()
    assert not site.is_idle()
    site.reports("training")
    assert not site.is_idle()
    site.reports("failed", reason="its deadline is over")
    assert site.is_idle()
    assert site.worker.taken == 1
    site.hear(Report(other.id, "training", attempt=1))
    await second


async def test_what_is_heard_of_an_earlier_attempt_ends_no_later_one() -> None:
    site, other = Site(together=3), task("c-2", "local")
    first = await start_run(site)
    waiting = asyncio.ensure_future(anext(site.platform.invoke(other, 1)))
    await asyncio.sleep(0)
    await first.aclose()
    again = site.platform.invoke(TASK, 2)
    heard = asyncio.ensure_future(anext(again))
    await asyncio.sleep(0)
    site.reports("trained", "failed", reason="its deadline is over")
    site.hear(Report(TASK.id, "training", attempt=2))
    assert (await heard).state == "running"
    assert site.worker.taken == 2
    site.hear(Report(TASK.id, "done", attempt=2))
    assert (await anext(again)).state == "succeeded"
    site.hear(Report(other.id, "training", attempt=1))
    await waiting


async def test_a_report_of_the_last_release_s_worker_is_about_the_latest_attempt() -> None:
    site = Site()
    run = site.platform.invoke(TASK, 2)
    first = asyncio.ensure_future(anext(run))
    await asyncio.sleep(0)
    site.hear(Report(TASK.id, "done"))
    assert (await first).state == "succeeded"
    assert [activation async for activation in run] == []


async def test_a_worker_whose_tasks_are_all_given_up_is_killed() -> None:
    site, other = Site(together=3), task("c-2", "local")
    first = await start_run(site)
    second = site.platform.invoke(other, 1)
    waiting = asyncio.ensure_future(anext(second))
    await asyncio.sleep(0)
    site.hear(Report(other.id, "training", attempt=1))
    await waiting
    await first.aclose()
    assert not site.process.killed
    await second.aclose()
    assert site.process.killed


async def test_a_worker_that_trains_is_asked_for_a_look_at_data_and_goes_on() -> None:
    site = Site()
    site.pool._ready[0] = site.worker
    run = await start_run(site)
    look = asyncio.ensure_future(site.platform.check(CHECK))
    await asyncio.sleep(0)
    assert codec.decode(DataCheck, site.process.requests[-1]) == CHECK
    report = DataReport(client="c-1", samples=7)
    site.worker.is_ready = True
    site.worker._take_line(codec.encode(DataAnswer(id="another", report=report)))
    site.worker._take_line(codec.encode(DataAnswer(id=CHECK.id, report=report)))
    assert await look == report
    assert site.worker.answers == {}
    assert not site.process.killed
    await run.aclose()


async def test_a_look_fails_with_its_worker() -> None:
    site = Site()
    look = asyncio.ensure_future(site.platform.check(CHECK))
    await asyncio.sleep(0)
    site.worker.fail("the worker process ended with code 3")
    with pytest.raises(InvocationFailed, match="ended with code 3"):
        await look


async def test_a_look_ends_when_no_worker_is_ready_in_time() -> None:
    site = Site()
    site.process.returncode = -9
    with pytest.raises(InvocationFailed, match="no worker is ready yet"):
        await site.platform.check(msgspec.structs.replace(CHECK, limit_s=0.01))


async def test_a_look_ends_when_its_worker_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ANSWER_S", 0.0)
    site = Site()
    with pytest.raises(InvocationFailed, match="did not answer within"):
        await site.platform.check(msgspec.structs.replace(CHECK, limit_s=0.01))
    assert site.worker.answers == {}


async def test_a_worker_whose_site_lets_nothing_run_is_ended_and_costs_no_attempt() -> None:
    site = Site()
    run = site.platform.invoke(TASK, 1)
    first = asyncio.ensure_future(anext(run))
    await asyncio.sleep(0)
    site.hear(Report(TASK.id, "failed", reason="no GPU", attempt=1, nothing_ran=True))
    with pytest.raises(SiteFault, match="no GPU"):
        await first
    assert site.process.killed
    assert not site.is_idle()


async def test_such_a_worker_first_publishes_the_update_of_another_task() -> None:
    site, other = Site(), task("c-2", "local")
    run = await start_run(site)
    site.reports("trained")
    publishing = asyncio.ensure_future(anext(run))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(anext(site.platform.invoke(other, 1)))
    await asyncio.sleep(0)
    site.hear(Report(other.id, "failed", reason="no GPU", attempt=1, nothing_ran=True))
    with pytest.raises(SiteFault):
        await second
    assert not site.process.killed
    site.reports("done")
    assert (await publishing).state == "succeeded"
    assert [activation async for activation in run] == []
    assert site.process.killed
    assert not site.is_idle()


def test_the_platform_is_this_machine_and_says_what_its_workers_are() -> None:
    site = Site()
    site.pool.ready = WorkerReady(processor="aarch64 NEON", device="cuda")
    assert SETTINGS.is_own
    assert site.platform.condition == Condition("aarch64 NEON", "cuda")
    site.pool._faults[0] = "no GPU"
    assert site.platform.condition == Condition("aarch64 NEON", "cuda", "worker can't start: no GPU", is_able=False)
