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
"""How long a worker may take to end before it is killed. While it imports torch, it can't end by itself. Seconds."""

_LINE_BYTES: Final = 1 << 20


@contextlib.asynccontextmanager
async def open_pool(settings: Settings) -> AsyncIterator["Pool"]:
    """Keep as many workers running as the settings say, until the end of the block."""
    pool = Pool(settings)
    async with task_group() as group:
        workers = range(settings.workers)
        keepers = [group.create_task(pool.keep_one_running(), name=f"worker {i}") for i in workers]
        yield pool
        for keeper in keepers:
            keeper.cancel()


class Pool:
    """A pool of workers, each busy or idle. Use it as `async with open_pool(settings) as pool`.

    Args:
        settings: the platform's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._environment = environment.for_worker(settings.broker, settings.device)
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._numbers = itertools.count(1)

    async def take(self) -> "Worker":
        """Wait for an idle worker, and take it out of the pool."""
        while True:
            worker = await self._idle.get()
            if worker.process.returncode is None:
                return worker

    def put_back(self, worker: "Worker") -> None:
        """Make a worker idle again. It may have ended: `take` skips it then."""
        self._idle.put_nowait(worker)

    def replace(self, worker: "Worker") -> None:
        """Kill a worker whose task was given up; `keep_one_running` starts another one."""
        if worker.process.returncode is None:
            log.info("worker is killed: its task was given up", worker=worker.name)
            worker.process.kill()

    async def keep_one_running(self) -> None:
        """Start a worker, and another one whenever it has ended, until cancelled."""
        while True:
            worker = Worker(f"worker-{next(self._numbers)}", await self._start())
            self.put_back(worker)
            try:
                await worker.receive()
            finally:
                code = await worker.end()
            log.warning("worker ended; starting another", worker=worker.name, exit_code=code)
            for task_id, queue in worker.reports.items():
                queue.put_nowait(Report(task_id, "failed", reason=f"the worker process ended with code {code}"))

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "client_fn.handlers.local",
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, **self._environment},
            limit=_LINE_BYTES,
            start_new_session=True,  # Ctrl-C in a terminal must not reach the workers: the bridge ends them
            preexec_fn=processes.signal_on_parent_death(signal.SIGKILL),
        )


@dataclass
class Worker:
    """A worker process.

    Attributes:
        name: name of the worker; the ids of its activations begin with it.
        process: the process; it may have ended.
        reports: the queue of each task's reports, by the task's id.
        count: number of tasks that the worker got so far.
    """

    name: str
    process: Process
    reports: dict[str, asyncio.Queue[Report]] = field(default_factory=dict)
    count: int = 0

    def send(self, task: RoundTask, attempt: int) -> asyncio.Queue[Report]:
        """Send a task to the worker.

        Args:
            task: the task to run.
            attempt: number of the attempt, from 1.

        Returns:
            The queue of the task's reports.

        Raises:
            InvocationFailed: the process has no input.
        """
        if self.process.stdin is None:
            raise InvocationFailed(f"{self.name} has no input")
        self.count += 1
        queue = self.reports[task.id] = asyncio.Queue()
        self.process.stdin.write(codec.encode(InvocationRequest(task, attempt)) + b"\n")
        return queue

    async def receive(self) -> None:
        """Put each report into the queue of its task, until the worker's output ends."""
        if self.process.stdout is None:
            return
        async for line in self.process.stdout:
            report = codec.decode(Report, line)
            if report.id in self.reports:
                self.reports[report.id].put_nowait(report)

    async def end(self) -> int | None:
        """Close the worker's input, which ends it, and kill it if it takes too long. Returns the exit code."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            async with asyncio.timeout(GOODBYE_S):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()
