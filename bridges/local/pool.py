"""Warm worker processes on this machine, one torch thread each."""

import asyncio
import contextlib
import functools
import itertools
import os
import random
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from bridges import environment
from bridges.errors import PlatformFailed, SiteFault
from bridges.local.settings import Settings
from bridges.local.worker import LINE_BYTES, READY_S, Request, Worker
from broker.messages.invocation import WorkerReady
from broker.support import backoff, forks, loggers, logs, processes
from broker.support.forks import Copy, ForkServer, NoCopy
from broker.support.processes import Group
from broker.support.tasks import task_group

log = loggers.get_logger(__name__)

COMMAND: Final = (sys.executable, "-P", "-m", "client_fn.handlers.local")
"""Starts a worker. -P: a file in the current folder must not take the name of one of our packages."""

FAILED_STARTS: Final = 3
"""After so many failed starts in a row, tasks no longer wait for that worker."""

START_FIRST_S: Final = 0.5
START_MOST_S: Final = 30.0


@contextlib.asynccontextmanager
async def open_pool(
    settings: Settings, *, command: Sequence[str] = COMMAND, uniform: Callable[[float, float], float] = random.uniform
) -> AsyncIterator["Pool"]:
    """Keep as many workers running as the settings say, until the end of the block.

    Args:
        settings: the platform's settings.
        command: starts a worker.
        uniform: draws the random delays before a worker that could not start is started again.
    """
    pool = Pool(settings, command=command, uniform=uniform)
    async with pool.forking(), task_group() as group:
        workers = range(settings.workers)
        keepers = [group.create_task(pool.keep_one_running(i), name=f"worker {i}") for i in workers]
        yield pool
        for keeper in keepers:
            keeper.cancel()


class Pool:
    """A pool of workers; the idle ones can take a task. Use it as `async with open_pool(settings) as pool`.

    Args:
        settings: the platform's settings.
        command: starts a worker.
        uniform: draws the random delays before a worker that could not start is started again.

    Attributes:
        ready: what the worker that became ready last has said of itself.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        command: Sequence[str] = COMMAND,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        ours = environment.for_worker(
            settings.broker, settings.device, settings.env, is_text=logs.is_text(), is_verbose=logs.is_verbose()
        )
        self._environment = {**os.environ, **ours}
        self._name = settings.name
        self._size = settings.workers
        self._together = settings.together
        self._command = command
        self._fork_server: ForkServer | None = None
        self._uniform = uniform
        self._idle: deque[Worker] = deque()
        self._ready: dict[int, Worker] = {}
        self._changed = asyncio.Event()
        self._faults: dict[int, str] = {}
        self._site_fault = ""
        self._is_ready = False
        self._numbers = itertools.count(1)
        self.ready = WorkerReady()

    @contextlib.asynccontextmanager
    async def forking(self) -> AsyncIterator[None]:
        """Make the workers of the block as copies of a process that has imported what they need, where that can be."""
        if self._command != COMMAND or not forks.are_possible():
            yield
            return
        async with forks.open_fork_server(*COMMAND, forks.ARGUMENT, env=self._environment) as self._fork_server:
            yield

    @property
    def fault(self) -> str:
        """Why no worker can start; empty if one runs, or may start."""
        return next(iter(self._faults.values())) if len(self._faults) == self._size else ""

    async def wait_until_ready(self) -> None:
        """Wait until a worker can take tasks.

        Raises:
            PlatformFailed: the site's settings let no task run, or no worker was ready in time.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                while not (self._is_ready or self._site_fault):
                    self._changed.clear()
                    await self._changed.wait()
        if not self._is_ready:
            reason = self._site_fault or self.fault or f"none was ready within {READY_S:g} s"
            raise PlatformFailed(self._name, "start a worker", reason)

    async def take(self) -> Worker:
        """Wait for an idle worker, and take it for a task. It stays idle while it may take more tasks at once.

        Raises:
            SiteFault: no worker can start.
        """
        while True:
            while self._idle:
                worker = self._idle.popleft()
                if worker.process.returncode is None and not worker.is_retired:
                    worker.taken += 1
                    if worker.taken < self._together:
                        self._idle.append(worker)  # at the end: all workers shall have as many tasks
                    return worker
            await self._wait_for_change()

    async def find(self) -> Worker:
        """Wait for a worker that is ready, and return it: an idle one if there is one. It stays in the pool.

        Raises:
            SiteFault: no worker can start.
        """
        while True:
            for worker in (*self._idle, *self._ready.values()):
                if worker.process.returncode is None:
                    return worker
            await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        if self.fault:
            raise SiteFault(f"worker can't start: {self.fault}")
        self._changed.clear()
        await self._changed.wait()

    def put_back(self, worker: Worker) -> None:
        """Make a worker idle again after a task, unless it is retired. It may have ended: `take` skips it then."""
        worker.taken = max(0, worker.taken - 1)
        if worker.is_retired:
            return
        if worker not in self._idle:
            self._idle.append(worker)
        self._changed.set()

    def end_if_retired(self, worker: Worker) -> None:
        """End a retired worker that works for no task; the one that `keep_one_running` starts tries the device."""
        if worker.is_retired and not worker.reports:
            worker.process.kill()

    def give_up(self, worker: Worker, request: Request) -> None:
        """Kill a worker whose task was given up; `keep_one_running` starts another one.

        If it trains or waits with other tasks, it goes on: it ends a training at its deadline. Until then the task that
        was given up keeps its place there.

        Args:
            worker: the worker, which has not trained the task.
            request: the task's id and the attempt's number.
        """
        if worker.taken - len(worker.given_up) > 1:
            worker.given_up[request] = functools.partial(self.put_back, worker)
        elif worker.process.returncode is None:
            log.info("worker is killed: its task was given up", worker=worker.name)
            worker.process.kill()

    async def keep_one_running(self, number: int) -> None:
        """Start a worker, and another one whenever it has ended, until cancelled.

        Args:
            number: number of the worker's place in the pool, from 0.
        """
        failures = 0
        while True:
            name = f"worker-{next(self._numbers)}"
            fault = await self._run_worker(name, number)
            if not fault:
                failures = 0
                continue
            delay_s = backoff.delay_s(failures, self._uniform, first_s=START_FIRST_S, most_s=START_MOST_S)
            failures += 1
            log.warning("worker can't start", worker=name, reason=fault, again_in_s=round(delay_s, 3))
            if failures >= FAILED_STARTS or self._site_fault:
                self._faults[number] = fault
                self._changed.set()
            await asyncio.sleep(delay_s)

    async def _run_worker(self, name: str, number: int) -> str:
        """Run a worker to its end. Returns why it could not start; empty if it was ready."""

        def add() -> None:
            self._faults.pop(number, None)
            self._ready[number] = worker
            self._site_fault, self._is_ready, self.ready = "", True, worker.ready
            self.put_back(worker)

        try:
            process = await self._start()
        except OSError as exc:
            return str(exc)
        worker = Worker(name, process, add)
        end = await worker.run()
        if worker.site_fault:
            self._site_fault = worker.site_fault
            return worker.site_fault
        if not worker.is_ready:
            return ": ".join(filter(None, (f"it {end}", worker.last_log_line())))
        log.warning("worker ended; starting another", worker=name, reason=end)
        worker.fail(f"the worker process {end}")
        return ""

    async def _start(self) -> Group | Copy:
        """Start a worker's process.

        Raises:
            OSError: it can't be started.
        """
        if self._fork_server is not None:
            try:
                return await self._fork_server.fork(LINE_BYTES)
            except NoCopy as exc:
                # One that is started by itself then says what is wrong.
                log.debug("a worker is started as a new process", reason=str(exc))
        return await processes.start_group(*self._command, env=self._environment, limit=LINE_BYTES)
