"""A warm instance of the function on a FaaS platform, for handlers that are plain functions.

Platforms call a handler from any of several threads, and freeze its process between two calls. So an instance has an
event loop in a thread of its own, which holds what is worth keeping: the connection, the model, the data.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from broker.messages.errors import DecodeError
from broker.messages.invocation import InvocationRequest, Report, RequestName
from broker.support.tasks import task_group
from client_fn.errors import InstanceEnded, LeaseOver
from client_fn.runtime import settings
from client_fn.runtime.connection import LazyConnection
from client_fn.runtime.executor import ExecutionResult, TaskExecutor
from client_fn.runtime.failure import failed, unreadable
from client_fn.runtime.settings import Settings

GRACE_S: Final = 10.0
"""After its deadline a training ends within a batch, and its report is on its way for a while."""

START_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Running:
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    orders: TaskExecutor
    stop: asyncio.Event


class Instance:
    """One for each process; as long as it is not closed, everything warm stays.

    Making one starts nothing: a server may fork before the first request comes.

    Args:
        settings: where the broker is, and whose function this is.
        clock: seconds since the epoch.

    Attributes:
        settings: as given.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._clock = clock
        self._starting = threading.Lock()
        self._running: _Running | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, request: InvocationRequest, *, activation: str = "") -> Report:
        """Train, publish the update to the broker, and retain a report there when training begins and at the end.

        Returns by the task's deadline, or little later; may be called from any thread. A failure is returned as a
        report that says `failed`, and never raised: platforms shall see an ordinary answer, not a crash. If the broker
        is out of reach, what is returned is the only report that there is. A copy of a request that is done, or being
        done, here or elsewhere gets the same answer without another training.

        Args:
            request: what to do.
            activation: the platform's id of this run.
        """
        return self.answer(request, activation=activation).report

    def answer(
        self, request: InvocationRequest, given: Mapping[str, bytes] | None = None, *, activation: str = ""
    ) -> ExecutionResult:
        """As `run`; with blobs, for a function without a route to the broker, what it would publish is returned too.

        Args:
            request: what to do.
            given: the model and the state that the task starts from, by topic; None: the broker has them.
            activation: the platform's id of this run.
        """
        running = self._started()
        work = running.orders.answer(request, activation, given)
        future = asyncio.run_coroutine_threadsafe(work, running.loop)
        left_s = max(0.0, request.task.deadline_s - self._clock()) + GRACE_S
        try:
            return future.result(min(left_s, threading.TIMEOUT_MAX))
        except concurrent.futures.CancelledError:
            return ExecutionResult(failed(request, InstanceEnded("the instance was stopped"), activation), {})
        except TimeoutError:
            future.cancel()
            return ExecutionResult(failed(request, LeaseOver(request.task.id, request.task.deadline_s), activation), {})

    def refuse(self, request: RequestName, exc: DecodeError, *, activation: str = "") -> Report:
        """Report the failure of a request that can't be read, to the broker too, so that its round does not wait.

        Args:
            request: what can be read of it.
            exc: what is wrong with it.
            activation: the platform's id of this run.
        """
        report, running = unreadable(request, exc, activation), self._started()
        telling = running.orders.refuse(request.task, report)
        with contextlib.suppress(TimeoutError, concurrent.futures.CancelledError):
            asyncio.run_coroutine_threadsafe(telling, running.loop).result(GRACE_S)
        return report

    def close(self) -> None:
        """Give up what is under way, and end; the next request would start everything anew."""
        with self._starting:
            if self._running is not None and self._running.thread.is_alive():
                self._running.loop.call_soon_threadsafe(self._running.stop.set)
                self._running.thread.join()
            self._running = None

    def _started(self) -> _Running:
        with self._starting:
            if self._running is None or not self._running.thread.is_alive():
                self._running = _start(self.settings, self._clock)
            return self._running


@functools.cache
def of_this_process() -> Instance:
    """The instance that this process's environment describes.

    Raises:
        BadSettings: it describes none.
    """
    return Instance(settings.read(os.environ))


_Begun = tuple[asyncio.AbstractEventLoop, TaskExecutor, asyncio.Event]


def _start(how: Settings, clock: Callable[[], float]) -> _Running:
    begun: concurrent.futures.Future[_Begun] = concurrent.futures.Future()
    # A daemon: a training must not keep a process alive that its platform wants to end.
    thread = threading.Thread(target=lambda: asyncio.run(_serve(how, clock, begun)), name="instance", daemon=True)
    thread.start()
    return _Running(thread, *begun.result(START_S))


async def _serve(how: Settings, clock: Callable[[], float], begun: "concurrent.futures.Future[_Begun]") -> None:
    stop = asyncio.Event()
    async with _orders(how, clock) as orders:
        begun.set_result((asyncio.get_running_loop(), orders, stop))
        await stop.wait()


@contextlib.asynccontextmanager
async def _orders(how: Settings, clock: Callable[[], float]) -> AsyncIterator[TaskExecutor]:
    async with task_group() as group:
        connection = LazyConnection(how.url, f"function-{how.client or os.getpid()}", group)
        orders = TaskExecutor(how.client, connection, group, clock)
        yield orders
        orders.stop()
        connection.close()
