"""The `local` platform: warm worker processes on this machine, one torch thread each.

A worker gets its next task as soon as it has trained, while it still publishes the last one's update.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from bridges.errors import InvocationFailed
from bridges.platform import Activation
from broker.messages import codec
from broker.messages.invocation import Order, Report
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
        self.process.stdin.write(codec.encode(Order(task, attempt)) + b"\n")
        return queue


class LocalPlatform:
    """A pool of workers. Use it as `async with pool(...) as platform`.

    Attributes:
        name: the level of the task topics.
        concurrency: tasks held at once: one in training for each worker, and one that is next.
    """

    def __init__(self, url: str, workers: int, name: str, device: str) -> None:
        self.name = name
        self.concurrency = 2 * workers
        self._told = {"FEDKEEPER_URL": url, "FEDKEEPER_DEVICE": device, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._names = itertools.count(1)

    async def invoke(self, task: RoundTask, attempt: int) -> AsyncGenerator[Activation, None]:
        """Have an idle worker train and publish; see `bridges.platform.Platform`."""
        worker = await self._idle_worker()
        reports = worker.send(task, attempt)
        activation = f"{worker.name}-{worker.count}"
        busy = True
        try:
            while True:
                report = await reports.get()
                match report.state:
                    case "training":
                        yield Activation(activation, "running", report.cold)
                    case "trained":
                        busy = self._is_idle_again(worker)
                    case "done":
                        yield Activation(activation, "succeeded")
                        return
                    case _:
                        raise InvocationFailed(report.reason, retryable=report.retryable, activation=activation)
        finally:
            del worker.reports[task.id]
            if busy:
                self._release(worker, given_up=sys.exc_info()[0] in (GeneratorExit, asyncio.CancelledError))

    async def _idle_worker(self) -> Worker:
        while True:
            worker = await self._idle.get()
            if worker.process.returncode is None:
                return worker

    def _is_idle_again(self, worker: Worker) -> bool:
        self._idle.put_nowait(worker)
        return False

    def _release(self, worker: Worker, *, given_up: bool) -> None:
        """After a failure the worker is fit for the next task; one that is still training for nobody is replaced."""
        if given_up and worker.process.returncode is None:
            log.info("worker is killed: its task was given up", worker=worker.name)
            worker.process.kill()
        else:
            self._idle.put_nowait(worker)

    async def _keep_one_running(self) -> None:
        """Start a worker, and another whenever it has ended."""
        while True:
            worker = Worker(f"worker-{next(self._names)}", await self._start())
            self._idle.put_nowait(worker)
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
            env={**os.environ, **self._told},
            limit=_LINE_BYTES,
            start_new_session=True,  # a terminal's Ctrl-C is for us; we end our workers ourselves
            preexec_fn=processes.dying_with_us(signal.SIGKILL),
        )


@contextlib.asynccontextmanager
async def pool(url: str, *, workers: int, name: str = "local", device: str = "cpu") -> AsyncIterator[LocalPlatform]:
    """Warm workers until the end.

    Args:
        url: of the broker that the workers fetch models from and publish updates to.
        workers: how many processes.
        name: of the platform, if it is to be another than `local`.
        device: what they train on, as torch names it.
    """
    platform = LocalPlatform(url, workers, name, device)
    async with task_group() as group:
        keepers = [group.create_task(platform._keep_one_running(), name=f"worker {i}") for i in range(workers)]
        yield platform
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
