"""A warm instance of the function on a FaaS platform, for handlers that are plain functions.

Platforms call a handler from several threads, and freeze its process between two calls. So an instance runs an event
loop in its own thread, which keeps the broker connection, the model and the data.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from broker.messages.errors import DecodeError
from broker.messages.invocation import InvocationRequest, Report, RequestName
from broker.support import loggers
from broker.support.tasks import task_group
from client_fn.data.shard_cache import ShardCache
from client_fn.errors import ClientError, InstanceEnded, LeaseOver
from client_fn.function import WarmState
from client_fn.lease import Lease
from client_fn.runtime import settings
from client_fn.runtime.connection import LazyConnection
from client_fn.runtime.executor import ExecutionResult, TaskExecutor
from client_fn.runtime.failure import failure_report, unreadable_report
from client_fn.runtime.settings import Settings
from client_fn.site import packaged_code
from client_fn.trainer.process import START_S
from client_fn.trainer.trainers import Trainers, open_trainers

log = loggers.get_logger(__name__)

GRACE_S: Final = 10.0
"""After the deadline a training needs up to a batch to stop, and its report needs some time to be published."""

THREAD_START_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class _LoopThread:
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    executor: TaskExecutor
    trainers: Trainers
    stop: asyncio.Event


class Instance:
    """An instance of the function. A process has one, and its warm state lasts until it is closed.

    The constructor starts no thread, because a server may fork before the first request.

    Args:
        settings: the broker's address, the client and the key.
        clock: returns seconds since the epoch.

    Attributes:
        settings: as given.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._clock = clock
        self._start_lock = threading.Lock()
        self._running: _LoopThread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, request: InvocationRequest, *, activation: str = "") -> Report:
        """Train, publish the update to the broker, and retain a report there when training begins and ends.

        Returns by the task's deadline plus a short grace. Thread-safe. A failure is returned as a `failed` report and
        never raised, because a platform must see a normal response and not a crash. If the broker is out of reach, the
        returned report is the only one. A copy of a request that is running or done, here or in another instance, gets
        the same report without a second training.

        Args:
            request: the task and the attempt.
            activation: the platform's id of this run.
        """
        return self.execute(request, activation=activation).report

    def execute(
        self, request: InvocationRequest, inputs: Mapping[str, bytes] | None = None, *, activation: str = ""
    ) -> ExecutionResult:
        """Do the same as `run`, with or without a broker, and return the report and the outputs.

        Args:
            request: the task and the attempt.
            inputs: the model and the optimizer state, by topic; nothing is published then, and the result holds the
                outputs. None: read from the broker and publish to it.
            activation: the platform's id of this run.
        """
        running = self._ensure_running()
        execution = running.executor.execute(request, activation, inputs)
        future = asyncio.run_coroutine_threadsafe(execution, running.loop)
        left_s = Lease(request.task, self._clock).left_s + GRACE_S
        try:
            return future.result(min(left_s, threading.TIMEOUT_MAX))
        except concurrent.futures.CancelledError:
            error: Exception = InstanceEnded("the instance was stopped")
        except TimeoutError:
            future.cancel()
            error = LeaseOver(request.task.id, request.task.deadline_s)
        return ExecutionResult(failure_report(request, error, activation, reveal=False), {})

    def refuse(self, request: RequestName, exc: DecodeError, *, activation: str = "") -> Report:
        """Report that a request can't be decoded, to the broker too, so that its round does not wait for it.

        Args:
            request: the readable part of the request.
            exc: why decoding failed.
            activation: the platform's id of this run.
        """
        report, running = unreadable_report(request, exc, activation), self._ensure_running()
        publication = running.executor.publish_report(request.task, report)
        with contextlib.suppress(TimeoutError, concurrent.futures.CancelledError):
            asyncio.run_coroutine_threadsafe(publication, running.loop).result(GRACE_S)
        return report

    def warm_up(self) -> None:
        """Start the trainer and wait until it has imported torch, so that the first request does not wait for it.

        Not for a server that forks after this call. A failure is logged; each request will say what it is.
        """
        running = self._ensure_running()
        try:
            asyncio.run_coroutine_threadsafe(running.trainers.warm(), running.loop).result(START_S)
        except (ClientError, TimeoutError) as exc:
            log.error("the trainer can't start", error=str(exc))  # noqa: TRY400 (a traceback would tell no more)

    def close(self) -> None:
        """Cancel all running requests and stop the thread. The next request would start it again."""
        with self._start_lock:
            if self._running is not None and self._running.thread.is_alive():
                self._running.loop.call_soon_threadsafe(self._running.stop.set)
                self._running.thread.join()
            self._running = None

    def _ensure_running(self) -> _LoopThread:
        with self._start_lock:
            if self._running is None or not self._running.thread.is_alive():
                started: concurrent.futures.Future[_Started] = concurrent.futures.Future()
                main = _serve(self.settings, self._clock, started)
                # A daemon thread: a training must not keep alive a process that its platform wants to end.
                thread = threading.Thread(target=asyncio.run, args=(main,), name="instance", daemon=True)
                thread.start()
                self._running = _LoopThread(thread, *started.result(THREAD_START_S))
            return self._running


@functools.cache
def of_this_process() -> Instance:
    """Return this process's instance, with the settings of its environment.

    Raises:
        BadSettings: the environment can't be used.
    """
    return Instance(settings.read(os.environ, packaged_code()))


_Started = tuple[asyncio.AbstractEventLoop, TaskExecutor, Trainers, asyncio.Event]


async def _serve(
    settings: Settings, clock: Callable[[], float], started: "concurrent.futures.Future[_Started]"
) -> None:
    """Run an executor until its stop event is set."""
    stop = asyncio.Event()
    async with open_trainers(settings.site) as trainers, task_group() as group:
        warm = WarmState(trainers, settings.site, ShardCache(settings.site))
        connection = LazyConnection(settings.url, f"function-{settings.client or os.getpid()}", group)
        executor = TaskExecutor(settings.client, connection, group, warm, clock)
        started.set_result((asyncio.get_running_loop(), executor, trainers, stop))
        await stop.wait()
        executor.stop()
        connection.close()
