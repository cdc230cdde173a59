"""How workers start and end: real processes that run small programs."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from bridges.errors import InvocationFailed, PlatformFailed, SiteFault
from bridges.local import Settings
from bridges.local.pool import Pool, open_pool
from bridges.local.worker import Worker
from broker.messages.invocation import Report, WorkerReady
from broker.support import loggers
from broker.support.processes import start_group
from tests.support.fakes import soon
from tests.support.tasks import task

WITHIN_S: Final = 60.0
TASK: Final = task("c-1", "local")
READY: Final = """
import json, os, signal, sys, time
def write(line):
    sys.stdout.write(line + "\\n")
    sys.stdout.flush()
def report(state):
    write(json.dumps({"id": request["task"]["job"] + ".1.c-1", "state": state, "attempt": 1}))
write('{"state": "ready"}')
"""
READ: Final = "request = json.loads(sys.stdin.readline())\n"


@contextlib.asynccontextmanager
async def pool_of(program: str, *, workers: int = 1) -> AsyncIterator[Pool]:
    """A pool of workers that run a program. It does not wait before it starts one again."""
    settings = Settings(broker="memory://here", workers=workers)
    command = (sys.executable, "-S", "-c", program)
    async with asyncio.timeout(WITHIN_S), open_pool(settings, command=command, uniform=lambda low, _: low) as pool:
        yield pool


async def failure_of(pool: Pool) -> str:
    """Send a task to a worker, and return why it failed."""
    reports = (await pool.take()).send(TASK, 1)
    while (report := await reports.get()).state != "failed":
        pass
    return report.reason


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def pid_in(file: Path) -> int:
    """Wait until a program has written a line with a process id."""
    texts: list[str] = []

    def is_written() -> bool:
        texts.append(file.read_text() if file.exists() else "")
        return texts[-1].endswith("\n")

    await soon(is_written)
    return int(texts[-1])


async def test_a_worker_gets_tasks_when_it_is_ready_and_its_reports_arrive() -> None:
    async with pool_of(READY + READ + "report('training'); report('done'); sys.stdin.read()") as pool:
        worker = await pool.take()
        assert worker.is_ready
        reports = worker.send(TASK, 1)
        assert [await reports.get(), await reports.get()] == [
            Report(TASK.id, state, attempt=1) for state in ("training", "done")
        ]


async def test_waiting_tasks_fail_when_no_worker_can_start(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "are_shown", lambda: True)
    program = "import sys; sys.exit('first line\\nModuleNotFoundError: no module named broker.base\\n  +-----')"
    async with pool_of(program, workers=2) as pool:
        waiting = [asyncio.ensure_future(pool.take()) for _ in range(3)]
        errors = await asyncio.gather(*waiting, return_exceptions=True)
    reason = "worker can't start: it ended with code 1: ModuleNotFoundError: no module named broker.base"
    assert [str(error) for error in errors] == [reason] * 3
    assert all(isinstance(error, InvocationFailed) and error.retryable for error in errors)
    assert capfd.readouterr().err.count("first line") >= 6


async def test_what_a_worker_writes_is_logged_in_a_program_that_shows_no_logs(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "are_shown", lambda: False)
    caplog.set_level(logging.INFO, logger=loggers.ROOT)
    async with pool_of("import sys; sys.exit('a worker fails')") as pool:
        with pytest.raises(InvocationFailed):
            await pool.take()
    assert "a worker fails" in "".join(caplog.messages)
    assert "a worker fails" not in capfd.readouterr().err


async def test_a_worker_that_starts_later_gets_tasks_again(tmp_path: Path) -> None:
    file = tmp_path / "installed"
    program = f"import os, sys\nif not os.path.exists({str(file)!r}): sys.exit(3)\n{READY}sys.stdin.read()"
    async with pool_of(program) as pool:
        with pytest.raises(InvocationFailed, match=r"can't start: it ended with code 3$"):
            await pool.take()
        file.touch()
        await soon(lambda: bool(pool._idle))
        assert (await pool.take()).is_ready


FAULT: Final = """write('{"state": "fault", "reason": "FEDKEEPER_DEVICE: no GPU"}')"""


async def test_a_fault_of_the_site_s_settings_ends_the_wait_for_a_worker_at_once() -> None:
    program = READY.rpartition("write(")[0] + FAULT
    async with pool_of(program) as pool:
        with pytest.raises(PlatformFailed, match=r"^local could not start a worker: FEDKEEPER_DEVICE: no GPU$"):
            await pool.wait_until_ready()
        await soon(lambda: bool(pool.fault))
        with pytest.raises(SiteFault, match=r"^worker can't start: FEDKEEPER_DEVICE: no GPU$"):
            await pool.take()


async def test_a_site_whose_fault_is_mended_is_ready(tmp_path: Path) -> None:
    file = tmp_path / "mended"
    start = READY.rpartition("write(")[0]
    program = f"{start}\nif not os.path.exists({str(file)!r}):\n    {FAULT}\n    sys.exit()\n"
    async with pool_of(program + """write('{"state": "ready"}'); sys.stdin.read()""") as pool:
        await soon(lambda: bool(pool.fault))
        file.touch()
        await soon(lambda: not pool.fault)
        await pool.wait_until_ready()
        assert (await pool.take()).is_ready


async def test_a_worker_that_fails_otherwise_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "installed"
    program = f"import os, sys\nif not os.path.exists({str(file)!r}): sys.exit(3)\n{READY}sys.stdin.read()"
    async with pool_of(program) as pool:
        waiting = asyncio.ensure_future(pool.wait_until_ready())
        await soon(lambda: bool(pool.fault))
        assert not waiting.done()
        file.touch()
        await waiting


async def test_no_worker_in_time_is_a_failure_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridges.local.pool.READY_S", 0.01)
    async with pool_of("import time; time.sleep(600)") as pool:
        with pytest.raises(PlatformFailed, match=r"none was ready within 0\.01 s"):
            await pool.wait_until_ready()


async def test_what_a_worker_says_of_itself_is_known() -> None:
    ready = """write('{"state": "ready", "processor": "aarch64 NEON", "device": "cuda"}')\n"""
    async with pool_of(READY.rpartition("write(")[0] + ready + "sys.stdin.read()") as pool:
        await pool.wait_until_ready()
        assert pool.ready == WorkerReady(processor="aarch64 NEON", device="cuda")


async def test_a_start_that_failed_twice_fails_no_task(tmp_path: Path) -> None:
    count = f"""
import sys
with open({str(tmp_path / "starts")!r}, "a+") as file:
    file.write("x"); file.seek(0)
    if len(file.read()) < 3: sys.exit(1)
"""
    async with pool_of(f"{count}{READY}sys.stdin.read()") as pool:
        assert (await pool.take()).name == "worker-3"


async def test_the_longest_delay_between_starts_doubles() -> None:
    settings, bounds = Settings(broker="memory://here"), list[float]()

    def uniform(low: float, high: float) -> float:
        bounds.append(high)
        return low

    async with asyncio.timeout(WITHIN_S), open_pool(settings, command=("/nowhere",), uniform=uniform):
        await soon(lambda: len(bounds) >= 9)
    assert bounds[:9] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


async def test_a_program_that_does_not_exist_is_a_failed_start() -> None:
    settings = Settings(broker="memory://here")
    async with asyncio.timeout(WITHIN_S), open_pool(settings, command=("/nowhere",)) as pool:
        with pytest.raises(InvocationFailed, match=r"can't start: .*No such file or directory: '/nowhere'"):
            await pool.take()


async def test_a_worker_that_is_not_ready_in_time_is_killed() -> None:
    process = await start_group(sys.executable, "-S", "-c", "import time; time.sleep(600)", env={})
    async with asyncio.timeout(WITHIN_S):
        assert await Worker("slow", process, lambda: None).run(ready_s=0.0) == "was not ready within 0 s"
    assert process.returncode == -9


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("os._exit(3)", "ended with code 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by signal SIGSEGV (11)"),
        ("write('hello')", "wrote something that is no report"),
        ("write('{}')", "wrote something that is no report"),
        ("write('x' * (1 << 21))", "wrote something that is no report"),
        ("os.write(1, b'\\xff\\n'); time.sleep(600)", "wrote something that is no report"),
        ("sys.stdout.close(); os.close(1); time.sleep(600)", "closed its output"),
    ],
)
async def test_the_tasks_of_a_worker_that_ended_fail_with_its_end(end: str, reason: str) -> None:
    async with pool_of(f"{READY}{READ}{end}\ntime.sleep(600)") as pool:
        assert await failure_of(pool) == f"the worker process {reason}"
        assert (await pool.take()).name == "worker-2"


async def test_a_worker_that_is_silent_is_replaced_and_its_tasks_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is frozen: without this its client would cost the round all of its time."""
    async with pool_of(f"{READY}{READ}report('training'); os.kill(os.getpid(), signal.SIGSTOP)") as pool:
        worker = await pool.take()
        reports = worker.send(TASK, 1)
        assert (await reports.get()).state == "training"
        monkeypatch.setattr("bridges.local.worker.BEAT_S", 0.0)
        assert (await reports.get()).reason == "the worker process was silent for 0 s"
        assert (await pool.take()).name == "worker-2"


async def test_a_worker_that_shows_that_it_lives_is_not_replaced() -> None:
    async with pool_of(f"{READY}{READ}write('{{\"state\": \"ready\"}}'); report('done'); sys.stdin.read()") as pool:
        assert (await (await pool.take()).send(TASK, 1).get()).state == "done"


async def test_a_first_line_that_is_no_report_is_a_failed_start() -> None:
    async with pool_of("print('welcome', flush=True); input()") as pool:
        with pytest.raises(InvocationFailed, match=r"can't start: it wrote something that is no report$"):
            await pool.take()


def forking(file: Path, *, leaves: bool = False) -> str:
    """A worker that has started a child, which holds its pipes. The child's id is in the file."""
    return f"""{READY}
child = os.fork()
if not child:
    if {leaves}: os.setsid()
    time.sleep(600)
with open({str(file)!r}, "w") as file:
    file.write(f"{{child}}\\n")
"""


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_worker_that_ended_is_replaced_though_another_process_holds_its_pipes(
    tmp_path: Path, *, leaves: bool
) -> None:
    async with pool_of(f"{forking(tmp_path / 'pid', leaves=leaves)}{READ}os._exit(3)") as pool:
        child = await pid_in(tmp_path / "pid")
        assert await failure_of(pool) == "the worker process ended with code 3"
        assert (await pool.take()).name == "worker-2"
        if leaves:
            os.kill(child, signal.SIGKILL)
        await soon(lambda: not is_running(child))


async def test_a_worker_is_replaced_together_with_its_children(tmp_path: Path) -> None:
    async with pool_of(f"{forking(tmp_path / 'pid')}time.sleep(600)") as pool:
        worker = await pool.take()
        child = await pid_in(tmp_path / "pid")
        pool.give_up(worker, (TASK.id, 1))
        await worker.process.wait()
        await soon(lambda: not is_running(child))


async def test_nothing_is_left_running_at_the_end(tmp_path: Path) -> None:
    async with pool_of(f"{forking(tmp_path / 'pid')}sys.stdin.read()") as pool:
        worker = await pool.take()
        child = await pid_in(tmp_path / "pid")
    assert worker.process.returncode == 0
    await soon(lambda: not is_running(child))
