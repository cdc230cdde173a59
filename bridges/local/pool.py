"""Warm worker processes on this machine, one torch thread each."""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from bridges import environment
from bridges.errors import InvocationFailed
from bridges.local.settings import Settings
from broker.messages import codec
from broker.messages.invocation import InvocationRequest, Report
from broker.messages.round import RoundTask
from broker.support import processes
from broker.support.tasks import task_group

log = structlog.get_logger(__name__)

GOODBYE_S: Final = 0.5
"""How long a worker may take to end before it is killed. One that trains ends at once; one that imports torch can't."""

_LINE_BYTES: Final = 1 << 20


@dataclass
class Worker:
    """One process.

    Attributes:
        name: for people, and the start of its activations' ids.
        process: running, or ended and about to be replaced by another worker's.
        reports: for each of its tasks, what it says of it.
        count: tasks that it got.
    """

    name: str
    process: Process
    reports: dict[str, asyncio.Queue[Report]] = field(default_factory=dict)
    count: int = 0

    def send(self, task: RoundTask, attempt: int) -> asyncio.Queue[Report]:
        """Give it a task; what it says of it comes through the queue."""
        if self.process.stdin is None:
            raise InvocationFailed(f"{self.name} has no input")
        self.count += 1
        queue = self.reports[task.id] = asyncio.Queue()
        self.process.stdin.write(codec.encode(InvocationRequest(task, attempt)) + b"\n")
        return queue


class Pool:
    """Workers, each busy or idle. Use it as `async with started(settings) as pool`.

    Args:
        settings: what the workers are told.
    """

    def __init__(self, settings: Settings) -> None:
        self._environment = environment.of_worker(settings.broker, settings.device)
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._names = itertools.count(1)

    async def take(self) -> Worker:
        """The next idle worker; nobody else gets it until it is put back."""
        while True:
            worker = await self._idle.get()
            if worker.process.returncode is None:
                return worker

    def put_back(self, worker: Worker) -> None:
        """Let a worker have the next task; one that has ended is replaced anyway."""
        self._idle.put_nowait(worker)

    def replace(self, worker: Worker) -> None:
        """Kill a worker that trains for nobody; another takes its place."""
        if worker.process.returncode is None:
            log.info("worker is killed: its task was given up", worker=worker.name)
            worker.process.kill()

    async def keep_one_running(self) -> None:
        """Start a worker, and another whenever it has ended; until cancelled."""
        while True:
            worker = Worker(f"worker-{next(self._names)}", await self._start())
            self.put_back(worker)
            try:
                await _listen(worker)
            finally:
                code = await _end(worker.process)
            log.warning("worker ended; starting another", worker=worker.name, exit_code=code)
            _tell_all(worker, f"the worker process ended with code {code}")

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "client_fn.handlers.local",
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, **self._environment},
            limit=_LINE_BYTES,
            start_new_session=True,  # a terminal's Ctrl-C is for us; we end our workers ourselves
            preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
        )


@contextlib.asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Pool]:
    """Warm workers until the end of the block, as many as the settings say."""
    pool = Pool(settings)
    async with task_group() as group:
        workers = range(settings.workers)
        keepers = [group.create_task(pool.keep_one_running(), name=f"worker {i}") for i in workers]
        yield pool
        for keeper in keepers:
            keeper.cancel()


async def _listen(worker: Worker) -> None:
    """Hand a worker's reports to whoever waits for them, until its output ends."""
    if worker.process.stdout is None:
        return
    async for line in worker.process.stdout:
        report = codec.decode(Report, line)
        if report.id in worker.reports:
            worker.reports[report.id].put_nowait(report)


def _tell_all(worker: Worker, reason: str) -> None:
    for task_id, queue in worker.reports.items():
        queue.put_nowait(Report(task_id, "failed", reason=reason))


async def _end(process: Process) -> int | None:
    """End a process by its own pid: its input is closed; if that is not enough, it is killed."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(GOODBYE_S):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()
